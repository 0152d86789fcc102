"""Secrets of configs over HTTP: taken in, shown as marks, and in no answer, event or row."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inventory.authority import Authority
from inventory.db import Database
from inventory.vault import PUBLIC_FILE
from tests.web.site_under_test import Site, running, until, vaulted

PLAIN = "hunter2-over-http"
BODY = {"name": "app", "selector": "", "secrets": {"password": PLAIN}, "files": [{"path": "/etc/x", "template": "{{ secrets.password }}"}]}
MARK = {"set": True}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets of an installation."""
    found = tmp_path_factory.mktemp("web") / "secrets"
    Authority(found).bootstrap()
    return found


@pytest.fixture
def keeping(web_url: str, directory: Path) -> Iterator[Site]:
    """A site that takes secrets in."""
    asyncio.run(vaulted(web_url, directory))
    with running(web_url, secrets=directory) as found:
        yield found


async def every_text(database: str) -> str:
    db = await Database.open(database, application="test-grep", pool_size=1)
    async with db.acquire() as connection:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [row for table in tables for row in await connection.fetch(f'SELECT t::text FROM "{table[0]}" t')]
    await db.close()
    return "\n".join(row[0] for row in rows)


def test_no_answer_holds_it(keeping: Site) -> None:
    """Made twice under one key, read, listed, patched, explained, its history and events: the mark alone, and nothing in the database."""
    with keeping.client() as client:
        made = [client.post("/api/v1/configs", json=BODY, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert made[0].status_code == 201 and made[0].text == made[1].text
        other = BODY | {"secrets": {"password": "another"}}
        assert client.post("/api/v1/configs", json=other, headers={"Idempotency-Key": "k"}).status_code == 422
        asked = [client.get(f"/api/v1/configs{path}") for path in ("", "/app", "/app/explain")]
        asked += [client.patch("/api/v1/configs/app", json={"secrets": {"password": PLAIN, "more": PLAIN[::-1]}})]
        asked += [client.post("/api/v1/configs?dry_run=true", json=BODY | {"name": "b"})]
        until(lambda: client.get("/api/v1/configs/app/changes").json()["items"][1:])
        asked += [client.get("/api/v1/configs/app/changes"), client.get("/api/v1/events?after=0"), client.get("/api/v1/audit")]
        assert {answer.status_code for answer in asked} == {200}
        assert asked[1].json()["secrets"]["password"] == MARK | {"changed_at": asked[1].json()["updated_at"]}
        assert asked[5].json()["items"][0]["changed"] == ["generation", "secrets.more"]
    for text in (*(answer.text for answer in (*made, *asked)), asyncio.run(every_text(keeping.database))):
        assert PLAIN not in text and PLAIN[::-1] not in text


def test_viewers_see_marks_and_set_none(keeping: Site) -> None:
    """As of everything else."""
    with keeping.client("operator") as operator, keeping.client("viewer") as viewer:
        assert operator.post("/api/v1/configs", json=BODY).status_code == 201
        assert viewer.get("/api/v1/configs/app").json()["secrets"]["password"]["set"] is True
        assert viewer.patch("/api/v1/configs/app", json={"secrets": {"password": "x"}}).status_code == 403


def test_a_process_that_can_not_seal_says_what_it_needs(web_url: str, tmp_path: Path, directory: Path) -> None:
    """503 naming the file, for a secret alone; configs without go on."""
    (tmp_path / "session.key").write_bytes((directory / "session.key").read_bytes())
    with running(web_url, secrets=tmp_path) as site, site.client() as client:
        refused = client.post("/api/v1/configs", json=BODY)
        assert refused.status_code == 503 and "secrets can't be kept" in refused.json()["detail"]
        assert client.post("/api/v1/configs", json={"name": "plain", "selector": ""}).status_code == 201
    assert not (tmp_path / PUBLIC_FILE).exists()


def test_the_document_says_that_it_is_written_only(client: httpx.Client) -> None:
    """A generated form shows a password's input."""
    schemas = client.get("/api/v1/openapi.json").json()["components"]["schemas"]
    secrets = schemas["ConfigCreate"]["properties"]["secrets"]
    [(pattern, value)] = secrets["patternProperties"].items()
    text, mark = value["anyOf"]
    assert (pattern, secrets["additionalProperties"], secrets["maxProperties"]) == ("^[A-Za-z][A-Za-z0-9_]{0,63}$", False, 64)
    assert (text["writeOnly"], text["format"]) == (True, "password") and mark["$ref"].endswith("/SecretMark")
    assert schemas["SecretMark"]["required"] == ["set"]

"""The audit over HTTP: who did what from where, for administrators alone; sign-ins among it, secrets not."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from inventory import seals
from inventory.authority import utcnow
from inventory.db import Database
from inventory.heads import Witness
from inventory.seals import Head, Sealer
from inventory.store import Store
from tests.web.site_under_test import Site, until
from tests.web.test_openapi_document import _errors as errors

AT = "/api/v1/audit"


def entries(client: httpx.Client, **query: str) -> list[Any]:
    answer = client.get(AT, params=query)
    assert answer.status_code == 200, answer.text
    assert errors("AuditPage", answer.json()) == []
    return list(answer.json()["items"])


@pytest.mark.parametrize("role", ["viewer", "operator", None])
def test_it_is_for_administrators(site: Site, role: str | None) -> None:
    """It tells of accounts and addresses, which is nobody else's business."""
    with site.client(role) as client:
        for path in (AT, f"{AT}/export", f"{AT}/head"):
            assert client.get(path).status_code == (401 if role is None else 403)


def test_a_write_is_told_with_before_and_after(client: httpx.Client) -> None:
    """What a person did to a resource, found by its path and by its id."""
    host = client.post("/api/v1/hosts", json={"name": "press", "labels": {"line": "3"}}).json()
    client.patch("/api/v1/hosts/press", json={"labels": {"line": "4"}, "desired_state": "onboarded"})
    [entry] = until(lambda: entries(client, path="labels.line"))
    assert "desired_state" in entry["changed"]
    for half, line, state in (("before", "3", "registered"), ("after", "4", "onboarded")):
        assert (entry[half]["labels"], entry[half]["desired_state"]) == ({"line": line}, state)
        assert "name" not in entry[half], "what did not change is not told"
    assert [each["op"] for each in entries(client, id=host["id"])] == ["updated", "created"]


def test_an_export_is_a_line_an_entry(client: httpx.Client) -> None:
    """Oldest first, the whole of the audit, each line of the schema; the same filters."""
    for name in ("north", "south"):
        client.post("/api/v1/regions", json={"name": name})
    until(lambda: len(entries(client, kind="region")) == 2)
    answer = client.get(f"{AT}/export")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["position"] for line in lines] == list(range(1, len(lines) + 1))
    assert [error for line in lines for error in errors("AuditEntry", line)] == []
    only = client.get(f"{AT}/export", params={"kind": "region", "after": str(lines[-2]["position"])}).text
    assert [json.loads(line)["after"]["name"] for line in only.splitlines()] == ["south"]


WRONG = {"kind=nothing": "kind", "type=robot": "type", "since=yesterday": "since", "limit=0": "limit", "page=2": "page"}


@pytest.mark.parametrize(("query", "where"), WRONG.items())
def test_a_wrong_question_says_what_is_wrong(client: httpx.Client, query: str, where: str) -> None:
    """400, with the parameter."""
    answer = client.get(f"{AT}?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == where


def test_the_head_is_given_signed(site: Site, client: httpx.Client) -> None:
    """404 until one is signed; then what the witness has signed, which its key confirms."""
    assert client.get(f"{AT}/head").status_code == 404
    sealer = Sealer(bytes(32))

    async def sign() -> Head | None:
        db = await Database.open(site.database, application="test-witness", pool_size=1)
        try:
            return await Witness(Store(db), sealer).step(utcnow())
        finally:
            await db.close()

    client.post("/api/v1/regions", json={"name": "north"})
    signed = until(lambda: asyncio.run(sign()))
    answer = client.get(f"{AT}/head")
    assert errors("ChainHead", answer.json()) == []
    assert Head.from_json(answer.json()) == signed
    assert seals.stands(sealer.public, signed.signed(), signed.signature)

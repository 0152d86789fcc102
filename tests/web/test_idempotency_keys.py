"""Idempotency keys: one write and one answer, however often and however simultaneously a request is sent."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx

from inventory.db import Database
from tests.waiting import patience
from tests.web.site_under_test import Site, running

KEY = {"Idempotency-Key": "5f1c0a0e"}


async def test_parallel_requests_under_one_key_write_once(site: Site) -> None:
    """Twenty at the same time: one region, twenty equal answers."""
    async with site.async_client() as client:
        answers = await asyncio.gather(
            *(client.post("/api/v1/regions", json={"labels": {"a": "1"}, "name": "n"}, headers=KEY) for _ in range(20))
        )
        listed = (await client.get("/api/v1/regions")).json()["items"]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert [item["id"] for item in listed] == [answers[0].json()["id"]]
    assert {answer.headers["ETag"] for answer in answers} == {f'"{listed[0]["version"]}"'}


def test_another_body_under_the_same_key_is_refused(client: httpx.Client) -> None:
    """422 naming the header; another path counts as another request too."""
    assert client.post("/api/v1/regions", json={"name": "north"}, headers=KEY).status_code == 201
    for path, body in (("/api/v1/regions", {"name": "south"}), ("/api/v1/sites", {"name": "north"})):
        refused = client.post(path, json=body, headers=KEY)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "Idempotency-Key"
    assert client.get("/api/v1/regions/south").status_code == 404


def test_the_first_answer_is_repeated_even_when_the_resource_has_moved_on(client: httpx.Client) -> None:
    """What was answered is answered, also after a change and after its deletion."""
    first = client.post("/api/v1/regions", json={"name": "north"}, headers=KEY)
    client.patch("/api/v1/regions/north", json={"title": "North"})
    client.delete("/api/v1/regions/north")
    again = client.post("/api/v1/regions", json={"name": "north"}, headers=KEY)
    assert (again.status_code, again.json()) == (201, first.json())
    assert client.get("/api/v1/regions/north").status_code == 404


def test_a_refused_request_leaves_the_key_free(client: httpx.Client) -> None:
    """A wrong body can be put right under the same key."""
    assert client.post("/api/v1/regions", json={"name": "No"}, headers=KEY).status_code == 422
    assert client.post("/api/v1/regions", json={"name": "yes"}, headers=KEY).status_code == 201


def test_one_actors_key_is_nothing_to_another(site: Site) -> None:
    """The same key from two tokens makes two resources."""
    with site.client("admin") as admin, site.client("operator") as operator:
        assert admin.post("/api/v1/regions", json={"name": "a"}, headers=KEY).status_code == 201
        assert operator.post("/api/v1/regions", json={"name": "b"}, headers=KEY).status_code == 201


def test_a_dry_run_takes_no_key(client: httpx.Client) -> None:
    """It writes nothing, so there is nothing to repeat."""
    assert client.post("/api/v1/regions", json={"name": "a"}, headers=KEY, params={"dry_run": "true"}).status_code == 200
    assert client.post("/api/v1/regions", json={"name": "b"}, headers=KEY).status_code == 201


def test_retry_takes_a_key(client: httpx.Client) -> None:
    """A verb is done once too: the second answer is the first, version and all."""
    client.post("/api/v1/configs", json={"name": "motd", "selector": ""})
    first = client.post("/api/v1/configs/motd:retry", headers=KEY)
    assert first.status_code == 200
    assert client.post("/api/v1/configs/motd:retry", headers=KEY).json() == first.json()


async def test_a_repeated_token_creation_shows_the_same_secret_that_is_nowhere_stored(web_url: str) -> None:
    """Also after a restart of the process; the database holds its hash alone."""
    body = {"name": "line-4"}
    with running(web_url) as site, site.client() as client:
        first = client.post("/api/v1/enrollment-tokens", json=body, headers=KEY).json()
        assert client.post("/api/v1/enrollment-tokens", json=body, headers=KEY).json() == first
    db = await Database.open(web_url, application="test", pool_size=1)
    async with db.acquire() as connection:
        kept = await connection.fetchval("SELECT string_agg(t::text, '') FROM idempotency t")
        rows = await connection.fetchval("SELECT string_agg(t::text, '') FROM enrollment_token t")
    await db.close()
    assert first["token"] not in kept + rows


async def test_a_key_is_free_again_after_a_day(site: Site) -> None:
    """Twenty-four hours later the same key makes another resource, tokens included."""
    async with site.async_client() as client:
        first = (await client.post("/api/v1/enrollment-tokens", json={"name": "a"}, headers=KEY)).json()
        await client.delete("/api/v1/enrollment-tokens/a")
        db = await Database.open(site.database, application="test", pool_size=1)
        async with db.transaction() as tx:
            await tx.raw.execute("UPDATE idempotency SET expires_at = $1", datetime.now(UTC) - timedelta(seconds=1))
        await db.close()
        second = await client.post("/api/v1/enrollment-tokens", json={"name": "a"}, headers=KEY)
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]
    assert second.json()["token"] != first["token"]


async def test_a_crash_before_the_commit_leaves_neither_write_nor_answer(site: Site) -> None:
    """The connection of the first request is cut within its transaction; sent again, it is done, and done once."""
    db = await Database.open(site.database, application="test", pool_size=2)
    async with site.async_client() as client:
        async with db.transaction() as tx:
            await tx.raw.execute("LOCK TABLE region IN ACCESS EXCLUSIVE MODE")
            waiting = asyncio.create_task(client.post("/api/v1/regions", json={"name": "north"}, headers=KEY))
            async with patience(10):
                while not await _cut(db):
                    await asyncio.sleep(0.01)
        assert (await waiting).status_code == 503
        again = await client.post("/api/v1/regions", json={"name": "north"}, headers=KEY)
        assert again.status_code == 201
        assert len((await client.get("/api/v1/regions")).json()["items"]) == 1
    await db.close()


async def _cut(db: Database) -> int:
    async with db.acquire() as connection:
        rows = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'fleetward-web' AND wait_event_type = 'Lock' AND datname = current_database()"
        )
    return len(rows)

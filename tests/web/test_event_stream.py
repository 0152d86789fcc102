"""The event stream and the pages of the change log: nothing missed, nothing twice, over real sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from inventory import changes
from inventory.db import Database
from tests.waiting import Deadline, Stopwatch, patience
from tests.web.site_under_test import PASSWORD, Site, running, until
from web.serving import Address

Event = dict[str, str]


async def events_of(answer: httpx.Response) -> AsyncIterator[Event]:
    """The events of a stream (WHATWG HTML 9.2.6); those without data too, as `{"id": ...}`."""
    event: Event = {}
    async for line in answer.aiter_lines():
        if not line and event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, *, last: int | None = None, **params: Any) -> AsyncIterator[AsyncIterator[Event]]:
    """An open stream, past its greeting."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    async with client.stream("GET", "/api/v1/events/stream", params=params, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = events_of(answer)
        greeting = await anext(events)
        assert greeting.keys() == {"id", "retry"}
        yield events


async def next_change(events: AsyncIterator[Event]) -> dict[str, Any]:
    async with patience(10):
        async for event in events:
            if event.get("event") == "change":
                body: dict[str, Any] = json.loads(event["data"])
                assert int(event["id"]) == body["position"]
                return body
    raise AssertionError("the stream ended")


async def test_a_change_is_streamed_as_it_happens(site: Site) -> None:
    """From now on: what came before is not sent, what comes after is, in the shape of the contract."""
    async with site.async_client() as client:
        await client.post("/api/v1/regions", json={"name": "before"})
        await _settled(client)
        async with streaming(client) as events:
            await client.post("/api/v1/regions", json={"name": "after"})
            change = await next_change(events)
    assert change["resource"]["name"] == "after"
    assert (change["kind"], change["op"], change["host"]) == ("region", "created", None)
    assert change["actor"]["name"] == "admin"


async def test_a_head_of_a_stream_ends(site: Site) -> None:
    """It has the stream's headers, and no body that would never come to its end."""
    async with site.async_client() as client, patience(10):
        answer = await client.head("/api/v1/events/stream")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")


async def test_what_is_deleted_is_shown_as_it_was(site: Site) -> None:
    """The `resource` of a deletion is the one from before it, so that a reader knows what went."""
    async with site.async_client() as client:
        made = (await client.post("/api/v1/regions", json={"name": "north", "labels": {"a": "1"}})).json()
        await _settled(client)
        async with streaming(client) as events:
            await client.delete("/api/v1/regions/north")
            change = await next_change(events)
    assert (change["op"], change["id"]) == ("deleted", made["id"])
    assert change["resource"]["labels"] == {"a": "1"}
    assert change["version"] > made["version"]


async def _settled(client: httpx.AsyncClient) -> int:
    """The position when the relay has placed everything."""
    async with patience(10):
        while "fleetward_changes_waiting 0\n" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)
    position: int = (await client.get("/api/v1/regions")).json()["position"]
    return position


async def test_filters_choose_kinds_and_ids(site: Site) -> None:
    """`kind` and `id` may be there several times; what is not published is never streamed."""
    async with site.async_client() as client:
        first = (await client.post("/api/v1/regions", json={"name": "first"})).json()
        await _settled(client)
        async with streaming(client, kind=["site", "region"]) as chosen, streaming(client, id=first["id"]) as one:
            await client.post("/api/v1/enrollment-tokens", json={"name": "secret"})
            await client.post("/api/v1/configs", json={"name": "other", "selector": ""})
            await client.post("/api/v1/sites", json={"name": "plant"})
            await client.patch("/api/v1/regions/first", json={"title": "First"})
            kinds = [(await next_change(chosen))["kind"] for _ in range(2)]
            assert kinds == ["site", "region"]
            assert (await next_change(one))["changed"] == ["title"]


async def test_a_resumed_stream_misses_nothing(site: Site) -> None:
    """By Last-Event-ID and by `after`, what was written while nobody listened comes first, in order; the header wins."""
    async with site.async_client() as client:
        async with streaming(client) as events:
            await client.post("/api/v1/regions", json={"name": "region-0"})
            seen = (await next_change(events))["position"]
        for number in range(1, 4):
            await client.post("/api/v1/regions", json={"name": f"region-{number}"})
        for how in ({"last": seen}, {"after": seen}, {"last": seen, "after": 0}):
            async with streaming(client, **how) as events:
                names = [(await next_change(events))["resource"]["name"] for _ in range(3)]
            assert names == ["region-1", "region-2", "region-3"]


async def test_list_then_watch_has_no_hole(site: Site) -> None:
    """While eight writers write, a list and a watch from its position together see every resource, each change once."""
    writers, each = 8, 12

    async def write(client: httpx.AsyncClient, number: int) -> None:
        for count in range(each):
            answer = await client.post("/api/v1/regions", json={"name": f"r-{number}-{count}"})
            assert answer.status_code == 201

    async def watch(client: httpx.AsyncClient, delay: float) -> None:
        await asyncio.sleep(delay)
        page = (await client.get("/api/v1/regions", params={"page_size": 1000})).json()
        names = {item["name"] for item in page["items"]}
        positions: list[int] = []
        async with streaming(client, after=page["position"], kind="region") as events:
            while len(names) < writers * each:
                change = await next_change(events)
                positions.append(change["position"])
                names.add(change["resource"]["name"])
        assert positions == sorted(set(positions))

    async with site.async_client() as client, asyncio.TaskGroup() as group:
        for number in range(writers):
            group.create_task(write(client, number))
        for delay in (0.0, 0.05, 0.1, 0.2):
            group.create_task(watch(client, delay))


async def test_many_clients_all_see_a_change(site: Site) -> None:
    """Five hundred open streams get one change, and the process counts them; when they are gone it notices."""
    many = 500
    async with site.async_client() as client:
        async with _many(site, many) as streams:
            await asyncio.to_thread(until, lambda: _followers(site) == many, 20)
            await client.post("/api/v1/regions", json={"name": "seen-by-all"})
            got = await asyncio.gather(*(_until_seen(reader, b"seen-by-all") for reader in streams))
        assert all(got)
        await asyncio.to_thread(until, lambda: _followers(site) == 0)


def _followers(site: Site) -> int:
    with site.client() as client:
        [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith("fleetward_stream_followers{")]
    return int(line.split()[1])


@asynccontextmanager
async def _many(site: Site, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Plain sockets: five hundred httpx clients would measure httpx."""
    host, port = site.url.removeprefix("http://").split(":")
    request = b"GET /api/v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer viewer\r\n\r\n"
    pairs = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        pairs.append((reader, writer))
    yield [reader for reader, _ in pairs]
    for _, writer in pairs:
        writer.close()


async def _until_seen(reader: asyncio.StreamReader, wanted: bytes) -> bool:
    async with patience(20):
        seen = b""
        while wanted not in seen:
            piece = await reader.read(65536)
            assert piece, "the stream ended"
            seen += piece
    return True


@pytest.fixture
def hasty(web_url: str) -> Iterator[Site]:
    """A site with a small backlog, quick heartbeats and little patience."""
    address = Address("127.0.0.1", 0, stall_s=1.0)
    with running(web_url, address, stream_backlog=8, heartbeat_s=0.1) as found:
        yield found


async def test_a_heartbeat_carries_the_position_on(web_url: str) -> None:
    """A reader whose filter lets nothing through still learns how far it may resume from."""
    with running(web_url, heartbeat_s=0.1) as site:
        async with site.async_client() as client, streaming(client, kind="host") as events:
            for number in range(20):
                await client.post("/api/v1/regions", json={"name": f"r-{number}"})
            position = await _settled(client)
            async with patience(10):
                async for event in events:
                    assert event.keys() == {"id"}
                    if int(event["id"]) == position:
                        return
    raise AssertionError("the heartbeat never reached the position")


async def test_a_reader_behind_the_backlog_is_served_from_the_database(hasty: Site) -> None:
    """Twenty changes with a backlog of eight: who resumes from the first gets them all."""
    async with hasty.async_client() as client:
        start = await _settled(client)
        for number in range(20):
            await client.post("/api/v1/regions", json={"name": f"r-{number}"})
        await _settled(client)
        async with streaming(client, after=start) as events:
            names = [(await next_change(events))["resource"]["name"] for _ in range(20)]
    assert names == [f"r-{number}" for number in range(20)]


def test_a_reader_that_takes_nothing_is_dropped(hasty: Site) -> None:
    """Its buffers fill, the kernel gives it up, and the process no longer counts it: nobody else is held up."""
    host, port = hasty.url.removeprefix("http://").split(":")
    with socket.socket() as stuck, hasty.client() as client:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((host, int(port)))
        stuck.sendall(b"GET /api/v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer viewer\r\n\r\n")
        until(lambda: _followers(hasty) == 1)
        assert client.post("/api/v1/configs", json={"name": "big", "selector": ""}).status_code == 201
        deadline = Deadline(30)
        content = "x" * 100_000
        number = 0
        while _followers(hasty):
            assert not deadline.over(), "the stuck reader is still counted"
            number += 1
            files = [{"path": "/etc/big", "content": f"{number}{content}"}]
            assert client.patch("/api/v1/configs/big", json={"files": files}).status_code == 200


async def test_a_stream_ends_with_the_session_that_opened_it(web_url: str) -> None:
    """Signing out elsewhere ends it within the time of a look."""
    with running(web_url, stream_recheck_s=0.2, heartbeat_s=0.1) as site:
        async with httpx.AsyncClient(base_url=site.url, trust_env=False, timeout=60) as browser:
            signed_in = (await browser.post("/login", json={"username": "admin", "password": PASSWORD})).json()
            async with streaming(browser) as events:
                assert (await anext(events)).keys() == {"id"}
                await browser.post("/logout", headers={"X-CSRF-Token": signed_in["csrf_token"]})
                async with patience(10):
                    async for event in events:
                        assert event.keys() == {"id"}


async def test_events_are_paged(site: Site) -> None:
    """`/events` reads on from a position in pages; `next` is where to go on, also when the filter let nothing through."""
    async with site.async_client() as client:
        start = await _settled(client)
        for number in range(5):
            await client.post("/api/v1/regions", json={"name": f"r-{number}"})
        end = await _settled(client)
        seen, after = [], start
        while after < end:
            page = (await client.get("/api/v1/events", params={"after": after, "limit": 2})).json()
            seen += [item["resource"]["name"] for item in page["items"]]
            after = page["next"]
        assert seen == [f"r-{number}" for number in range(5)]
        none = (await client.get("/api/v1/events", params={"after": start, "kind": "host"})).json()
        assert none == {"items": [], "next": end}
        newest = (await client.get("/api/v1/events", params={"limit": 2})).json()
        assert [item["resource"]["name"] for item in newest["items"]] == ["r-3", "r-4"]
        assert newest["next"] == end


async def test_below_the_floor_is_gone(site: Site) -> None:
    """A position that retention has passed gets 410, as a page and as a stream."""
    db = await Database.open(site.database, application="test", pool_size=1)
    async with site.async_client() as client:
        await client.post("/api/v1/regions", json={"name": "north"})
        position = await _settled(client)
        async with db.transaction() as tx:
            await tx.raw.execute("UPDATE relay SET floor = position")
        await db.close()
        for path in ("/api/v1/events", "/api/v1/events/stream"):
            gone = await client.get(path, params={"after": position - 1})
            assert (gone.status_code, gone.headers["Content-Type"]) == (410, "application/problem+json")
        again = await client.get("/api/v1/events/stream", headers={"Last-Event-ID": str(position - 1)})
        assert again.status_code == 410
        assert (await client.get("/api/v1/events", params={"after": position})).json() == {"items": [], "next": position}


def test_open_streams_do_not_hold_up_the_end(web_url: str) -> None:
    """Ending the process ends the streams, at once and cleanly."""
    with running(web_url) as site, site.client() as client, client.stream("GET", "/api/v1/events/stream") as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": connected"
        watch = Stopwatch()
        site.end()
        assert not [line for line in lines if line.startswith("data")]
        assert watch.seconds() < 4


async def test_what_is_streamed_is_what_mqtt_gets(site: Site) -> None:
    """The data is `Change.body()`, member for member."""
    db = await Database.open(site.database, application="test", pool_size=1)
    try:
        async with site.async_client() as client, streaming(client) as events:
            await client.post("/api/v1/regions", json={"name": "north"})
            streamed = await next_change(events)
        found = await changes.read(db, streamed["position"] - 1, limit=1)
        assert streamed == found.changes[0].body()
    finally:
        await db.close()

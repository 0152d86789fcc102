"""The publisher against a real change log: everything once or oftener, nothing left out, whatever the broker does."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.topics import Topics
from inventory.actor import Actor
from inventory.changes import Relay, load_cursor, position
from inventory.db import Connection, Database
from inventory.errors import Unavailable
from inventory.publisher import Publisher, Undelivered, sole
from inventory.store import Store
from tests.inventory_wire.installation import until

ADMIN = Actor.user("admin", "admin")


class Broker:
    """What was published; it refuses while it is `away`."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.away = False
        self.tries = 0

    async def publish(self, topic: str, payload: bytes) -> None:
        self.tries += 1
        if self.away:
            raise Undelivered("away")
        self.got.append((topic, json.loads(payload)))

    async def connected(self) -> None:
        await asyncio.sleep(0)

    def of(self, id: str) -> list[dict[str, Any]]:
        return [body for topic, body in self.got if topic.endswith(f"/{id}")]


@asynccontextmanager
async def running(*acts: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(act()) for act in acts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lock_s_connection_that_is_lost_is_a_lost_database(db: Database, cut_at_once: list[Connection]) -> None:
    """Whoever wants the lock hears what they hear of any loss, and wants it again."""
    with pytest.raises(Unavailable):
        async with sole(db, 1):
            pass
    assert cut_at_once
    async with sole(db, 1) as held:
        assert not held.is_closed()


async def test_every_change_of_a_published_kind_in_order(db: Database, store: Store) -> None:
    """From the beginning of the log; a deleted resource comes as it was before."""
    broker = Broker()
    publisher = Publisher(db, Topics(), broker.publish, broker.connected)
    region = await store.create("region", {"name": "north"}, ADMIN)
    await store.patch("region", "north", {"title": "North"}, ADMIN)
    await store.delete("region", "north", ADMIN)
    await store.create("enrollment-token", {}, ADMIN, extra={"token_hash": "0" * 64})
    async with running(Relay(db).run, publisher.run):
        await until(lambda: len(broker.of(region["id"])) == 3, "three events")
        last = await position(db)
        await until(lambda: _cursor(db, last), "the cursor")
    events = broker.of(region["id"])
    assert [event["op"] for event in events] == ["created", "updated", "deleted"]
    assert events[1]["changed"] == ["title"]
    assert events[2]["resource"]["title"] == "North"
    assert {topic for topic, _ in broker.got} == {f"fleet/v1/events/region/{region['id']}"}


async def _cursor(db: Database, wanted: int) -> bool:
    return await load_cursor(db, "mqtt") == wanted


async def test_a_dead_broker_stalls_nobody_else_and_loses_nothing(db: Database, store: Store) -> None:
    """Changes get their positions meanwhile; what was not acknowledged is published when it is back."""
    broker = Broker()
    broker.away = True
    publisher = Publisher(db, Topics(), broker.publish, broker.connected)
    async with running(Relay(db).run, publisher.run):
        made = [await store.create("region", {"name": f"r{n}"}, ADMIN) for n in range(5)]
        await until(lambda: broker.tries, "a try")

        async def placed() -> bool:
            return await position(db) == 5

        await until(placed, "the positions")
        assert not await load_cursor(db, "mqtt") and broker.got == []
        broker.away = False
        await until(lambda: all(broker.of(region["id"]) for region in made), "all of them")


async def test_a_second_publisher_waits_for_the_first(db: Database, store: Store) -> None:
    """One at a time; the other goes on where it left off."""
    first, second = Broker(), Broker()
    one = Publisher(db, Topics(), first.publish, first.connected)
    two = Publisher(db, Topics(), second.publish, second.connected)
    async with running(Relay(db).run):
        async with running(one.run):
            await store.create("region", {"name": "a"}, ADMIN)
            await until(lambda: first.got, "the first event")
            async with running(two.run):
                made = await store.create("region", {"name": "b"}, ADMIN)
                await until(lambda: first.of(made["id"]), "the second event")
                last = await position(db)
                await until(lambda: _cursor(db, last), "the cursor")
                assert second.got == []
        async with running(two.run):
            made = await store.create("region", {"name": "c"}, ADMIN)
            await until(lambda: second.of(made["id"]), "the third event")
        assert len(second.got) == 1


async def test_what_is_too_large_is_told_without_its_resource(db: Database, store: Store) -> None:
    """A config may hold more than a message may; who reads the event then asks for it."""
    broker = Broker()
    publisher = Publisher(db, Topics(), broker.publish, broker.connected)
    files = [{"path": "/srv/a", "content": "\x01" * 60_000}]
    made = await store.create("config", {"name": "big", "selector": "", "files": files}, ADMIN)
    async with running(Relay(db).run, publisher.run):
        await until(lambda: broker.of(made["id"]), "the event")
    [event] = broker.of(made["id"])
    assert event["resource"] is None and event["too_large"] is True and event["op"] == "created"

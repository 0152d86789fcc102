"""The change log's promises: contiguous positions, nothing skipped, however late a writer commits; replaying it gives the tables."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from inventory import changes
from inventory.actor import Actor
from inventory.changes import Change, Relay, Tail, history, load_cursor, read, save_cursor, trim
from inventory.db import Connection, Database
from inventory.errors import Gone
from inventory.kinds import BY_NAME
from inventory.resource import logged
from inventory.store import ListQuery, Store
from tests.store.replaying import replay, tables
from tests.waiting import patience


@pytest.fixture
async def relay(db: Database) -> AsyncIterator[Relay]:
    """A relay at work."""
    running = Relay(db)
    task = asyncio.create_task(running.run())
    yield running
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


LAST = "the-last"
"""What is made when all else has been committed, so that its change comes after every other."""


async def follow(db: Database, delay: random.Random) -> list[Change]:
    """Read as a consumer does, pausing at odd moments, until the last change."""
    seen: list[Change] = []
    async for found in Tail(db, 0):
        seen += found.changes
        if found.changes and (found.changes[-1].resource or {}).get("name") == LAST:
            return seen
        await asyncio.sleep(delay.random() * 0.005)
    raise AssertionError("a tail never ends by itself")


async def _drained(db: Database, at: int) -> bool:
    async with db.acquire() as connection:
        return bool(await connection.fetchval("SELECT NOT EXISTS (SELECT 1 FROM changes_in) AND position = $1 FROM relay", at))


async def test_no_reader_skips_a_late_commit(store: Store, db: Database, relay: Relay, admin: Actor) -> None:
    """Eight writers that hold their transactions open for random times; three readers each see every change once, in one order."""
    readers = [asyncio.create_task(follow(db, random.Random(n))) for n in range(3)]

    async def writer(n: int) -> int:
        dice = random.Random(n)
        written = 0
        for turn in range(12):
            async with store.transaction() as w:
                for part in range(dice.randint(1, 3)):
                    await w.create(BY_NAME["region"], {"name": f"r{n}-{turn}-{part}"}, admin)
                    written += 1
                await w.flush()
                await asyncio.sleep(dice.random() * 0.03)
        return written

    written = sum(await asyncio.gather(*(writer(n) for n in range(8))))
    await store.create("region", {"name": LAST}, admin)
    async with patience(30):
        seen = await asyncio.gather(*readers)
    assert seen[0] == seen[1] == seen[2]
    assert [c.position for c in seen[0]] == list(range(1, written + 2))
    assert replay(seen[0]) == await tables(store)


async def test_two_relays_share_one_order(store: Store, db: Database, relay: Relay, admin: Actor, inventory_url: str) -> None:
    """With two relays running, and one of them killed on the way, positions stay contiguous and nothing is doubled."""
    other_db = await Database.open(inventory_url, application="other")
    other = asyncio.create_task(Relay(other_db).run())
    await asyncio.gather(*(store.create("region", {"name": f"a{n}"}, admin) for n in range(20)))
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    await asyncio.gather(*(store.create("region", {"name": f"b{n}"}, admin) for n in range(20)))
    await store.create("region", {"name": LAST}, admin)
    async with patience(30):
        seen = await follow(db, random.Random(0))
    await other_db.close()
    assert [c.position for c in seen] == list(range(1, 42))
    assert len({c.id for c in seen}) == 41


@pytest.mark.parametrize("turns", range(4))
async def test_a_tail_ends_when_it_is_cancelled_as_news_arrives(db: Database, turns: int) -> None:
    """A cancellation in the same turn of the loop as a notification, or a few after it, ends the reader all the same."""
    tail = Tail(db, 0)

    async def read() -> None:
        async for _ in tail:
            pass

    reader = asyncio.create_task(read())
    async with patience(10):
        while not tail._wake._waiters:
            await asyncio.sleep(0.001)
    tail._wake.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    reader.cancel()
    done, _ = await asyncio.wait({reader}, timeout=60)
    assert done and reader.cancelled()


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not woken sleeps for longer than a test waits."""
    monkeypatch.setattr(changes, "POLL_S", 600.0)


async def test_the_relay_sleeps_and_is_woken(seldom: None, store: Store, db: Database, relay: Relay, admin: Actor) -> None:
    """A quiet relay says so, and a write after that is placed without waiting for its next poll."""

    async def asleep() -> bool:
        async with db.acquire() as connection:
            return bool(await connection.fetchval("SELECT idle FROM relay"))

    async with patience(10):
        while not await asleep():
            await asyncio.sleep(0.02)
    tail = aiter(Tail(db, 0))
    first = asyncio.ensure_future(anext(tail))
    await store.create("region", {"name": "north"}, admin)
    async with patience(10):
        assert (await first).changes[0].id.startswith("reg-")


async def test_list_then_watch_has_no_hole(store: Store, db: Database, relay: Relay, admin: Actor) -> None:
    """Lists taken among concurrent writes, each continued from its position, all end in the same state."""
    stop = asyncio.Event()

    async def write(n: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            await store.create("region", {"name": f"w{n}-{turn}"}, admin)

    writers = [asyncio.create_task(write(n)) for n in range(3)]
    pages = []
    for _ in range(8):
        pages.append(await store.list("region", ListQuery(page_size=1000)))
        await asyncio.sleep(0.03)
    stop.set()
    await asyncio.gather(*writers)
    async with patience(10):
        while not await _drained(db, await changes.position(db)):
            await asyncio.sleep(0.02)
    final = await tables(store)
    for page in pages:
        state = {item["id"]: logged(BY_NAME["region"], item) for item in page.items}
        at = page.position
        while (found := await read(db, at)).next > at:
            for change in found.changes:
                if change.resource is not None and change.version > state.get(change.id, {"version": 0})["version"]:
                    state[change.id] = change.resource
            at = found.next
        assert state == final


async def test_a_tail_outlives_its_connections(store: Store, db: Database, relay: Relay, admin: Actor, inventory_url: str) -> None:
    """With every connection cut by the server, the reader comes back and continues where it was."""
    tail = aiter(Tail(db, 0))
    await store.create("region", {"name": "one"}, admin)
    assert [c.position for c in (await anext(tail)).changes] == [1]
    killer = await asyncpg.connect(inventory_url)
    await killer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await killer.close()
    async with patience(20):
        while True:
            try:
                await store.create("region", {"name": "two"}, admin)
                break
            except Exception:
                await asyncio.sleep(0.05)
        assert [c.position for c in (await anext(tail)).changes] == [2]


async def test_a_listener_that_is_lost_at_once_is_waited_for(
    store: Store, db: Database, admin: Actor, cut_at_once: list[Connection]
) -> None:
    """A tail whose connection ends before it could LISTEN, as one to a standby that is not promoted yet, comes back like from any loss."""
    await store.create("region", {"name": "one"}, admin)
    await Relay(db).step()
    async with patience(10):
        found = await anext(aiter(Tail(db, 0)))
    assert [change.position for change in found.changes] == [1] and cut_at_once


async def test_a_relay_that_cannot_listen_goes_on(store: Store, db: Database, admin: Actor, cut_at_once: list[Connection]) -> None:
    """Likewise; it ends by nothing but being cancelled."""
    task = asyncio.create_task(Relay(db).run())
    await store.create("region", {"name": "one"}, admin)
    try:
        async with patience(10):
            while await changes.position(db) == 0:
                assert not task.done(), task.exception()
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert cut_at_once


async def test_below_the_floor_is_gone(store: Store, db: Database, admin: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention drops whole partitions, keeps the chain's anchor, and tells a reader from before that they are gone."""
    monkeypatch.setattr(changes, "PARTITION", 10)
    async with db.transaction() as tx:
        await tx.raw.execute("DROP TABLE changes_0; CREATE TABLE changes_0 PARTITION OF changes FOR VALUES FROM (0) TO (10)")
    relay = Relay(db)
    for n in range(34):
        await store.create("region", {"name": f"r{n}"}, admin)
        await relay.step()
    assert await trim(db, store.clock(), lambda position, digest: b"signed") == 29
    with pytest.raises(Gone, match="29"):
        await read(db, 28)
    assert [c.position for c in (await read(db, 29)).changes] == [30, 31, 32, 33, 34]
    async with db.acquire() as connection:
        anchor = await connection.fetchrow("SELECT * FROM change_anchors ORDER BY position DESC LIMIT 1")
        first = await connection.fetchrow("SELECT * FROM changes WHERE position = 30")
    assert anchor is not None and first is not None
    assert changes.chain(bytes(anchor["hash"]), 30, first) == bytes(first["hash"])
    assert anchor["signature"] == b"signed"


async def test_the_hash_chain_shows_tampering(store: Store, db: Database, admin: Actor) -> None:
    """Editing any column of a row breaks its hash; the untouched chain verifies from the first row to the relay's own."""
    for n in range(5):
        await store.create("region", {"name": f"r{n}"}, admin)
    relay = Relay(db)
    await relay.step()

    async def verify() -> bool:
        async with db.acquire() as connection:
            rows = await connection.fetch("SELECT * FROM changes ORDER BY position")
            head = await connection.fetchval("SELECT hash FROM relay")
        digest = b""
        for row in rows:
            digest = changes.chain(digest, row["position"], row)
            if digest != bytes(row["hash"]):
                return False
        return digest == bytes(head)

    assert await verify()
    for column, value in (
        ("actor", '{"type": "user", "name": "mallory"}'),
        ("resource", "{}"),
        ("op", "deleted"),
        ("at", None),
        ("host", "x"),
        ("host", ""),
    ):
        async with db.transaction() as tx:
            old = await tx.raw.fetchval(f"SELECT {column} FROM changes WHERE position = 3")
            new = "now()" if value is None else "$1" + ("::jsonb" if column in ("actor", "resource") else "")
            await tx.raw.execute(f"UPDATE changes SET {column} = {new} WHERE position = 3", *([] if value is None else [value]))
        assert not await verify(), column
        async with db.transaction() as tx:
            await tx.raw.execute(f"UPDATE changes SET {column} = $1 WHERE position = 3", old)
    assert await verify()


async def test_history_is_newest_first(store: Store, db: Database, admin: Actor) -> None:
    """The changes of one resource, page by page."""
    made = await store.create("region", {"name": "north"}, admin)
    for n in range(4):
        await store.patch("region", "north", {"title": str(n)}, admin)
    await Relay(db).step()
    first = await history(db, made["id"], limit=3)
    rest = await history(db, made["id"], before=first[-1].position, limit=3)
    assert [c.position for c in first + rest] == [5, 4, 3, 2, 1]


async def test_cursors_are_saved(db: Database) -> None:
    """A consumer's place survives in the database."""
    assert await load_cursor(db, "someone") is None
    for at in (3, 7):
        async with db.acquire() as connection:
            await save_cursor(connection, "someone", at)
    assert await load_cursor(db, "someone") == 7

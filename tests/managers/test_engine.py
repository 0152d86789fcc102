"""The engine on a real PostgreSQL with managers made for the test: one hand a key, nothing lost, failures kept apart."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from inventory.actor import Actor
from inventory.changes import Change, Relay
from inventory.db import SQL, Connection, Database, loads
from inventory.errors import Unavailable
from inventory.store import Store
from inventory.work import Lane, Strength, WorkQueue, waiting
from managers.driver import Engine, Manager, Pump, Scan, Worker
from managers.feed import LOCK, Feed
from managers.reconcile import Again, AnyTrigger, Done, Error, Failed, Make, Outcome, Request, Trigger, Write
from managers.settling import Report, Settler
from managers.workqueue import Backoff
from tests.managers.fleet import eventually

QUEUE = "m"


@dataclass
class Recorder:
    """A reconciler that notes what it is asked, and answers as it is told."""

    answers: dict[str, Any] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    overlaps: list[str] = field(default_factory=list)
    pause_s: float = 0.0
    seen: dict[str, int] = field(default_factory=dict)
    truth: dict[str, int] = field(default_factory=dict)
    """What there is to see of a key, which triggers tell of."""
    let_go: asyncio.Event | None = None
    """Where there is one, no reconcile ends before it."""

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        keys = [request.key for request in requests]
        self.overlaps += [key for key in keys if key in self.running]
        self.running.update(keys)
        self.requests += requests
        self.runs.update(keys)
        self.seen.update({key: self.truth.get(key, 0) for key in keys})
        try:
            await asyncio.sleep(random.uniform(0, self.pause_s))
            if self.let_go is not None:
                await self.let_go.wait()
            answers = {key: self.answers.get(key, Done()) for key in keys}
            for answer in answers.values():
                if isinstance(answer, Exception):
                    raise answer
            return answers
        finally:
            self.running.difference_update(keys)


def nothing(change: Change) -> Sequence[AnyTrigger]:
    return ()


@dataclass
class Bench:
    """`now`: what the replicas take for the time; None: the database's."""

    db: Database
    recorder: Recorder = field(default_factory=Recorder)
    now: datetime | None = None

    def manager(self, **more: Any) -> Manager:
        settings: dict[str, Any] = {
            "queue": QUEUE,
            "actor": Actor.manager("host"),
            "reconciler": self.recorder,
            "interest": nothing,
            "batch": 10,
        }
        return Manager(**(settings | more))

    @asynccontextmanager
    async def replica(self, name: str = "r", lease: timedelta = timedelta(seconds=15), **more: Any) -> AsyncIterator[Pump]:
        queue = self.queue()
        reports: list[Report] = []
        engine = Engine(queue, Settler(Store(self.db), queue, lambda low, high: high), name, reports.append, lease)
        worker = Worker(engine, self.manager(**more))
        pump = Pump(queue, [worker])
        tasks = [asyncio.create_task(worker.run()), asyncio.create_task(pump.run())]
        try:
            yield pump
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def queue(self) -> WorkQueue:
        return WorkQueue(self.db, None if self.now is None else self._now)

    def _now(self) -> datetime:
        assert self.now is not None
        return self.now

    async def trigger(self, *keys: str, strength: Strength = Strength.CHANGED) -> None:
        async with self.db.transaction() as tx:
            await self.queue().trigger(tx.raw, QUEUE, keys, strength)

    async def rows(self) -> int:
        async with self.db.acquire() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM work"))

    async def empty(self) -> bool:
        return await self.rows() == 0

    async def row(self, key: str) -> Any:
        async with self.db.acquire() as connection:
            found = await waiting(connection, [key])
        return found[0] if found else None


@pytest.fixture
def bench(db: Database) -> Bench:
    return Bench(db)


async def test_a_fresh_intent_does_not_wait_behind_a_backlog(bench: Bench) -> None:
    """With 50,000 keys due, a prompt one is in the first batch that is claimed after it, and the backlog keeps its share of each."""
    queue = WorkQueue(bench.db)
    await bench.trigger(*(f"bulk-{n:05}" for n in range(50_000)))
    async with bench.db.transaction() as tx:
        await queue.trigger(tx.raw, QUEUE, ["prompt"], Strength.FRESH, lane=Lane.PROMPT)
    first = {claimed.key for claimed in await queue.claim(QUEUE, "r", 100, timedelta(seconds=15))}
    assert "prompt" in first and len(first) == 100
    async with bench.db.transaction() as tx:
        await queue.trigger(tx.raw, QUEUE, [f"prompt-{n}" for n in range(500)], Strength.FRESH, lane=Lane.PROMPT)
    second = [claimed.key for claimed in await queue.claim(QUEUE, "r", 100, timedelta(seconds=15))]
    assert sum(key.startswith("bulk") for key in second) == 25


async def test_keys_that_wait_cost_those_that_are_due_nothing(bench: Bench) -> None:
    """With 50,000 keys that wait for a device or for their time, looking for what is due reads a few pages, not all of them."""
    async with bench.db.transaction() as tx:
        await tx.raw.execute(
            "INSERT INTO work (manager, key, queued_at, due_at, lane, fence, again, attempts, halted, backoff) "
            "SELECT $1, 'k' || n, now(), CASE n % 2 WHEN 0 THEN now() + interval '30 minutes' END, n % 3 % 2, 0, 0, 0, false, false "
            "FROM generate_series(1, 50000) AS n",
            QUEUE,
        )
    async with bench.db.acquire() as connection:
        await connection.execute("VACUUM ANALYZE work")
        lease = timedelta(seconds=15)
        for name, given in (("claim_work", (QUEUE, 100, "r", lease, None, 75)), ("due_work", ([QUEUE, "other"], None))):
            [[plan]] = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {SQL[name]}", *given)
            found = loads(plan)[0]["Plan"]
            assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] < 60, name


async def test_two_replicas_share_keys_and_miss_no_trigger(bench: Bench) -> None:
    """While triggers rain on a few keys, no key is in two hands, and the last thing told of each is seen."""
    bench.recorder.pause_s = 0.01
    async with bench.replica("one", batch=3) as one, bench.replica("two", batch=3) as two:
        for n in range(150):
            key = f"k{random.randrange(6)}"
            bench.recorder.truth[key] = n
            await bench.trigger(key)
            random.choice((one, two)).wake([QUEUE])
        await eventually(bench.empty)
    assert bench.recorder.overlaps == []
    assert bench.recorder.seen == bench.recorder.truth
    assert sum(bench.recorder.runs.values()) <= 150


async def test_a_dead_replica_s_keys_are_taken_over(bench: Bench) -> None:
    """Its lease runs out, and what it decides after that is not written."""
    queue = WorkQueue(bench.db)
    await bench.trigger("k")
    [stale] = await queue.claim(QUEUE, "dead", 1, timedelta(milliseconds=100))
    async with bench.replica("alive"):
        await eventually(bench.empty)
    settler = Settler(Store(bench.db), queue, lambda low, high: high)
    await bench.trigger("k")
    outcome = Failed(Error("ReadOnly", "no", recoverable=True), (Make("notification", {"severity": "info", "type": "T", "message": "m"}),))
    report = await settler.settle(bench.manager().terms, [stale], {"k": outcome})
    assert report.lost == ["k"]
    async with bench.db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM notification") == 0
    assert (await bench.row("k")).attempts == 0


async def test_a_clock_set_back_delays_nothing(bench: Bench) -> None:
    """What waits, and what somebody dead holds, by a clock that was a day ahead, is done now."""
    await bench.trigger("waits", "held")
    async with bench.db.acquire() as connection:
        await connection.execute("UPDATE work SET due_at = now() + interval '1 day' WHERE key = 'waits'")
        await connection.execute("UPDATE work SET lease_owner = 'dead', lease_until = now() + interval '1 day' WHERE key = 'held'")
    async with bench.replica("alive"):
        await eventually(bench.empty)


async def test_a_long_reconcile_keeps_its_lease(bench: Bench) -> None:
    """It is renewed while it runs, so that nobody else begins it: here through four leases, of a clock that waits for each renewal."""
    bench.recorder.let_go, bench.now = asyncio.Event(), datetime(2026, 11, 22, 18, tzinfo=UTC)
    lease = timedelta(milliseconds=600)
    async with bench.replica("one", lease), bench.replica("two", lease):
        await bench.trigger("k")
        await eventually(lambda: _ran(bench, "k", 1))
        for _ in range(8):
            bench.now += lease / 2
            await eventually(partial(_leased_until, bench, bench.now + lease))
        assert bench.recorder.runs == Counter({"k": 1})
        bench.recorder.let_go.set()
        await eventually(bench.empty)


async def _leased_until(bench: Bench, moment: datetime) -> bool:
    async with bench.db.acquire() as connection:
        return bool(await connection.fetchval("SELECT lease_until = $1 FROM work", moment))


async def test_one_bad_key_does_not_fail_its_batch(bench: Bench) -> None:
    """The batch is taken apart; the bad one backs off as an internal error, and the others are done."""
    bench.recorder.answers["bad"] = ValueError("a bug")
    async with bench.replica():
        await bench.trigger("a", "b", "bad", "c")
        await eventually(lambda: _attempts(bench, "bad", 1))
        await eventually(lambda: _only(bench, 1))
    row = await bench.row("bad")
    assert row.last_error == {"code": "Internal", "message": "ValueError: a bug", "recoverable": True, "attempt": 1}


async def test_an_effect_that_can_t_be_written_fails_its_key_alone(bench: Bench) -> None:
    """The transaction of the batch is undone as a whole, then each key is settled by itself."""
    good = Done((Make("notification", {"severity": "info", "type": "T", "message": "good"}),))
    bench.recorder.answers = {"good": good, "bad": Done((Make("component", {"host": "host-nowhere"}),))}
    async with bench.replica():
        await bench.trigger("good", "bad")
        await eventually(lambda: _attempts(bench, "bad", 1))
        await eventually(lambda: _only(bench, 1))
    async with bench.db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM notification") == 1


async def test_what_is_away_counts_for_nothing(bench: Bench) -> None:
    """Unavailable gives the key back without an attempt, and it is tried again soon."""
    bench.recorder.answers["k"] = Unavailable("the broker is away")
    async with bench.replica():
        await bench.trigger("k")
        await eventually(lambda: _ran(bench, "k", 2))
        bench.recorder.answers.clear()
        await eventually(bench.empty)
    assert {request.attempt for request in bench.recorder.requests} == {1}


async def test_failures_count_up_to_the_halt_and_fresh_begins_anew(bench: Bench) -> None:
    """Attempt by attempt; then nothing moves it but the user."""
    bench.recorder.answers["k"] = Failed(Error("ReadOnly", "no", recoverable=True))
    backoff = Backoff(shortest=timedelta(milliseconds=10), attempts=3)
    async with bench.replica(backoff=backoff):
        await bench.trigger("k")
        await eventually(lambda: _halted(bench, "k"))
        assert [request.attempt for request in bench.recorder.requests] == [1, 2, 3]
        await bench.trigger("k", strength=Strength.NOW)
        bench.recorder.answers.clear()
        await bench.trigger("other")
        await eventually(lambda: _ran(bench, "other", 1))
        assert bench.recorder.runs["k"] == 3
        await bench.trigger("k", strength=Strength.FRESH)
        await eventually(bench.empty)
    assert bench.recorder.requests[-1].attempt == 1


async def test_due_times_survive_a_restart(bench: Bench) -> None:
    """A pause goes on where another process left it."""
    bench.recorder.answers["k"] = Again(timedelta(seconds=1), "Pending")
    async with bench.replica("one"):
        await bench.trigger("k")
        await eventually(lambda: _ran(bench, "k", 1))
        await eventually(lambda: _free(bench, "k"))
    due, ran = (await bench.row("k")).due_at, bench.recorder.runs["k"]
    bench.recorder.answers.clear()
    async with bench.replica("two"):
        await eventually(bench.empty)
        assert bench.recorder.runs["k"] == ran + 1
        async with bench.db.acquire() as connection:
            assert await connection.fetchval("SELECT clock_timestamp() >= $1", due)


async def test_a_stopped_replica_gives_back_what_it_holds(bench: Bench) -> None:
    """The next one need not wait for a lease to run out."""
    bench.recorder.let_go = asyncio.Event()
    async with bench.replica("one"):
        await bench.trigger("k")
        await eventually(lambda: _ran(bench, "k", 1))
    row = await bench.row("k")
    assert (row.running, row.attempts) == (False, 0)


async def test_the_status_follows_the_outcome(bench: Bench) -> None:
    """In the transaction of the outcome; `since` stays while nothing else changes, and then nothing is written."""
    store = Store(bench.db)
    host = (await store.create("host", {"name": "a"}, Actor.system()))["id"]
    bench.recorder.answers[host] = Again(None, "WaitingForDevice", "not there", (Write("host", host, {"current_state": "registered"}),))
    async with bench.replica(status_of="host"):
        await bench.trigger(host)
        await eventually(lambda: _reason(store, host, "WaitingForDevice"))
        first = await store.get("host", host)
        await bench.trigger(host)
        await eventually(lambda: _ran(bench, host, 2))
        await eventually(lambda: _free(bench, host))
        assert (await store.get("host", host))["version"] == first["version"]
        bench.recorder.answers[host] = Failed(Error("NoSpace", "full", recoverable=False))
        await bench.trigger(host)
        await eventually(lambda: _reason(store, host, "NoSpace"))
    found = await store.get("host", host)
    assert found["status"] | {"since": ""} == {"indicator": "error", "reason": "NoSpace", "message": "full", "halted": True, "since": ""}


async def test_the_feed_misses_nothing_while_it_is_down(bench: Bench) -> None:
    """Its cursor is durable: what was written meanwhile is queued when it is back, and what was read before is not again."""
    store = Store(bench.db)

    def interest(change: Change) -> Sequence[AnyTrigger]:
        return [Trigger(QUEUE, change.id)]

    relay = asyncio.create_task(Relay(bench.db).run())
    try:
        feed = Feed(bench.db, WorkQueue(bench.db), [bench.manager(interest=interest)], lambda names: None)
        async with _running(feed):
            await eventually(lambda: _reading(bench))
            one = (await store.create("region", {"name": "one"}, Actor.system()))["id"]
            await eventually(lambda: _has(bench, one))
        async with bench.db.acquire() as connection:
            await connection.execute("DELETE FROM work")
        two = (await store.create("region", {"name": "two"}, Actor.system()))["id"]
        async with _running(feed):
            await eventually(lambda: _has(bench, two))
        assert not await _has(bench, one)
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)


class Unlucky(WorkQueue):
    """Its first trigger is undone by Postgres, as one of two that wait for each other."""

    undone = 0

    async def trigger(self, connection: Any, *arguments: Any, **more: Any) -> None:
        if not self.undone:
            self.undone += 1
            await connection.execute("DO $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$")
        await super().trigger(connection, *arguments, **more)


async def test_a_deadlock_ends_no_feed(bench: Bench) -> None:
    """The transaction goes again, and the cursor with it: nothing is missed, and the process lives on."""
    store, queue = Store(bench.db), Unlucky(bench.db)
    relay = asyncio.create_task(Relay(bench.db).run())
    try:
        feed = Feed(bench.db, queue, [bench.manager(interest=lambda change: [Trigger(QUEUE, change.id)])], lambda names: None)
        async with _running(feed):
            await eventually(lambda: _reading(bench))
            one = (await store.create("region", {"name": "one"}, Actor.system()))["id"]
            await eventually(lambda: _has(bench, one))
        assert queue.undone == 1
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)


async def test_a_lock_s_connection_that_is_lost_at_once_ends_no_feed(bench: Bench, cut_at_once: list[Connection]) -> None:
    """It is lost before the lock was asked for, which the feed waits for like for any loss of the database."""
    async with _running(Feed(bench.db, WorkQueue(bench.db), [bench.manager()], lambda names: None)):
        await eventually(lambda: _reading(bench))
    assert cut_at_once


async def test_a_cursor_below_the_floor_begins_anew_with_scans(bench: Bench) -> None:
    """What the log no longer tells, the scans see; the reader goes on from now."""
    store = Store(bench.db)
    relay = asyncio.create_task(Relay(bench.db).run())
    try:
        host = (await store.create("host", {"name": "a"}, Actor.system()))["id"]
        async with bench.db.acquire() as connection:
            await connection.execute("INSERT INTO cursors (name, position) VALUES ('managers', 0)")

            async def moved() -> bool:
                return bool(await connection.fetchval("UPDATE relay SET floor = position WHERE position > 0 RETURNING 1"))

            await eventually(moved)
        scanned = bench.manager(scans=(Scan("scan_hosts", timedelta(hours=1)),))
        async with _running(Feed(bench.db, WorkQueue(bench.db), [scanned], lambda names: None)):
            await eventually(lambda: _has(bench, host))
        async with bench.db.acquire() as connection:
            assert await connection.fetchval("SELECT c.position = r.position FROM cursors c, relay r WHERE c.name = 'managers'")
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)


HELD = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = $1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""How many hold the lock of the feeds, in this database: the server has others, and other locks."""


async def test_one_feed_reads_at_a_time(bench: Bench) -> None:
    """The second stands by, and takes over when the first has gone."""
    first = Feed(bench.db, WorkQueue(bench.db), [bench.manager()], lambda names: None)
    second = Feed(bench.db, WorkQueue(bench.db), [bench.manager(scans=(Scan("scan_configs", timedelta(hours=1)),))], lambda names: None)
    async with _running(second):
        async with _running(first):
            await eventually(lambda: _reading(bench))
            async with bench.db.acquire() as connection:
                held = await connection.fetchval(HELD, LOCK)
        assert held == 1
        await eventually(lambda: _reading(bench))


@asynccontextmanager
async def _running(feed: Feed) -> AsyncIterator[None]:
    task = asyncio.create_task(feed.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _reading(bench: Bench) -> bool:
    async with bench.db.acquire() as connection:
        cursor = await connection.fetchval("SELECT count(*) FROM cursors WHERE name = 'managers'")
        return bool(cursor) and bool(await connection.fetchval(HELD, LOCK))


async def _has(bench: Bench, key: str) -> bool:
    return await bench.row(key) is not None


async def _attempts(bench: Bench, key: str, count: int) -> bool:
    row = await bench.row(key)
    return row is not None and row.attempts == count and not row.running


async def _only(bench: Bench, count: int) -> bool:
    return await bench.rows() == count


async def _ran(bench: Bench, key: str, count: int) -> bool:
    return bench.recorder.runs[key] >= count


async def _halted(bench: Bench, key: str) -> bool:
    row = await bench.row(key)
    return row is not None and row.halted


async def _free(bench: Bench, key: str) -> bool:
    row = await bench.row(key)
    return row is not None and not row.running


async def _reason(store: Store, host: str, reason: str) -> bool:
    return bool((await store.get("host", host))["status"]["reason"] == reason)

"""Fills the work queue: from the change log for latency, by periodic scans for truth.

One replica at a time reads the log for all managers, under a session lock; what a change triggers and the cursor that says so are one
transaction, so that nothing is missed while nobody reads. The cursor moves by compare-and-set: a reader that has lost its lock without
knowing changes nothing. Knows no kind: what a change means is each manager's `interest`.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from inventory import changes
from inventory.changes import Change, Tail
from inventory.db import SQL, Connection, Database, Tx
from inventory.errors import Gone, Unavailable
from inventory.store import Store
from inventory.work import Lane, Strength, WorkQueue
from managers.driver import Manager, Scan
from managers.reconcile import AnyTrigger, Trigger, TriggerSelected
from managers.workqueue import lane_of

log = logging.getLogger(__name__)

CURSOR = "managers"
LOCK = 0x666C7764_0003
STANDBY_S = 2.0
"""How often a replica that does not read asks whether nobody does."""
CHUNK = 5_000
"""Keys a statement."""


class _Overtaken(Exception):
    """Another replica moved the cursor: it reads the log now."""


class Asked(NamedTuple):
    """A trigger, and whose change it is of: a person's or an integration's, by type and name; empty: it came about of itself."""

    trigger: AnyTrigger
    person: str


class Found(NamedTuple):
    """A key that is to be queued."""

    person: str
    strength: Strength
    delay: timedelta
    key: str


def by_lane(found: Sequence[Found]) -> Mapping[tuple[Lane, Strength, timedelta], list[str]]:
    """A person's keys are prompt while they are few together; so one who changes much at once, one by one, is not in anybody's way."""
    counts = Counter(each.person for each in found)
    groups: dict[tuple[Lane, Strength, timedelta], list[str]] = defaultdict(list)
    for each in found:
        lane = lane_of(Lane.PROMPT if each.person else Lane.BULK, counts[each.person])
        groups[lane, each.strength, each.delay].append(each.key)
    return groups


class Feed:
    """`wake` is told which managers got keys."""

    def __init__(self, db: Database, queue: WorkQueue, managers: Sequence[Manager], wake: Callable[[Sequence[str]], None]) -> None:
        self._db = db
        # Keys are locked by strength, and those that settle them by key: now and then Postgres has to undo one of the two.
        self._retrying = Store(db).retrying
        self._queue = queue
        self._managers = managers
        self._wake = wake

    async def run(self) -> None:
        """Until cancelled. A lost database is waited for."""
        while True:
            try:
                await self._stand_by()
            except (Unavailable, Gone, _Overtaken) as error:
                log.warning("the change log is read no more by this process", extra={"error": str(error)})
            await asyncio.sleep(STANDBY_S)

    async def _stand_by(self) -> None:
        lock = await self._db.connect()
        try:
            with self._db.may_be_away():
                ours = await lock.fetchval("SELECT pg_try_advisory_lock($1)", LOCK)
            if not ours:
                return
            log.info("reading the change log for the managers")
            await self._read(lock)
        finally:
            lock.terminate()

    async def _read(self, lock: Connection) -> None:
        """Scans run beside the reader; whatever ends one ends all."""
        start = await self._start()
        work = [self._follow(start), _until_closed(lock), *(self._scan(m, scan) for m in self._managers for scan in m.scans)]
        tasks = [asyncio.create_task(each) for each in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self) -> int:
        """Where to read on. The first time, and after a gap, from now: the scans see what is there."""
        known = await changes.load_cursor(self._db, CURSOR)
        if known is not None:
            try:
                await changes.read(self._db, known, limit=1)
                return known
            except Gone:
                log.warning("the change log no longer reaches back to the managers' cursor; scanning instead", extra={"position": known})
        now = await changes.position(self._db)
        async with self._db.transaction() as tx:
            await changes.save_cursor(tx.raw, CURSOR, now)
        return now

    async def _follow(self, start: int) -> None:
        at = start
        async for found in Tail(self._db, start):
            await self._take(found.changes, at, found.next)
            at = found.next

    async def _take(self, found: Sequence[Change], at: int, next: int) -> None:
        asked = [Asked(t, _person(change)) for change in found for manager in self._managers for t in _interest(manager, change)]
        await self._retrying(lambda: self._move(asked, at, next))
        self._wake(sorted({each.trigger.manager for each in asked}))

    async def _move(self, asked: Sequence[Asked], at: int, next: int) -> None:
        async with self._db.transaction() as tx:
            await tx.lazily()  # the cursor goes back together with what it says was triggered
            moved = await tx.raw.fetchval(
                "UPDATE cursors SET position = $3 WHERE name = $1 AND position = $2 RETURNING 1", CURSOR, at, next
            )
            if not moved:
                raise _Overtaken(f"position {at} was not where the cursor stood")
            await self._trigger(tx, asked)

    async def _trigger(self, tx: Tx, asked: Sequence[Asked]) -> None:
        """In the order of the wiring, which is the order of locks."""
        for manager in self._managers:
            mine = [each for each in asked if each.trigger.manager == manager.queue]
            found = [Found(each.person, t.strength, t.delay, t.key) for each in mine if isinstance(t := each.trigger, Trigger)]
            found += await self._selected(tx, mine)
            for (lane, strength, delay), keys in sorted(by_lane(found).items()):
                await self._queue.trigger(tx.raw, manager.queue, keys, strength, delay, lane)

    async def _selected(self, tx: Tx, asked: Sequence[Asked]) -> list[Found]:
        groups: dict[tuple[str, str, Strength], list[str]] = defaultdict(list)
        for each in asked:
            if isinstance(t := each.trigger, TriggerSelected):
                groups[each.person, t.selection, t.strength].append(t.id)
        return [
            Found(person, strength, timedelta(), key)
            for (person, selection, strength), ids in sorted(groups.items())
            for key in await self._queue.selected(tx.raw, selection, ids)
        ]

    async def _scan(self, manager: Manager, scan: Scan) -> None:
        """At once, as this process may have been away for long, then from time to time."""
        while True:
            await self.scan_once(manager, scan)
            await asyncio.sleep(scan.every.total_seconds())

    async def scan_once(self, manager: Manager, scan: Scan) -> int:
        """Queue what the scan finds; how many keys."""
        async with self._db.acquire() as connection:
            keys = [row["key"] for row in await connection.fetch(SQL[scan.selection])]
        for start in range(0, len(keys), CHUNK):
            await self._retrying(partial(self._queue_keys, manager.queue, keys[start : start + CHUNK]))
            self._wake([manager.queue])
        return len(keys)

    async def _queue_keys(self, queue: str, keys: Sequence[str]) -> None:
        async with self._db.transaction() as tx:
            await self._queue.trigger(tx.raw, queue, keys, Strength.CHANGED)


def _interest(manager: Manager, change: Change) -> Sequence[AnyTrigger]:
    """A change that a manager can't make sense of must not stop the others; its scans will find what it would have meant."""
    try:
        return manager.interest(change)
    except Exception:
        log.exception("a change was not understood", extra={"kind": manager.queue, "key": change.id, "position": change.position})
        return ()


def _person(change: Change) -> str:
    actor = change.actor
    return f"{actor['type']} {actor.get('name', '')}" if actor.get("type") in ("user", "token", "integration") else ""


async def _until_closed(lock: Connection) -> None:
    """The lock is held as long as its connection lives."""
    closed = asyncio.Event()
    lock.add_termination_listener(lambda _: closed.set())
    if not lock.is_closed():
        await closed.wait()
    raise Unavailable("the connection that held the reader's lock was closed")

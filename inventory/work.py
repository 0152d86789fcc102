"""The work queue in the database: which keys the managers have to reconcile, when, and who is at it.

This module is the SQL side alone: it stores, claims and hands back rows. What an outcome does to a row is decided, without a database, by
`managers.workqueue`; the engine in `managers.driver` calls both. `explain` reads from here too. Times are the caller's clock, so that tests
can move it; the default is the database's, which all replicas share.

Lock order, for everybody: rows of `work` by key before rows of resources.

Source: design.md section 6.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from inventory.db import SQL, Connection, Database, dumps, loads


class Strength(IntEnum):
    """How much a trigger may set aside. Stored in `work.again` while the key is being reconciled; 0 there means none."""

    CHANGED = 1
    """Something it depends on changed: look, unless it is backing off or halted."""
    NOW = 2
    """What was in the way has gone (the device is online): don't wait out the backoff. A halted key stays halted."""
    FRESH = 3
    """The user stepped in (a new generation, or a retry): from the first attempt."""


class Lane(IntEnum):
    """Which of two lines a key waits in. Stored in `work.lane`; a key stays in the better one until it is done."""

    PROMPT = 0
    """Few keys, of a change that a person or an integration made and waits for."""
    BULK = 1
    """What comes in great numbers, or of itself: a change that concerns a large part of the fleet, what devices report, scans."""


BULK_SHARE = 4
"""The bulk has every fourth place of a batch, however much is prompt, so that neither starves the other."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A key in hand until its lease ends. `attempts`: failures so far. `fence` rises with every claim of any key. `waited_s`: since it was
    due, in seconds."""

    key: str
    attempts: int
    fence: int
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Held:
    """A claimed row at the end of its reconcile, which is `now`. `again`: the strongest trigger that came meanwhile, None if none did."""

    key: str
    fence: int
    attempts: int
    again: Strength | None
    now: datetime
    last_error: Mapping[str, Any] | None = None
    lane: Lane = Lane.BULK


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as it is to be left. `due_at` None: it waits for a trigger. `backoff`: `due_at` is a pause after a failure."""

    key: str
    due_at: datetime | None
    attempts: int = 0
    halted: bool = False
    backoff: bool = False
    last_error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row as `explain` reads it."""

    manager: str
    key: str
    due_at: datetime | None
    attempts: int
    halted: bool
    last_error: Mapping[str, Any] | None
    running: bool


class WorkQueue:
    """Statements on the table `work`. Those that take a connection run in the caller's transaction; the others are one each.

    `clock`: for tests; else the database's, which all replicas share."""

    def __init__(self, db: Database, clock: Callable[[], datetime] | None = None) -> None:
        self._db = db
        self._clock: Callable[[], datetime | None] = clock or (lambda: None)

    async def trigger(
        self,
        connection: Connection,
        manager: str,
        keys: Sequence[str],
        strength: Strength,
        delay: timedelta = timedelta(),
        lane: Lane = Lane.BULK,
    ) -> None:
        """Queue keys. A key that is queued keeps its place; one being reconciled runs once more; a delay only ever brings nearer."""
        if keys:
            await connection.execute(SQL["trigger_work"], manager, sorted(set(keys)), int(strength), delay, self._clock(), int(lane))

    async def selected(self, connection: Connection, selection: str, ids: Sequence[str]) -> list[str]:
        """The keys that the named statement finds for these ids (it returns a column `key`)."""
        return [row["key"] for row in await connection.fetch(SQL[selection], sorted(set(ids)))] if ids else []

    async def claim(self, manager: str, owner: str, limit: int, lease: timedelta) -> list[Claimed]:
        """Take due keys, the prompt ones first, of a lane those longest due, and those whose lease ran out. Two replicas never get the same
        one. Where `at_least(limit)` are got, there may be more."""
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["claim_work"], manager, limit, owner, lease, self._clock(), at_least(limit))
        return [Claimed(row["key"], row["attempts"], row["fence"], row["waited_s"]) for row in rows]

    async def renew(self, manager: str, claimed: Sequence[Claimed], lease: timedelta) -> None:
        """Keep keys for longer. One that has been taken over is left alone; its holder learns it from `hold`."""
        async with self._db.acquire() as connection:
            await connection.execute(SQL["renew_work"], manager, *_keys(claimed), lease, self._clock())

    async def release(self, manager: str, claimed: Sequence[Claimed], delay: timedelta) -> None:
        """Give keys back as they were, due after the delay: a service stops, or one that it needs is away."""
        async with self._db.acquire() as connection:
            await connection.execute(SQL["release_work"], manager, *_keys(claimed), delay, self._clock())

    async def hold(self, connection: Connection, manager: str, claimed: Sequence[Claimed]) -> list[Held]:
        """Lock the rows of claimed keys, in the order of their keys. A key that is missing from the answer has been taken over, and nothing
        that was decided for it may be written."""
        rows = await connection.fetch(SQL["hold_work"], manager, *_keys(claimed), self._clock())
        return [
            Held(
                r["key"],
                r["fence"],
                r["attempts"],
                Strength(r["again"]) if r["again"] else None,
                r["now"],
                loads(r["last_error"]),
                Lane(r["lane"]),
            )
            for r in rows
        ]

    async def finish(self, connection: Connection, manager: str, left: Sequence[Entry], gone: Sequence[str]) -> None:
        """End the leases of held rows: write what stays, delete what is done."""
        if gone:
            await connection.execute("DELETE FROM work WHERE manager = $1 AND key = ANY ($2::text[])", manager, list(gone))
        if left:
            await connection.execute(
                SQL["leave_work"],
                manager,
                [e.key for e in left],
                [e.due_at for e in left],
                [e.attempts for e in left],
                [e.halted for e in left],
                [e.backoff for e in left],
                [None if e.last_error is None else dumps(e.last_error) for e in left],
            )

    async def due(self, managers: Sequence[str]) -> list[str]:
        """Those managers that have something to claim."""
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["due_work"], list(managers), self._clock())
        return [row["manager"] for row in rows]

    async def stats(self) -> list[Mapping[str, Any]]:
        """A row a manager: `manager`, `queued`, `waiting` (for a trigger), `running`, `halted`."""
        async with self._db.acquire() as connection:
            return [dict(row) for row in await connection.fetch(SQL["work_stats"])]


def at_least(limit: int) -> int:
    """How many prompt keys a claim of `limit` takes at most; fewer in all mean that nothing more was due."""
    return limit - limit // BULK_SHARE


def _keys(claimed: Sequence[Claimed]) -> tuple[list[str], list[int]]:
    return [c.key for c in claimed], [c.fence for c in claimed]


async def in_hand(connection: Connection, manager: str) -> list[str]:
    """Keys that are being decided on just now, by whatever was there when they were claimed."""
    return [row["key"] for row in await connection.fetch(SQL["work_in_hand"], manager)]


async def waiting(connection: Connection, keys: Sequence[str]) -> list[Waiting]:
    """What the queue says of these keys, all managers."""
    rows = await connection.fetch("SELECT * FROM work WHERE key = ANY ($1::text[]) ORDER BY manager, key", list(keys))
    return [
        Waiting(r["manager"], r["key"], r["due_at"], r["attempts"], r["halted"], loads(r["last_error"]), r["lease_until"] is not None)
        for r in rows
    ]

"""The change log: every committed write as one row, in an order that all readers share.

Writers append to `changes_in` within their own transaction. The relay, one at a time under an advisory lock, moves what has committed
to `changes` and gives each a contiguous position there: a transaction that commits late gets a later position and is never skipped,
which a sequence number taken at insert could not promise. Each row's hash covers the one before, so that an edited, removed or
reordered row shows. Readers (`Tail`) follow positions.

Who calls it: the store appends; `inventory.service` runs the relay; managers, web and the MQTT publisher read.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from inventory.actor import Actor
from inventory.db import SQL, Connection, Database, Tx, dumps, loads
from inventory.errors import Gone, Unavailable
from inventory.metrics import METER, RELAYED
from inventory.resource import ReadRow, Resource, time_text

log = logging.getLogger(__name__)

RELAY_LOCK = 0x666C7764_0002
BATCH = 500
PARTITION = 1_000_000
"""Positions a partition holds; retention drops whole ones."""
BUSY_S = 0.003
"""Pause between looks while changes come in: writers then need no NOTIFY."""
CALM_S = 0.5
"""With nothing new for so long, the relay says that it sleeps, and writers wake it."""
POLL_S = 1.0
"""Look again after so long even if no notification came: one may be lost with its connection."""


Move = Literal["entered", "left"]
"""What a change is to a reader whose scope a host has come into, or left, by it."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A change before it has a position."""

    kind: str
    id: str
    op: str
    version: int
    generation: int
    changed: tuple[str, ...]
    resource: Resource | None
    before: Resource | None
    host: str | None
    actor: Actor


@dataclass(frozen=True, slots=True)
class Change:
    """A change as its readers see it. `resource`: after it (None when deleted). `before`: the whole resource when deleted, else the old
    values of the members that changed. `scope`: `entered` or `left` where nothing was made or deleted, but came into the reader's scope or
    left it (`inventory.seen`); the log itself has none."""

    position: int
    kind: str
    id: str
    op: str
    version: int
    generation: int
    changed: tuple[str, ...]
    resource: Resource | None
    before: Resource | None
    host: str | None
    actor: dict[str, str]
    at: datetime
    scope: Move | None = None

    def body(self) -> dict[str, Any]:
        """What goes out over MQTT and SSE (contract.md section 3): `resource` is as after it, or as before it when deleted; `scope`
        is there where it says something."""
        moved = {} if self.scope is None else {"scope": self.scope}
        return {
            "position": self.position,
            "kind": self.kind,
            "id": self.id,
            "op": self.op,
            "version": self.version,
            "generation": self.generation,
            "changed": list(self.changed),
            "resource": self.before if self.op == "deleted" else self.resource,
            "host": self.host,
            "actor": self.actor,
            "at": time_text(self.at),
            **moved,
        }


@dataclass(frozen=True, slots=True)
class Slice:
    """Changes in order, and where to read on from: what lies between the last of them and `next` was not asked for."""

    changes: list[Change]
    next: int


async def append(tx: Tx, drafts: Sequence[Draft], at: datetime) -> None:
    """Leave changes for the relay, in the transaction of the write itself."""
    if not drafts:
        return
    await tx.raw.execute(
        SQL["append_changes"],
        [d.kind for d in drafts],
        [d.id for d in drafts],
        [d.op for d in drafts],
        [d.version for d in drafts],
        [d.generation for d in drafts],
        [dumps(d.changed) for d in drafts],
        [None if d.resource is None else dumps(d.resource) for d in drafts],
        [None if d.before is None else dumps(d.before) for d in drafts],
        [d.host for d in drafts],
        [dumps(d.actor.to_json()) for d in drafts],
        [at] * len(drafts),
    )


_CHAINED = ("kind", "resource_id", "op", "version", "generation", "changed", "resource", "before", "host", "actor")
_EMPTY = "\x1e"
"""An empty text in a hash, which is not the same as none."""


def chain(previous: bytes, position: int, row: ReadRow) -> bytes:
    """The hash of a row: SHA-256 over the hash before it and everything that the row says. JSON as Postgres writes it."""
    said = [str(position)]
    for name in _CHAINED:
        value = row[name]
        said.append("" if value is None else str(value) or _EMPTY)
    said.append(row["at"].astimezone(UTC).isoformat())
    return hashlib.sha256(previous + "\x1f".join(said).encode()).digest()


class Relay:
    """Gives committed changes their positions. Any number may run; one works, the others wait for its lock."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. A lost database is waited for."""
        while True:
            try:
                await self._serve()
            except Unavailable as error:
                log.warning("relay lost the database", extra={"error": str(error)})
                await asyncio.sleep(POLL_S)

    async def _serve(self) -> None:
        listener = await self._db.connect()
        try:
            with self._db.may_be_away():
                await listener.add_listener("changes_in", lambda *_: self._wake.set())
            quiet = 0.0
            while not listener.is_closed():
                moved = await self.step()
                if moved:
                    quiet = 0.0
                elif quiet < CALM_S:
                    quiet += BUSY_S
                    await asyncio.sleep(BUSY_S)
                else:
                    await self._sleep()
            raise Unavailable("the relay's listening connection was closed")
        finally:
            listener.terminate()

    async def _sleep(self) -> None:
        """Say that writers must wake us, look once more for who wrote before seeing that, then wait."""
        self._wake.clear()
        async with self._db.acquire() as connection:
            await connection.execute("UPDATE relay SET idle = true WHERE NOT idle")
            waiting = await connection.fetchval("SELECT EXISTS (SELECT 1 FROM changes_in)")
        if not waiting:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # the wait has a limit because a notification can be lost

    async def step(self) -> int:
        """Move one batch; how many. 0 also while another relay holds the lock."""
        async with self._db.transaction() as tx:
            if not await tx.raw.fetchval("SELECT pg_try_advisory_xact_lock($1)", RELAY_LOCK):
                return 0
            rows = await tx.raw.fetch(SQL["take_changes"], BATCH)
            if rows:
                await self._place(tx, rows)
        METER.count(RELAYED, n=len(rows))
        return len(rows)

    async def _place(self, tx: Tx, rows: list[Any]) -> None:
        state = await tx.raw.fetchrow("SELECT position, hash FROM relay")
        assert state is not None, "the migration makes the relay's row"
        first, digest = state["position"] + 1, bytes(state["hash"])
        last = first + len(rows) - 1
        await _ensure_partitions(tx.raw, first, last)
        hashes = []
        for position, row in enumerate(rows, first):
            digest = chain(digest, position, row)
            hashes.append(digest)
        names = ("kind", "resource_id", "op", "version", "generation", "changed", "resource", "before", "host", "actor", "at")
        await tx.raw.execute(SQL["place_changes"], list(range(first, last + 1)), *([row[name] for row in rows] for name in names), hashes)
        await tx.raw.execute(SQL["advance_relay"], last, digest)
        await tx.raw.execute("SELECT pg_notify('changes', $1)", str(last))


async def _ensure_partitions(connection: Connection, first: int, last: int) -> None:
    """The partition that is being filled, and the next one in good time."""
    for number in {first // PARTITION, last // PARTITION}:
        if number and first <= number * PARTITION <= last:
            low = number * PARTITION
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS changes_{number} PARTITION OF changes FOR VALUES FROM ({low}) TO ({low + PARTITION})"
            )


def change(row: Any) -> Change:
    """A row of `changes`."""
    return Change(
        row["position"],
        row["kind"],
        row["resource_id"],
        row["op"],
        row["version"],
        row["generation"],
        tuple(loads(row["changed"])),
        loads(row["resource"]),
        loads(row["before"]),
        row["host"],
        loads(row["actor"]),
        row["at"],
    )


async def position(db: Database) -> int:
    """The last position given."""
    async with db.acquire() as connection:
        return int(await connection.fetchval("SELECT position FROM relay"))


async def read(
    db: Database, after: int, *, limit: int = BATCH, kinds: Iterable[str] | None = None, ids: Iterable[str] | None = None
) -> Slice:
    """Changes after a position, oldest first. Raises Gone below the floor of the log."""
    async with db.acquire() as connection:
        state = await connection.fetchrow("SELECT position, floor FROM relay")
        assert state is not None, "the migration makes the relay's row"
        if await connection.fetchval("SELECT EXISTS (SELECT 1 FROM log_gaps WHERE after < $1 AND $1 < before)", after):
            raise Gone(f"position {after} was given before a backup was restored: list again and watch from the list's position")
        if after < state["floor"]:
            raise Gone(
                f"position {after} is below {state['floor']}, where the change log begins: list again and watch from the list's position"
            )
        wanted = (None if kinds is None else list(kinds), None if ids is None else list(ids))
        rows = await connection.fetch(SQL["read_changes"], after, state["position"], *wanted, limit)
    changes = [change(row) for row in rows]
    return Slice(changes, changes[-1].position if len(changes) == limit else max(after, state["position"]))


async def newest(
    db: Database, *, limit: int, kinds: Iterable[str] | None = None, ids: Iterable[str] | None = None, before: int | None = None
) -> Slice:
    """The last changes of those asked for, oldest first, and the position to read on from. `before`: only those below it."""
    async with db.acquire() as connection:
        now: int = await connection.fetchval("SELECT position FROM relay")
        wanted = (None if kinds is None else list(kinds), None if ids is None else list(ids))
        rows = await connection.fetch(SQL["newest_changes"], now if before is None else min(now, before - 1), *wanted, limit)
    return Slice([change(row) for row in reversed(rows)], now)


async def history(db: Database, id: str, *, before: int | None = None, limit: int = 100) -> list[Change]:
    """The changes of one resource, newest first, those below position `before` where given."""
    async with db.acquire() as connection:
        rows = await connection.fetch(
            "SELECT * FROM changes WHERE resource_id = $1 AND position < $2 ORDER BY position DESC LIMIT $3", id, before or 2**62, limit
        )
    return [change(row) for row in rows]


class Tail:
    """Follows the log from a position: `async for slice in tail`. Slices may be empty of changes (`next` still moves on).

    Waits for notifications, looks every second besides, and outlives a restart of the database. Raises Gone below the floor."""

    def __init__(self, db: Database, after: int, *, kinds: Iterable[str] | None = None) -> None:
        self._db = db
        self._after = after
        self._kinds = None if kinds is None else tuple(kinds)
        self._wake = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Slice]:
        while True:
            try:
                async for found in self._follow():
                    yield found
            except Unavailable as error:
                log.warning("change log reader lost the database", extra={"error": str(error)})
                await asyncio.sleep(POLL_S)

    async def _follow(self) -> AsyncIterator[Slice]:
        listener = await self._db.connect()
        try:
            with self._db.may_be_away():
                await listener.add_listener("changes", lambda *_: self._wake.set())
            while not listener.is_closed():
                self._wake.clear()
                found = await read(self._db, self._after, kinds=self._kinds)
                if found.next > self._after:
                    yield found
                    self._after = found.next
                else:
                    await self._pause()
        finally:
            listener.terminate()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        except TimeoutError:
            pass  # the wait has a limit because a notification can be lost


async def load_cursor(db: Database, name: str) -> int | None:
    """How far a consumer has come; None where it has never been saved."""
    async with db.acquire() as connection:
        found: int | None = await connection.fetchval("SELECT position FROM cursors WHERE name = $1", name)
        return found


async def save_cursor(connection: Connection, name: str, at: int) -> None:
    await connection.execute(SQL["save_cursor"], name, at)


async def trim(db: Database, older_than: datetime, seal: Callable[[int, bytes], bytes]) -> int:
    """Drop whole partitions whose last change is older; the new floor. The hash of the last row dropped is kept as the chain's anchor, with
    the signature that `seal` gives for the floor and that hash."""
    async with db.transaction() as tx:
        await tx.raw.execute("SELECT pg_advisory_xact_lock($1)", RELAY_LOCK)
        state = await tx.raw.fetchrow("SELECT position, floor FROM relay")
        assert state is not None, "the migration makes the relay's row"
        floor: int = state["floor"]
        # Those that there are: a restore leaves numbers out.
        names = await tx.raw.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'changes'::regclass")
        for number in sorted(int(row["name"].rpartition("_")[2]) for row in names):
            end = (number + 1) * PARTITION - 1
            last = await tx.raw.fetchrow(f"SELECT at, hash FROM changes_{number} ORDER BY position DESC LIMIT 1")
            if end >= state["position"] or last is None or last["at"] >= older_than:
                break
            await tx.raw.execute(
                "INSERT INTO change_anchors (position, hash, at, signature) VALUES ($1, $2, now(), $3)",
                end,
                last["hash"],
                seal(end, bytes(last["hash"])),
            )
            await tx.raw.execute(f"DROP TABLE changes_{number}")
            await tx.raw.execute("DELETE FROM chain_heads WHERE position < $1", end)
            await tx.raw.execute("UPDATE relay SET floor = $1", end)
            floor = end
        return floor

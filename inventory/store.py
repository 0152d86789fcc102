"""The store: the one way to write resources, and a way to read all of them. Every write is a row and its change in one transaction.

It validates, resolves and locks (`inventory.writer`), commits, and hands back the resource as everybody sees it. It knows nothing of
HTTP or MQTT. Who calls it: web (users), ingest (devices), managers, intents. What people read comes through `inventory.view` instead, which
shows each of them what their scope holds; so the web process is given `Writes`.

Source: design.md section 5.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

import asyncpg

from inventory import bulk
from inventory.actor import Actor
from inventory.bulk import BulkWriter
from inventory.db import SQL, Database
from inventory.deposits import Depositor
from inventory.kind import Kind
from inventory.kinds import BY_NAME
from inventory.listing import ListQuery
from inventory.metrics import METER, RETRIES
from inventory.resource import Resource
from inventory.validate import Values
from inventory.view import Page, View, read_one, utcnow
from inventory.writer import RELABEL_BATCH, Lease, Writer

__all__ = ["Lease", "ListQuery", "Page", "Store", "Writes", "read_one", "utcnow"]

log = logging.getLogger(__name__)

T = TypeVar("T")
Ids = list[str]

DEADLOCK_TRIES = 5
"""Two writers that lock rows in different orders: one is undone by Postgres and simply goes again."""


class _DryRun(Exception):
    """Undoes the transaction of a dry run, and carries what it would have given."""

    def __init__(self, result: Any) -> None:
        self.result = result


class Writes:
    """Writes resources. `ref` is an id or a name; `kind` a kind's name. `depositor`: takes secrets in; without one none are taken."""

    def __init__(self, db: Database, clock: Callable[[], datetime] = utcnow, depositor: Depositor | None = None) -> None:
        self.db = db
        self.clock = clock
        self.depositor = depositor

    # --- writes that users ask for --------------------------------------------------------------------------------------------

    async def create(self, kind: str, body: Any, actor: Actor, *, dry_run: bool = False, extra: Values | None = None) -> Resource:
        """Raises Invalid, Forbidden, Conflict. `extra`: columns beside the body that are not the user's (the hash of a token)."""
        k = BY_NAME[kind]
        return _there(await self._run(k, lambda w: w.create(k, body, actor, extra), dry_run))

    async def patch(self, kind: str, ref: str, patch: Any, actor: Actor, *, if_match: int | None = None, dry_run: bool = False) -> Resource:
        """RFC 7396. Raises NotFound, PreconditionFailed, Invalid, Forbidden, Conflict."""
        k = BY_NAME[kind]
        return _there(await self._run(k, lambda w: w.patch(k, ref, patch, actor, if_match), dry_run))

    async def delete(
        self, kind: str, ref: str, actor: Actor, *, if_match: int | None = None, force: bool = False, dry_run: bool = False
    ) -> Resource | None:
        """None: gone. A resource: its delete waits for its manager's word. Raises NotFound, PreconditionFailed, Conflict, Forbidden."""
        k = BY_NAME[kind]
        return await self._run(k, lambda w: w.delete(k, ref, actor, if_match, force), dry_run)

    async def retry(self, kind: str, ref: str, actor: Actor, *, if_match: int | None = None, dry_run: bool = False) -> Resource:
        """Raises NotFound, PreconditionFailed, Conflict."""
        k = BY_NAME[kind]
        return _there(await self._run(k, lambda w: w.retry(k, ref, actor, if_match), dry_run))

    async def _run(self, kind: Kind, act: Callable[[Writer], Awaitable[str | None]], dry_run: bool) -> Resource | None:
        async def whole(w: Writer) -> Resource | None:
            id = await act(w)
            return None if id is None else await read_one(w.tx.raw, kind, id)

        return await self.atomically(whole, dry_run=dry_run)

    # --- writes of managers and devices ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self, lease: Lease | None = None) -> AsyncIterator[BulkWriter]:
        """Several writes in one transaction. Raises LeaseLost before anything is written if the lease is no longer held."""
        async with bulk.transaction(self.db, self.clock(), self.depositor) as writer:
            if lease is not None:
                await writer.check_lease(lease)
            yield writer

    async def atomically(self, act: Callable[[BulkWriter], Awaitable[T]], *, lease: Lease | None = None, dry_run: bool = False) -> T:
        """Run `act` in one transaction, and again after a deadlock: it must do nothing outside the transaction. `dry_run`: what it would
        give, and nothing is written. Raises what it raises."""

        async def once() -> T:
            async with self.transaction(lease) as w:
                result = await act(w)
                if dry_run:
                    raise _DryRun(result)
                return result

        try:
            return await self.retrying(once)
        except _DryRun as undone:
            found: T = undone.result
            return found

    async def write(self, kind: str, id: str, values: Values, actor: Actor, *, lease: Lease | None = None) -> Resource:
        """Set fields that the actor owns. Equal values write nothing. Raises NotFound, Forbidden, LeaseLost."""
        return await self.atomically(lambda w: w.write(BY_NAME[kind], id, values, actor), lease=lease)

    async def make(self, kind: str, values: Values, actor: Actor, *, lease: Lease | None = None) -> Resource:
        """A new row from values that the caller answers for. Raises Forbidden, Conflict, LeaseLost."""
        k = BY_NAME[kind]

        async def whole(w: Writer) -> Resource:
            return await read_one(w.tx.raw, k, await w.make(k, values, actor))

        return await self.atomically(whole, lease=lease)

    async def remove(self, kind: str, id: str, actor: Actor, *, lease: Lease | None = None) -> None:
        """The row goes, with what it owns. Raises NotFound, Conflict, LeaseLost."""
        await self.atomically(lambda w: w.remove(BY_NAME[kind], id, actor), lease=lease)

    async def relabel(
        self, actor: Actor, *, sites: Sequence[str] = (), regions: Sequence[str] = (), hosts: Sequence[str] = (), lease: Lease | None = None
    ) -> Sequence[str]:
        """Bring the effective labels of hosts up to date, in batches: of those named, at these sites, in these regions and below.
        The ids of the hosts whose labels changed. Raises LeaseLost."""
        async with self.db.acquire() as connection:
            rows = await connection.fetch("SELECT id FROM host WHERE site = ANY ($1::text[]) ORDER BY id", list(sites))
            rows += await connection.fetch(SQL["hosts_below_regions"], list(regions))
        ids = sorted({*hosts, *(row["id"] for row in rows)})
        changed: Ids = []
        for start in range(0, len(ids), RELABEL_BATCH):
            batch = ids[start : start + RELABEL_BATCH]

            async def whole(w: Writer, batch: Ids = batch) -> Ids:
                return await w.relabel(batch, actor)

            changed += await self.atomically(whole, lease=lease)
        return changed

    async def retrying(self, once: Callable[[], Awaitable[T]]) -> T:
        """Run a transaction, and again when Postgres undoes it because of a deadlock."""
        for attempt in range(DEADLOCK_TRIES):
            try:
                return await once()
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                if attempt == DEADLOCK_TRIES - 1:
                    raise
                METER.count(RETRIES, "deadlock")
                log.info("write goes again after a deadlock", extra={"attempt": attempt + 1})
                await asyncio.sleep(0.01 * 2**attempt)
        raise AssertionError("unreachable")


class Store(Writes):
    """Besides, reads resources, whoever's they are."""

    async def get(self, kind: str, ref: str) -> Resource:
        """Raises NotFound."""
        return await View(self.db, clock=self.clock).get(kind, ref)

    async def read_many(self, kind: str, ids: Iterable[str]) -> dict[str, Resource]:
        """Those of the ids that exist."""
        return await View(self.db, clock=self.clock).read_many(kind, ids)

    async def list(self, kind: str, query: ListQuery) -> Page:
        """As `View.list`."""
        return await View(self.db, clock=self.clock).list(kind, query)


def _there(resource: Resource | None) -> Resource:
    assert resource is not None, "only a delete gives nothing"
    return resource

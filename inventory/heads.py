"""The witness of the change log: it signs how far the log goes, and first sees to it that the log still stands on what it signed before.

Whoever rewrites rows and all hashes after them gives the log a chain that fits; it does not fit the head that this process remembers, so
no head is signed on top of it, and people are told. It looks at one row, not at the whole log: `inventory.verify` does. One replica at
a time does it, by a session lock. Heads are kept in the database, one an hour and the newest, given out by the API, and written to the log
of this process once an hour: a copy elsewhere (`fleetward audit head`) is what a cut tail is found by.

Called by `inventory.service`. Source: docs/adr/0018-audit.md.
"""

import asyncio
import logging
from datetime import datetime, timedelta

from inventory.actor import Actor
from inventory.authority import utcnow
from inventory.db import SQL, Connection, Database
from inventory.metrics import AUDIT_BROKEN, METER
from inventory.publisher import sole
from inventory.resource import ReadRow
from inventory.seals import Head, Sealer, stands
from inventory.store import Store

log = logging.getLogger(__name__)

LOCK = 0x666C7764_0013
"""Advisory lock of the one witness (`inventory.db` says how they are numbered)."""
EVERY_S = 5.0
"""A head is signed so often where the log has moved, in seconds: what is cut off later than that is found by it."""
SAID = timedelta(hours=1)


class Witness:
    """`run` until cancelled. Raises Unavailable when the database is lost; run it again then: it remembers what it has signed."""

    def __init__(self, store: Store, sealer: Sealer) -> None:
        self._store, self._sealer = store, sealer
        self._last: Head | None = None
        self._said: datetime | None = None
        self.broken = ""
        """Why nothing is signed any more; empty: all is well."""

    async def run(self) -> None:
        async with sole(self._store.db, LOCK) as held:
            while not held.is_closed():
                await self.step(utcnow())
                await asyncio.sleep(EVERY_S)

    async def step(self, now: datetime) -> Head | None:
        """Sign the head where it has moved; the newest one signed. None: there is nothing to sign, or the log was rewritten."""
        if self.broken:
            return None
        async with self._store.db.transaction() as tx:
            ends = await tx.raw.fetchrow(SQL["log_ends"])
            assert ends is not None, "the migration makes the relay's row"
            last = self._last or await newest(tx.raw)
            broken = "" if last is None else await self._doubt(tx.raw, last, ends)
            if not broken and ends["position"] and (last is None or last.position < ends["position"]):
                last, before = self._sealer.head(ends["position"], bytes(ends["hash"]), now), last
                await _keep(tx.raw, last, before)
        if broken:
            await self._alarm(broken)
            return None
        self._last = last
        self._say(last, now)
        return last

    async def _doubt(self, connection: Connection, last: Head, ends: ReadRow) -> str:
        """What is wrong with the log, measured by the head signed last; empty where nothing is."""
        if not stands(self._sealer.public, last.signed(), last.signature):
            return f"the newest signed head, of position {last.position}, was not signed with this installation's key"
        if ends["position"] < last.position:
            return f"the log went to position {last.position} at {last.at:%Y-%m-%d %H:%M:%S} UTC, and now ends at {ends['position']}"
        if last.position <= ends["floor"]:
            return ""
        found = await connection.fetchval("SELECT hash FROM changes WHERE position = $1", last.position)
        return "" if found == last.hash else f"position {last.position} is not what it was when it was signed"

    async def _alarm(self, broken: str) -> None:
        METER.set(AUDIT_BROKEN, True)
        log.critical("the change log was rewritten", extra={"error": broken})
        message = f"The change log was rewritten: {broken}. `fleetward audit verify` says where; nothing is signed until a restart."
        told = {"severity": "critical", "type": "AuditBroken", "message": message}
        await self._store.make("notification", told, Actor.inventory())
        self.broken = broken  # last: where people could not be told, they are at the next look

    def _say(self, head: Head | None, now: datetime) -> None:
        if head is not None and (self._said is None or now - self._said >= SAID):
            self._said = now
            log.info("change log signed", extra={"position": head.position, "digest": head.hash.hex()})


async def newest(connection: Connection) -> Head | None:
    """The head signed last."""
    row = await connection.fetchrow(SQL["newest_head"])
    return None if row is None else Head.from_row(row)


async def newest_of(db: Database) -> Head | None:
    """Likewise, for who has no connection. Raises Unavailable."""
    async with db.acquire() as connection:
        return await newest(connection)


async def _keep(connection: Connection, head: Head, before: Head | None) -> None:
    await connection.execute(SQL["add_head"], head.position, head.hash, head.at, head.key, head.signature)
    if before is not None:
        await connection.execute(SQL["thin_heads"], before.position)

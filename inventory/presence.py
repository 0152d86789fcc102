"""Presence without a word from the device: hosts that have been silent become stale, then offline.

The Will of a cut connection usually comes first (`inventory.ingest`); this catches what no Will tells. Silence counts only while a replica
has been listening to the host's shard, so that Inventory's own absence never makes a host offline: `silent_hosts` in queries.sql says
when. Called by `inventory.service`, by every replica; a host is written once, because its row is locked and looked at again.

Source: design.md section 4 ("Presence").
"""

import logging
from collections.abc import Callable
from datetime import datetime

from inventory import bulk
from inventory.actor import Actor
from inventory.db import SQL, Database
from inventory.kinds.host import HOST

log = logging.getLogger(__name__)

BATCH = 500
"""Hosts written in one transaction: a switch that fails silences many at once."""


async def sweep(db: Database, clock: Callable[[], datetime]) -> int:
    """Write the presence that silent hosts should have; how many were written. Raises Unavailable."""
    async with db.acquire() as connection:
        silent = [row["id"] for row in await connection.fetch(SQL["silent_hosts"])]
    written = 0
    for start in range(0, len(silent), BATCH):
        written += await _write(db, clock(), silent[start : start + BATCH])
    return written


async def _write(db: Database, at: datetime, hosts: list[str]) -> int:
    async with bulk.transaction(db, at) as w:
        before = await w.read_locked(HOST, hosts)
        still = {row["id"]: row["wanted"] for row in await w.tx.raw.fetch(SQL["silent_hosts"])}
        wanted = {id: {"presence": still[id]} for id in before if id in still}
        after = await w.write_read(HOST, {id: before[id] for id in wanted}, wanted, lambda _: Actor.inventory())
    for id, host in after.items():
        log.info("host is silent", extra={"device": id, "presence": host["presence"]})
    return len(after)

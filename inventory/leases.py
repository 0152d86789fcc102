"""Which replica listens to which devices: the 256 shards, leased from the database and shared out among the replicas that are alive.

One replica holds all of them, by one wildcard subscription; a second one takes half; what a killed one held moves when its lease has run
out. A shard is told of as heard (`subscribed_since`) only while that is true without a gap, because the silence of devices is judged by it.
Correctness does not hang on leases: each device's stream is locked while it is written, so two that hear it only repeat each other.

Called by `inventory.service`. Source: design.md section 3.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from broker.topics import SHARDS, Topics
from inventory.db import SQL, Database

log = logging.getLogger(__name__)


class Ears(Protocol):
    """What is needed of the broker session."""

    async def subscribe(self, *filters: str, qos: int = 1) -> None: ...

    async def unsubscribe(self, *filters: str) -> None: ...


class Leases:
    """The shards of one replica. `moved` is called when shards come: others may have written for their devices."""

    def __init__(self, db: Database, topics: Topics, ears: Ears, name: str, lease_s: float, moved: Callable[[], None]) -> None:
        self._db, self._topics, self._ears, self._name, self._lease_s, self._moved = db, topics, ears, name, lease_s, moved
        self.held: frozenset[str] = frozenset()
        self._filters: frozenset[str] = frozenset()
        self._deaf = True

    def interrupted(self) -> None:
        """We did not hear everything: silence counts anew from the next step on."""
        self._deaf = True

    async def step(self, hearing: bool) -> None:
        """Renew, take or give what is fair, subscribe accordingly. `hearing`: the session is connected. Raises Unavailable."""
        deaf, self._deaf = self._deaf, False
        try:
            mine, surplus = await self._renew(hearing, deaf)
            kept = mine - surplus
            if kept - self.held:
                self._moved()
            await self._listen(kept)
            if surplus:
                await self._give(surplus)
        except BaseException:
            self._deaf = True
            raise
        if not hearing or kept - self.held:
            self._deaf = True  # heard from now on at the earliest: the next step says so
        if kept != self.held:
            log.info("shards held", extra={"shards": len(kept), "replica": self._name})
        self.held = kept

    async def release(self) -> None:
        """Give everything away, at the end. Raises Unavailable."""
        await self._give(self.held)
        async with self._db.acquire() as connection:
            await connection.execute("DELETE FROM ingest_replica WHERE name = $1", self._name)
        self.held = frozenset()

    async def _renew(self, hearing: bool, deaf: bool) -> tuple[frozenset[str], frozenset[str]]:
        """What we hold now, and what of it is more than our share."""
        async with self._db.transaction() as tx:
            alive = await tx.raw.fetchval(SQL["greet_replicas"], self._name, self._lease_s)
            renewed = await tx.raw.fetch(SQL["renew_leases"], self._name, self._lease_s)
            mine = {row["shard"] for row in renewed}
            self.held &= mine  # what another one had meanwhile comes anew, also where it comes back in this very step
            if deaf or not hearing or any(row["lapsed"] for row in renewed):
                # Before the commit that makes the leases current again: nobody may count our silence as the devices'.
                await tx.raw.execute(SQL["say_subscribed"], self._name, sorted(mine), hearing and mine <= self.held)
            share = -(-len(SHARDS) // max(1, alive))
            if len(mine) < share:
                mine |= {row["shard"] for row in await tx.raw.fetch(SQL["take_leases"], self._name, self._lease_s, share - len(mine))}
        return frozenset(mine), frozenset(sorted(mine)[share:])

    async def _listen(self, shards: frozenset[str]) -> None:
        wanted = frozenset((self._topics.uplinks(),) if len(shards) == len(SHARDS) else (self._topics.uplinks(shard) for shard in shards))
        if wanted != self._filters:
            # Noted last: what was refused is asked for again, and until it is granted nothing counts as heard.
            await self._ears.subscribe(*sorted(wanted - self._filters))
            await self._ears.unsubscribe(*sorted(self._filters - wanted))
            self._filters = wanted

    async def _give(self, shards: frozenset[str]) -> None:
        async with self._db.acquire() as connection:
            await connection.execute(SQL["give_leases"], self._name, sorted(shards))

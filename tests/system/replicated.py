"""What a replicated installation does, as an observer in its database saw it: every step of a stream, every claim of a key.

Triggers write it down in the transactions that do it, so that nothing is missed between two looks. `tests/system/test_replicas.py` judges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

OBSERVER = """
CREATE TABLE seen_steps (id bigserial, host text, before bigint, after bigint);
CREATE FUNCTION see_step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO seen_steps (host, before, after) VALUES (NEW.host, OLD.seq, NEW.seq); RETURN NULL;
END $$;
CREATE TRIGGER seen AFTER UPDATE ON device_stream FOR EACH ROW WHEN (NEW.seq IS DISTINCT FROM OLD.seq) EXECUTE FUNCTION see_step();

CREATE TABLE seen_claims (id bigserial, key text, fence bigint, owner text, owner_before text, until_before timestamptz, at timestamptz);
CREATE FUNCTION see_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO seen_claims (key, fence, owner, owner_before, until_before, at)
    VALUES (NEW.manager || ' ' || NEW.key, NEW.fence, NEW.lease_owner, OLD.lease_owner, OLD.lease_until, clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER seen AFTER UPDATE ON work FOR EACH ROW WHEN (NEW.fence <> OLD.fence) EXECUTE FUNCTION see_claim();
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A key taken by `owner`, while or after it was leased to `owner_before`."""

    key: str
    fence: int
    owner: str
    owner_before: str | None
    until_before: datetime | None
    at: datetime

    @property
    def doubled(self) -> bool:
        """Whether it was another's at that moment."""
        return self.until_before is not None and self.until_before > self.at

    @property
    def pid(self) -> int:
        return _pid(self.owner)

    @property
    def pid_before(self) -> int | None:
        return None if self.owner_before is None else _pid(self.owner_before)


def _pid(owner: str) -> int:
    """Of a managers process, from the name under which it claims."""
    return int(owner.split(":")[-2])


async def claims(connection: asyncpg.Connection) -> list[Claim]:
    rows = await connection.fetch("SELECT key, fence, owner, owner_before, until_before, at FROM seen_claims ORDER BY id")
    return [Claim(*row) for row in rows]


async def steps(connection: asyncpg.Connection, host: str) -> list[tuple[int, int]]:
    """From which to which number a device's stream went, transaction by transaction."""
    rows = await connection.fetch("SELECT before, after FROM seen_steps WHERE host = $1 ORDER BY id", host)
    return [(row["before"], row["after"]) for row in rows]


def unbroken(taken: Sequence[tuple[int, int]], last: int) -> bool:
    """Whether the steps follow upon each other from nothing to the last message: none left out, none taken twice."""
    return [before for before, _ in taken] == [0, *(after for _, after in taken[:-1])] and taken[-1][1] == last


async def shares(connection: asyncpg.Connection) -> dict[int, int]:
    """How many shards each Inventory process holds, by its pid."""
    rows = await connection.fetch("SELECT owner, count(*) AS n FROM ingest_lease WHERE until > now() GROUP BY owner")
    return {int(row["owner"].split("-")[-2]): row["n"] for row in rows}


async def holder(connection: asyncpg.Connection, shard: str) -> int:
    """The pid of the Inventory process that reads a shard."""
    owner = await connection.fetchval("SELECT owner FROM ingest_lease WHERE shard = $1", shard)
    return int(owner.split("-")[-2])


async def in_hand(connection: asyncpg.Connection, queue: str) -> dict[int, list[str]]:
    """The keys of a queue that are claimed, by the pid of the managers process."""
    found: dict[int, list[str]] = {}
    for row in await connection.fetch("SELECT key, lease_owner FROM work WHERE lease_until IS NOT NULL AND manager = $1", queue):
        found.setdefault(_pid(row["lease_owner"]), []).append(row["key"])
    return found

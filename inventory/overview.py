"""Reads for people: the fleet in numbers, and lists counted by a field. Called by the dashboard; nothing here is written.

Each function is one statement or few, cheap enough to run at every view of a page.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inventory.columns import resolve
from inventory.db import SQL, Database
from inventory.filter import compile_filter
from inventory.kinds import BY_NAME
from inventory.resource import source

Counts = list[tuple[str, int]]
"""A value and how many rows have it, most first; an absent value is the empty text."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts by presence; host-configs (`placed`) by how far they are. `pending`: hosts of which something is not as wanted."""

    hosts: int
    online: int
    stale: int
    offline: int
    never: int
    waiting: int
    configs: int
    sites: int
    placed: int
    settled: int
    halted: int
    drifted: int
    pending: int


async def fleet(db: Database) -> Fleet:
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["fleet_numbers"])
    assert row is not None, "an aggregate without GROUP BY has one row"
    return Fleet(**dict(row))


async def versions(db: Database) -> Mapping[str, Counts]:
    """`agent_version` and `os_version` of the hosts that have been heard."""
    found: dict[str, Counts] = {"agent_version": [], "os_version": []}
    async with db.acquire() as connection:
        for row in await connection.fetch(SQL["versions_in_use"]):
            found[row["what"]].append((row["value"], row["n"]))
    return found


async def count_by(db: Database, kind: str, filter: str, path: str, now: datetime, *, limit: int = 50) -> Counts:
    """How many resources that match the filter have each value at a path. Raises FilterError."""
    k = BY_NAME[kind]
    predicate, column = compile_filter(k, filter, now=now), resolve(k, path, 1)
    sql = (
        f"SELECT coalesce({column.value_sql}::text, '') AS value, count(*) AS n FROM {source(k)} WHERE {predicate.sql} "
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {limit:d}"
    )
    async with db.acquire() as connection:
        return [(row["value"], row["n"]) for row in await connection.fetch(sql, *predicate.params)]


async def work_of_hosts(db: Database, ids: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
    """By host: `placed`, `pending` and `halted` host-configs. A host without any is absent."""
    return await _by_key(db, "work_of_hosts", "host", list(ids))


async def work_of_configs(db: Database, ids: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
    """By config: `hosts`, `settled`, `halted` and `failing` host-configs. A config on no host is absent."""
    return await _by_key(db, "work_of_configs", "config", list(ids))


async def health_of_sites(db: Database) -> Mapping[str | None, Mapping[str, Any]]:
    """By site, None for hosts at no site: `hosts`, `online`, `stale`, `offline`, `halted`."""
    async with db.acquire() as connection:
        return {row["site"]: dict(row) for row in await connection.fetch(SQL["health_of_sites"])}


async def _by_key(db: Database, statement: str, key: str, ids: list[str]) -> Mapping[str, Mapping[str, Any]]:
    async with db.acquire() as connection:
        return {row[key]: dict(row) for row in await connection.fetch(SQL[statement], ids)}


async def things_of_host(db: Database, host: str) -> list[str]:
    """The ids whose changes tell a host's story."""
    async with db.acquire() as connection:
        return [row["id"] for row in await connection.fetch(SQL["things_of_host"], host)]


async def unread(db: Database) -> int:
    """Notifications that nobody has marked read; 1000 stands for any more."""
    async with db.acquire() as connection:
        return int(await connection.fetchval(SQL["unread_notifications"]))


async def unread_ids(db: Database, limit: int) -> list[str]:
    async with db.acquire() as connection:
        return [row["id"] for row in await connection.fetch(SQL["unread_ids"], limit)]

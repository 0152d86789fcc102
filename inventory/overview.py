"""Reads for people: the fleet in numbers, and lists counted by a field. Called by the dashboard; nothing here is written.

Each function is one statement or few, cheap enough to run at every view of a page, over what the reader's `View` holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inventory.columns import resolve
from inventory.db import SQL
from inventory.filter import compile_filter
from inventory.kinds import BY_NAME
from inventory.resource import source
from inventory.view import View

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


async def fleet(db: View) -> Fleet:
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["fleet_numbers"])
    assert row is not None, "an aggregate without GROUP BY has one row"
    return Fleet(**dict(row))


async def versions(db: View) -> Mapping[str, Counts]:
    """`agent_version` and `os_version` of the hosts that have been heard."""
    found: dict[str, Counts] = {"agent_version": [], "os_version": []}
    async with db.acquire() as connection:
        for row in await connection.fetch(SQL["versions_in_use"]):
            found[row["what"]].append((row["value"], row["n"]))
    return found


async def count_by(db: View, kind: str, filter: str, path: str, now: datetime, *, limit: int = 50) -> Counts:
    """How many resources that match the filter have each value at a path. Raises FilterError."""
    k = BY_NAME[kind]
    predicate, column = compile_filter(k, filter, now=now), resolve(k, path, 1)
    sql = (
        f"SELECT coalesce({column.value_sql}::text, '') AS value, count(*) AS n FROM {source(k)} WHERE {predicate.sql} "
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {limit:d}"
    )
    async with db.acquire() as connection:
        return [(row["value"], row["n"]) for row in await connection.fetch(sql, *predicate.params)]


@dataclass(frozen=True, slots=True)
class Narrowing:
    """A field to count by, and the filter that the choices made of it stand for (empty: none)."""

    path: str
    chosen: str = ""


async def facets(
    db: View, kind: str, filter: str, narrowings: Sequence[Narrowing], now: datetime, *, limit: int = 30
) -> tuple[int, list[Counts]]:
    """How many resources match the filter and all choices; and for each narrowing the counts of its values among those that match the
    filter and the other choices, so that they show what else could be chosen. One scan serves all. Raises FilterError."""
    k = BY_NAME[kind]
    predicate = compile_filter(k, filter, now=now)
    members, params, start = [], list(predicate.params), predicate.next
    for number, narrowing in enumerate(narrowings):
        chosen = compile_filter(k, narrowing.chosen, start=start, now=now)
        members.append(f"coalesce({resolve(k, narrowing.path, 1).value_sql}::text, '') AS v{number}, ({chosen.sql}) IS TRUE AS c{number}")
        params, start = params + list(chosen.params), chosen.next
    numbers = range(len(narrowings))
    every = " AND ".join(f"c{each}" for each in numbers) or "TRUE"
    parts = [f"SELECT -1 AS facet, '' AS value, count(*) AS n FROM m WHERE {every}"]
    for number in numbers:
        others = " AND ".join(f"c{each}" for each in numbers if each != number) or "TRUE"
        parts.append(f"(SELECT {number}, v{number}, count(*) FROM m WHERE {others} GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT {limit:d})")
    matching = f"SELECT {', '.join(members) or '1'} FROM {source(k)} WHERE {predicate.sql}"
    async with db.acquire() as connection:
        rows = await connection.fetch(f"WITH m AS MATERIALIZED ({matching}) {' UNION ALL '.join(parts)}", *params)
    return rows[0]["n"], [[(row["value"], row["n"]) for row in rows if row["facet"] == number] for number in numbers]


async def work_of_hosts(db: View, ids: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
    """By host: `placed`, `pending` and `halted` host-configs. A host without any is absent."""
    return await _by_key(db, "work_of_hosts", "host", list(ids))


async def work_of_configs(db: View, ids: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
    """By config: `hosts`, `settled`, `halted` and `failing` host-configs. A config on no host is absent."""
    return await _by_key(db, "work_of_configs", "config", list(ids))


async def health_of_sites(db: View) -> Mapping[str | None, Mapping[str, Any]]:
    """By site, None for hosts at no site: `hosts`, `online`, `stale`, `offline`, `halted`."""
    async with db.acquire() as connection:
        return {row["site"]: dict(row) for row in await connection.fetch(SQL["health_of_sites"])}


async def _by_key(db: View, statement: str, key: str, ids: list[str]) -> Mapping[str, Mapping[str, Any]]:
    async with db.acquire() as connection:
        return {row[key]: dict(row) for row in await connection.fetch(SQL[statement], ids)}


async def things_of_host(db: View, host: str) -> list[str]:
    """The ids whose changes tell a host's story."""
    async with db.acquire() as connection:
        return [row["id"] for row in await connection.fetch(SQL["things_of_host"], host)]


async def unread(db: View) -> int:
    """Notifications that nobody has marked read; 1000 stands for any more."""
    async with db.acquire() as connection:
        return int(await connection.fetchval(SQL["unread_notifications"]))


async def unread_ids(db: View, limit: int) -> list[str]:
    async with db.acquire() as connection:
        return [row["id"] for row in await connection.fetch(SQL["unread_ids"], limit)]


async def waiting_ids(db: View, limit: int) -> list[str]:
    """Hosts whose devices wait for approval or were refused, who came last first."""
    async with db.acquire() as connection:
        return [row["host"] for row in await connection.fetch(SQL["waiting_ids"], limit)]


async def expected_ids(db: View, limit: int) -> list[str]:
    """Hosts that were written down and whose machines have not come yet, the newest first."""
    async with db.acquire() as connection:
        return [row["id"] for row in await connection.fetch(SQL["expected_ids"], limit)]

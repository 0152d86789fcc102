"""What one reader sees: reads of resources and of numbers about them, through the reader's scope.

A scoped read is the same statement over smaller tables: in front of it stand common table expressions that bear the names of the tables
which hold something of hosts, and hold only what is of hosts within the scope. So no statement can forget it: lists, counts, facets, single
reads, what is computed for display and what a filter looks up by name all read the smaller tables. Without a scope a statement goes as it
is. The change log has its own way (`inventory.seen`).

Called by web, for every read of a person or a program: `View.acquire` gives what `inventory.overview` and `inventory.explain` ask with.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

from inventory.access import HOSTS, hosts_within
from inventory.db import Connection, Database
from inventory.errors import NotFound
from inventory.filter import compile_filter, compile_order
from inventory.kind import Kind
from inventory.kinds import BY_NAME
from inventory.kinds.host import HOST
from inventory.listing import ListQuery, count_query, page_query
from inventory.resource import Resource, from_row, select_list, source

OF_A_HOST = (
    *("changes", "changes_in", "certificate", "command", "component", "device_identity", "device_liveness", "device_log", "device_stream"),
    *("device_trust", "enrollment_request", "host_config", "host_facts", "host_labels", "host_told", "notification", "poison", "strays"),
)
"""Every table with a column `host`, which says whose host a row is of. A row of none is in nobody's scope."""

_WITH = re.compile(r"\s*WITH\s+(?P<recursive>RECURSIVE\s)?", re.IGNORECASE)


def utcnow() -> datetime:
    return datetime.now(UTC)


class Reads(Protocol):
    """What statements are asked of: a connection, or one that narrows them."""

    async def fetch(self, query: str, *args: Any) -> list[Any]: ...

    async def fetchrow(self, query: str, *args: Any) -> Any: ...

    async def fetchval(self, query: str, *args: Any) -> Any: ...


class _Narrowing:
    """A connection that reads no more than a scope holds."""

    def __init__(self, connection: Connection, scope: str) -> None:
        self._connection, self._scope = connection, scope

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        sql, params = narrowed(query, self._scope, len(args))
        return await self._connection.fetch(sql, *args, *params)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        sql, params = narrowed(query, self._scope, len(args))
        return await self._connection.fetchrow(sql, *args, *params)

    async def fetchval(self, query: str, *args: Any) -> Any:
        sql, params = narrowed(query, self._scope, len(args))
        return await self._connection.fetchval(sql, *args, *params)


@lru_cache(maxsize=4096)
def narrowed(statement: str, scope: str, given: int) -> tuple[str, tuple[Any, ...]]:
    """The statement over the tables as a scope leaves them, and the parameters to add to the `given` ones. Pure.

    NOT MATERIALIZED: PostgreSQL then plans as if the conditions stood in the statement, and uses its indexes. None of the expressions sees
    a later one, nor itself, so that the scope's own condition reads the whole tables; WITH RECURSIVE would change that, and is refused."""
    begins = _WITH.match(statement)
    if begins is not None and begins["recursive"]:
        raise ValueError("a recursive statement can't be narrowed")
    hosts = hosts_within(scope, given + 1)
    # What is joined to narrowed hosts by their id needs no narrowing of its own, which would cost a hundred times the join.
    searched = statement.replace(source(HOST), "")
    tables = [f"host AS NOT MATERIALIZED (SELECT r.* FROM {HOSTS} WHERE {hosts.sql})"]
    for table in OF_A_HOST:
        if re.search(rf"\b{table}\b", searched):
            tables.append(f"{table} AS NOT MATERIALIZED (SELECT t.* FROM {table} t WHERE t.host IN (SELECT id FROM host))")
    rest = statement if begins is None else f", {statement[begins.end() :]}"
    return f"WITH {', '.join(tables)} {rest}", hosts.params


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list. `position`: where to watch from, so that nothing is missed after this list. `total`: where it was asked for."""

    items: list[Resource]
    next_page_token: str
    position: int
    total: int | None = None


class View:
    """Reads within a scope; the empty one holds everything. `ref` is an id or a name; `kind` a kind's name."""

    def __init__(self, db: Database, scope: str = "", clock: Callable[[], datetime] = utcnow) -> None:
        self.db, self.scope, self.clock = db, scope, clock

    @asynccontextmanager
    async def acquire(self, *, snapshot: bool = False) -> AsyncIterator[Reads]:
        """For statements of one's own. snapshot: all of them see the same. Raises Unavailable."""
        async with self.db.acquire() as connection:
            reads: Reads = _Narrowing(connection, self.scope) if self.scope else connection
            if not snapshot:
                yield reads
                return
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield reads

    async def get(self, kind: str, ref: str) -> Resource:
        """Raises NotFound."""
        async with self.acquire() as connection:
            return await read_one(connection, BY_NAME[kind], ref)

    async def read_many(self, kind: str, ids: Iterable[str]) -> dict[str, Resource]:
        """Those of the ids that there are to be seen."""
        k = BY_NAME[kind]
        async with self.acquire() as connection:
            rows = await connection.fetch(
                f"SELECT {select_list(k, single=False)} FROM {source(k)} WHERE r.id = ANY ($1::text[]) ORDER BY r.id", list(ids)
            )
        return {row["id"]: from_row(k, row) for row in rows}

    async def list(self, kind: str, query: ListQuery) -> Page:
        """A page, from one snapshot with its position. Raises BadRequest for a filter, order or page token that can't be understood."""
        k = BY_NAME[kind]
        predicate = compile_filter(k, query.filter, now=self.clock())
        order = compile_order(k, query.order_by)
        page = page_query(k, predicate, order, query, select=select_list(k, single=False), source=source(k))
        async with self.acquire(snapshot=True) as connection:
            rows = await connection.fetch(page.sql, *page.params)
            position = await connection.fetchval("SELECT position FROM relay")
            total = await connection.fetchval(count_query(predicate, source=source(k)), *predicate.params) if query.count else None
        kept, token = page.split(rows)
        items = [_pick(from_row(k, row), query.fields) for row in kept]
        return Page(items, token, position, total)


async def read_one(connection: Reads, kind: Kind, ref: str) -> Resource:
    """The resource by id or name, also within a transaction that has just written it. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {select_list(kind, single=True)} FROM {source(kind)} WHERE r.id = $1 OR r.name = $1 ORDER BY r.id = $1 DESC LIMIT 1", ref
    )
    if row is None:
        raise NotFound(f"there is no {kind.name} {ref!r}")
    return from_row(kind, row)


def _pick(resource: Resource, fields: Sequence[str]) -> Resource:
    return {name: resource[name] for name in fields if name in resource} if fields else resource

"""What devices report, written many rows a statement: the hot path of ingest, where one statement a row is too dear.

`DeviceWriter` is the store's `Writer` with `write_many` and `make_many` added. The meaning stays: each row gets its change in the same
transaction, each row's own actor owns what it writes, equal values write nothing, rows are locked in id order. It differs from
`inventory.bulk` (managers, one actor for all) in never reading a row again after writing it, which device and Inventory fields allow:
none of them is an intent, and nothing computed hangs on them. Called by `inventory.ingest` and `inventory.presence`.

Source: design.md section 5 ("Write").
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from typing import Any

from inventory.actor import Actor
from inventory.db import Database, dumps
from inventory.ids import new_id
from inventory.kind import Kind
from inventory.kinds import ROWS
from inventory.resource import Resource, from_row, shown
from inventory.validate import Values
from inventory.writer import Writer

ActorOf = Callable[[Resource], Actor]
"""Who answers for the write of one resource, such as the device it belongs to."""

_ARRAYS = {
    "CharField": "text",
    "TextField": "text",
    "IntField": "int",
    "BigIntField": "bigint",
    "FloatField": "float8",
    "BooleanField": "boolean",
    "DatetimeField": "timestamptz",
    "JSONField": "jsonb",
}


class DeviceWriter(Writer):
    """The writes of one transaction, many rows a statement."""

    async def write_many(self, kind: Kind, values: Mapping[str, Values], actor_of: ActorOf) -> dict[str, Resource]:
        """Set fields of many rows; those that differ now, as they are then. Ids that there are not are left out. Raises Forbidden."""
        if not values:
            return {}
        before = {row["id"]: row for row in await self._read(kind, sorted(values), lock=True)}
        return await self.write_read(kind, before, values, actor_of)

    async def write_read(
        self, kind: Kind, before: Mapping[str, Resource], values: Mapping[str, Values], actor_of: ActorOf
    ) -> dict[str, Resource]:
        """Likewise, of rows that have been read and locked already in this transaction."""
        after: dict[str, Resource] = {}
        raw: dict[str, Values] = {}
        for id, old in before.items():
            changed = {name: value for name, value in values[id].items() if old[name] != shown(kind.by_name[name], value)}
            if changed:
                self._check_owner(kind, changed, actor_of(old))
                after[id] = old | {name: shown(kind.by_name[name], value) for name, value in changed.items()}
                raw[id] = changed
        if after:
            await self._store(kind, after, raw)
            for id, new in after.items():
                self._draft(kind, "updated", new, before[id], actor_of(new))
        return after

    async def make_many(self, kind: Kind, rows: Sequence[Values], actor_of: ActorOf) -> list[Resource]:
        """New rows, named by their ids; as they are then. For kinds without states and without computed fields alone."""
        if not rows:
            return []
        assert kind.states is None and not any(f.computed for f in kind.fields), kind.name
        versions = await self._versions(len(rows))
        meta = {"title": "", "labels": {}, "generation": 1, "created_at": self.at, "updated_at": self.at}
        full: list[Values] = []
        for row, version in zip(rows, versions, strict=True):
            id = new_id(kind.prefix)
            full.append({"id": id, "name": id, "version": version, **meta, **row})
        columns = tuple(full[0])
        await self.tx.raw.execute(_insert_sql(kind, columns), *_arrays(kind, columns, full))
        blank = dict.fromkeys(f.name for f in kind.fields)
        made = [from_row(kind, blank | row, hidden=True) for row in full]
        for resource in made:
            self._draft(kind, "created", resource, None, actor_of(resource))
        return made

    async def read_of_hosts(self, kind: Kind, hosts: Sequence[str]) -> list[Resource]:
        """All rows that belong to these hosts, locked, in id order."""
        ids = await self.tx.raw.fetch(f'SELECT id FROM "{kind.table}" WHERE host = ANY ($1::text[])', list(hosts))
        return await self._read(kind, sorted(row["id"] for row in ids), lock=True) if ids else []

    async def read_locked(self, kind: Kind, ids: Sequence[str]) -> dict[str, Resource]:
        """Those of the ids that exist, locked, in id order."""
        return {row["id"]: row for row in await self._read(kind, sorted(ids), lock=True)} if ids else {}

    async def _store(self, kind: Kind, after: dict[str, Resource], raw: Mapping[str, Values]) -> None:
        """One UPDATE for all of them. A column that only some change is written as it is for the others: their rows are locked."""
        columns = tuple(sorted({name for changed in raw.values() for name in changed}))
        ids = list(after)
        versions = await self._versions(len(ids))
        rows = []
        for id, version in zip(ids, versions, strict=True):
            after[id] |= {"version": version, "updated_at": shown(kind.by_name["updated_at"], self.at)}
            rows.append({name: raw[id].get(name, after[id][name]) for name in columns})
        await self.tx.raw.execute(_update_sql(kind, columns), ids, versions, self.at, *_arrays(kind, columns, rows))

    async def _versions(self, count: int) -> list[int]:
        rows = await self.tx.raw.fetch("SELECT nextval('versions') AS version FROM generate_series(1, $1::int)", count)
        return [row["version"] for row in rows]


@asynccontextmanager
async def device_transaction(db: Database, at: datetime) -> AsyncIterator[DeviceWriter]:
    """A transaction with a DeviceWriter; its changes are appended before the commit. Raises Unavailable."""
    async with db.transaction() as tx:
        writer = DeviceWriter(tx, at)
        yield writer
        await writer.flush()


@cache
def _type(kind_name: str, column: str) -> str:
    return _ARRAYS[type(ROWS[kind_name]._meta.fields_map[column]).__name__]


@cache
def _update(kind_name: str, table: str, columns: tuple[str, ...]) -> str:
    sets = ", ".join(f'"{column}" = v."{column}"{_cast(kind_name, column)}' for column in columns)
    names = ", ".join(f'"{column}"' for column in ("id", "version", *columns))
    arrays = ", ".join(("$1::text[]", "$2::bigint[]", *_parameters(kind_name, columns, 4)))
    return f'UPDATE "{table}" AS r SET version = v.version, updated_at = $3, {sets} FROM unnest({arrays}) AS v ({names}) WHERE r.id = v.id'


def _update_sql(kind: Kind, columns: tuple[str, ...]) -> str:
    return _update(kind.name, kind.table, columns)


@cache
def _insert(kind_name: str, table: str, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(f'v."{column}"{_cast(kind_name, column)}' for column in columns)
    arrays = ", ".join(_parameters(kind_name, columns, 1))
    return f'INSERT INTO "{table}" ({names}) SELECT {values} FROM unnest({arrays}) AS v ({names})'


def _insert_sql(kind: Kind, columns: tuple[str, ...]) -> str:
    return _insert(kind.name, kind.table, columns)


def _parameters(kind_name: str, columns: tuple[str, ...], first: int) -> list[str]:
    """JSON travels as text."""
    types = (_type(kind_name, column) for column in columns)
    return [f"${number}::{'text' if type_ == 'jsonb' else type_}[]" for number, type_ in enumerate(types, first)]


def _cast(kind_name: str, column: str) -> str:
    return "::jsonb" if _type(kind_name, column) == "jsonb" else ""


def _arrays(kind: Kind, columns: tuple[str, ...], rows: Sequence[Values]) -> list[list[Any]]:
    return [[_parameter(_type(kind.name, column), row[column]) for row in rows] for column in columns]


def _parameter(type_: str, value: Any) -> Any:
    if value is None:
        return None
    match type_:
        case "jsonb":
            return dumps(value)
        case "timestamptz" if isinstance(value, str):
            return datetime.fromisoformat(value)
    return value

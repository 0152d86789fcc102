"""Many writes of one kind in a few statements: what managers decide for thousands of hosts and what thousands of devices report, where
one statement a row is too dear.

`BulkWriter` is the `Writer` of a transaction with writes of many rows added. The meaning stays: owners are checked, rows locked in id
order, each gets a version and its change, equal values write nothing. It is not for users' input, which needs validation and references,
and never reads a row again after writing it: none of the kinds written here shows a value that is computed from what is written.

Called by `inventory.store` (so by `managers.settling`), `inventory.ingest` and `inventory.presence`. Source: design.md section 5 ("Write").
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from typing import Any

import asyncpg

from inventory.actor import Actor
from inventory.db import Database, dumps
from inventory.deposits import Depositor
from inventory.errors import Forbidden, Outdated
from inventory.ids import new_id
from inventory.kind import Field, Kind, Scalar
from inventory.kinds import ROWS
from inventory.resource import Resource, shown
from inventory.validate import Values
from inventory.writer import Writer, pending

ActorOf = Callable[[Resource], Actor]
"""Who answers for the write of one resource, such as the device it belongs to."""

_JSON = (Scalar.JSON, Scalar.LABELS)
_ARRAYS = {
    Scalar.TEXT: "text",
    Scalar.INTEGER: "bigint",
    Scalar.NUMBER: "float8",
    Scalar.BOOLEAN: "boolean",
    Scalar.TIME: "timestamptz",
    Scalar.JSON: "text",
    Scalar.LABELS: "text",
}
"""The array element type that a field's values travel as; JSON as text."""


class BulkWriter(Writer):
    """The writes of one transaction, many rows a statement."""

    async def write_many(self, kind: Kind, values: Mapping[str, Values], actor_of: ActorOf) -> dict[str, Resource]:
        """Set fields of many rows; those that differ now, as they are then. Ids that there are not are left out. Raises Forbidden."""
        return await self.write_read(kind, await self.read_locked(kind, list(values)), values, actor_of)

    async def write_read(
        self, kind: Kind, before: Mapping[str, Resource], values: Mapping[str, Values], actor_of: ActorOf
    ) -> dict[str, Resource]:
        """Likewise, of rows that have been read and locked already in this transaction."""
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        after: dict[str, Resource] = {}
        for id, old in before.items():
            names = tuple(sorted(name for name, value in values[id].items() if old[name] != _seen(kind.by_name[name], value)))
            if names:
                self._check_owner(kind, {name: values[id][name] for name in names}, actor_of(old))
                groups[names].append(id)
        for names, ids in groups.items():
            after |= await self._set(kind, names, {id: before[id] for id in ids}, values)
        for id, new in after.items():
            self._draft(kind, "updated", new, before[id], actor_of(new))
        return after

    async def make_many(self, kind: Kind, rows: Sequence[Mapping[str, Any]], actor_of: ActorOf) -> list[Resource]:
        """New rows from values that the caller answers for, named by their ids; as they are then. For kinds without computed fields.

        Raises Forbidden, Outdated; any other breach of the schema is the database's own error."""
        if not rows:
            return []
        assert not any(f.computed for f in kind.fields), kind.name
        full = [self._full(kind, row, version) for row, version in zip(rows, await self._versions(len(rows)), strict=True)]
        made: list[Resource] = [{"id": row["id"], "kind": kind.name} | {f.name: _seen(f, row[f.name]) for f in kind.fields} for row in full]
        for resource in made:
            self._check_maker(kind, actor_of(resource))
        try:
            await self.tx.raw.execute(_insert(kind), *_columns(kind.fields, full))
        except asyncpg.ForeignKeyViolationError as error:
            raise Outdated(f"what a new {kind.name} refers to has gone: {error}") from error
        for resource in made:
            self._draft(kind, "created", resource, None, actor_of(resource))
        return made

    async def read_of_hosts(self, kind: Kind, hosts: Sequence[str]) -> list[Resource]:
        """All rows that belong to these hosts, locked, in id order."""
        ids = await self.tx.raw.fetch(f'SELECT id FROM "{kind.table}" WHERE host = ANY ($1::text[])', list(hosts))
        return await self._read(kind, [row["id"] for row in ids], lock=True) if ids else []

    async def read_locked(self, kind: Kind, ids: Sequence[str]) -> dict[str, Resource]:
        """Those of the ids that exist, locked, in id order."""
        return {row["id"]: row for row in await self._read(kind, ids, lock=True)} if ids else {}

    async def _set(
        self, kind: Kind, names: tuple[str, ...], before: Mapping[str, Resource], values: Mapping[str, Values]
    ) -> dict[str, Resource]:
        """One UPDATE of the same fields of many rows; the rows as they are then."""
        fields = [kind.by_name[name] for name in names]
        intent = any(f.intent for f in fields)
        versions = await self._versions(len(before))
        written = [values[id] for id in before]
        await self.tx.raw.execute(_update(kind, names, intent), list(before), versions, self.at, *_columns(fields, written))
        updated_at = shown(kind.by_name["updated_at"], self.at)
        return {
            id: old
            | {f.name: _seen(f, values[id][f.name]) for f in fields}
            | {"version": version, "updated_at": updated_at, "generation": old["generation"] + intent}
            for (id, old), version in zip(before.items(), versions, strict=True)
        }

    async def _versions(self, count: int) -> list[int]:
        rows = await self.tx.raw.fetch("SELECT nextval('versions') AS version FROM generate_series(1, $1::int)", count)
        return [row["version"] for row in rows]

    def _full(self, kind: Kind, values: Mapping[str, Any], version: int) -> Values:
        """A new row: what is given, and what every row has."""
        row = _defaults(kind.name) | {"version": version, "generation": 1, "created_at": self.at, "updated_at": self.at}
        if kind.states:
            row |= {"desired_state": kind.states.desired[0], "current_state": kind.states.initial_current, "status": pending(self.at)}
        id = values.get("id") or new_id(kind.prefix)
        return row | {"name": id} | dict(values) | {"id": id}

    def _check_maker(self, kind: Kind, actor: Actor) -> None:
        if actor.creates_as not in kind.creators:
            raise Forbidden(f"a {kind.name} is made by {' or '.join(sorted(kind.creators))}, not by {actor.name}")


@asynccontextmanager
async def transaction(db: Database, at: datetime, depositor: Depositor | None = None) -> AsyncIterator[BulkWriter]:
    """A transaction with its writer; the changes are appended before the commit. Raises Unavailable."""
    async with db.transaction() as tx:
        writer = BulkWriter(tx, at, depositor)
        yield writer
        await writer.flush()


@cache
def _defaults(kind_name: str) -> Values:
    """What the model says of columns that nobody gives."""
    found = {name: f.default for name, f in ROWS[kind_name]._meta.fields_map.items()}
    return {name: default() if callable(default) else default for name, default in found.items()}


@cache
def _update(kind: Kind, names: tuple[str, ...], intent: bool) -> str:
    fields = [kind.by_name[name] for name in names]
    sets = ", ".join(f'"{f.name}" = v."{f.name}"{_cast(f)}' for f in fields)
    columns = ", ".join(f'"{f.name}"' for f in fields)
    generation = ", generation = r.generation + 1" if intent else ""
    return (
        f'UPDATE "{kind.table}" r SET version = v.version, updated_at = $3, {sets}{generation} '
        f"FROM unnest($1::text[], $2::bigint[], {_arrays(fields, 4)}) AS v (id, version, {columns}) WHERE r.id = v.id"
    )


@cache
def _insert(kind: Kind) -> str:
    columns = ", ".join(f'"{f.name}"' for f in kind.fields)
    values = ", ".join(f'v."{f.name}"{_cast(f)}' for f in kind.fields)
    return f'INSERT INTO "{kind.table}" ({columns}) SELECT {values} FROM unnest({_arrays(kind.fields, 1)}) AS v ({columns})'


def _arrays(fields: Sequence[Field], first: int) -> str:
    return ", ".join(f"${n}::{_ARRAYS[f.scalar]}[]" for n, f in enumerate(fields, first))


def _cast(field: Field) -> str:
    return "::jsonb" if field.scalar in _JSON else ""


def _columns(fields: Sequence[Field], rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [[_parameter(f, row[f.name]) for row in rows] for f in fields]


def _parameter(field: Field, value: Any) -> Any:
    if value is None:
        return None
    if field.scalar in _JSON:
        return dumps(value)
    return datetime.fromisoformat(value) if field.scalar is Scalar.TIME and isinstance(value, str) else value


def _seen(field: Field, value: Any) -> Any:
    """A value to write, as the resource then shows it. A text in a JSON field is a text."""
    return value if field.scalar is Scalar.JSON else shown(field, value)

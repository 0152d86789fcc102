"""Many writes of one kind in a few statements: what `Writer.write` and `Writer.make` do one row at a time.

A config that changes on 10,000 hosts is tens of thousands of writes. The meaning is the same: owners checked, rows locked in id order,
a version each, a change each, nothing written where nothing differs. No validation of users' input: only managers call it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from inventory.actor import Actor
from inventory.db import dumps
from inventory.errors import Forbidden
from inventory.ids import new_id
from inventory.kind import Field, Kind, Scalar
from inventory.kinds import ROWS
from inventory.resource import Resource
from inventory.writer import Writer, _pending, _same

_TYPES = {
    Scalar.TEXT: "text",
    Scalar.INTEGER: "bigint",
    Scalar.NUMBER: "float8",
    Scalar.BOOLEAN: "boolean",
    Scalar.TIME: "timestamptz",
    Scalar.JSON: "text",
    Scalar.LABELS: "text",
}
"""The array element type that a field's values travel as; JSON as text."""


async def write_many(w: Writer, kind: Kind, values: Mapping[str, Mapping[str, Any]], actor: Actor) -> set[str]:
    """Set fields that the actor owns, on many resources; the ids of those that exist. Raises Forbidden."""
    for row in values.values():
        w._check_owner(kind, row, actor)
    current = {row["id"]: row for row in await w._read(kind, sorted(values), lock=True)}
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for id, before in current.items():
        names = tuple(sorted(name for name, value in values[id].items() if not _same(before.get(name), value)))
        if names:
            groups[names].append(id)
    for names, ids in groups.items():
        await _update(w, kind, names, ids, values)
    seen = [id for names, ids in groups.items() if not kind.unlogged.issuperset(names) for id in ids]
    for after in await w._read(kind, seen) if seen else ():
        w._draft(kind, "updated", after, current[after["id"]], actor)
    return set(current)


async def _update(w: Writer, kind: Kind, names: Sequence[str], ids: Sequence[str], values: Mapping[str, Mapping[str, Any]]) -> None:
    fields = [kind.by_name[name] for name in names]
    columns = ", ".join(f"c{n}" for n in range(len(fields)))
    sets = ", ".join(f'"{f.name}" = v.c{n}{_cast(f)}' for n, f in enumerate(fields))
    generation = ", generation = r.generation + 1" if any(f.intent for f in fields) else ""
    await w.tx.raw.execute(
        f"UPDATE \"{kind.table}\" r SET {sets}, version = nextval('versions'), updated_at = $2{generation} "
        f"FROM unnest($1::text[], {_arrays(fields, 3)}) AS v (id, {columns}) WHERE r.id = v.id",
        list(ids),
        w.at,
        *([_parameter(f, values[id][f.name]) for id in ids] for f in fields),
    )


async def make_many(w: Writer, kind: Kind, rows: Iterable[Mapping[str, Any]], actor: Actor) -> list[str]:
    """New rows from values that the caller answers for; their ids. Raises Forbidden; a breach of the schema is the database's own error."""
    if actor.creates_as not in kind.creators:
        raise Forbidden(f"a {kind.name} is made by {' or '.join(sorted(kind.creators))}, not by {actor.name}")
    made = [_new_row(w, kind, row) for row in rows]
    fields = [f for f in kind.fields if not f.computed and f.name != "version"]
    names = ", ".join(f'"{f.name}"' for f in fields)
    columns = ", ".join(f"c{n}" for n in range(len(fields)))
    values = ", ".join(f"v.c{n}{_cast(f)}" for n, f in enumerate(fields))
    await w.tx.raw.execute(
        f"INSERT INTO \"{kind.table}\" ({names}, version) SELECT {values}, nextval('versions') "
        f"FROM unnest({_arrays(fields, 1)}) AS v ({columns})",
        *([_parameter(f, row[f.name]) for row in made] for f in fields),
    )
    ids = [row["id"] for row in made]
    for after in await w._read(kind, ids):
        w._draft(kind, "created", after, None, actor)
    return ids


def _new_row(w: Writer, kind: Kind, values: Mapping[str, Any]) -> Resource:
    id = values.get("id") or new_id(kind.prefix)
    row: Resource = _defaults(kind.name) | {"name": id, "generation": 1, "created_at": w.at, "updated_at": w.at}
    if kind.states:
        row |= {"desired_state": kind.states.desired[0], "current_state": kind.states.initial_current, "status": _pending(w.at)}
    return row | dict(values) | {"id": id}


@cache
def _defaults(kind_name: str) -> dict[str, Any]:
    """What the model says of columns that nobody gives."""
    found = {name: f.default for name, f in ROWS[kind_name]._meta.fields_map.items()}
    return {name: default() if callable(default) else default for name, default in found.items()}


def _arrays(fields: Sequence[Field], first: int) -> str:
    return ", ".join(f"${n}::{_TYPES[f.scalar]}[]" for n, f in enumerate(fields, first))


def _cast(field: Field) -> str:
    return "::jsonb" if _is_json(field) else ""


def _is_json(field: Field) -> bool:
    return field.scalar in (Scalar.JSON, Scalar.LABELS)


def _parameter(field: Field, value: Any) -> Any:
    return dumps(value) if value is not None and _is_json(field) else value

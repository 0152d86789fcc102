"""Resources as everybody sees them: JSON objects made from rows, and the differences between two of them. Pure.

A resource is a `dict` in the shape of contract.md section 4. `select_list` says what to read for it, `from_row` makes it, `logged`
is what of it stands in events (nothing that varies by itself), `changed_paths` what differs.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol

from inventory.db import loads
from inventory.kind import Field, Kind, Scalar

Resource = dict[str, Any]


class ReadRow(Protocol):
    """A result row: an asyncpg Record, or a dict."""

    def __getitem__(self, key: str, /) -> Any: ...

    def keys(self) -> Iterable[str]: ...


_DEEP = frozenset({"labels", "effective_labels", "status", "secrets"})
"""Members whose changes are told one level down, as `labels.line`."""


def time_text(at: datetime) -> str:
    """RFC 3339, UTC, milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def column(field: Field) -> str:
    """The SQL expression a field is read from, on the row alias `r`."""
    return field.column or f'r."{field.name}"'


@cache
def select_list(kind: Kind, *, single: bool) -> str:
    """All that a resource shows, hidden fields included (they are dropped by `from_row`); with `single`, the bulky ones too."""
    return ", ".join(f'{column(f)} AS "{f.name}"' for f in kind.fields if single or not f.single_only)


@cache
def source(kind: Kind) -> str:
    """FROM clause: the kind's table as `r`, and the joins that its fields need."""
    return f'"{kind.table}" r {kind.joins}'.strip()


def shown(field: Field, value: Any) -> Any:
    """A column's value as JSON."""
    if isinstance(value, datetime):
        return time_text(value)
    if field.scalar in (Scalar.JSON, Scalar.LABELS):
        value = loads(value) if isinstance(value, str) else value
        return {} if value is None and field.scalar is Scalar.LABELS else value
    return value


def from_row(kind: Kind, row: ReadRow, *, hidden: bool = False) -> Resource:
    """The resource of a row that was read with `select_list`."""
    resource: Resource = {"id": row["id"], "kind": kind.name}
    there = set(row.keys())
    for name, field in _members(kind, hidden):
        if name in there:
            value = row[name]
            if field is not None and (value is not None or field.scalar is Scalar.LABELS):
                value = shown(field, value)
            resource[name] = value
    return resource


@cache
def _members(kind: Kind, hidden: bool) -> tuple[tuple[str, Field | None], ...]:
    """The members that a row shows, each with its field where `shown` makes something else of the value: few of the forty of a host."""
    made = (Scalar.JSON, Scalar.LABELS, Scalar.TIME)
    return tuple((f.name, f if f.scalar in made else None) for f in kind.fields if hidden or not f.hidden)


def logged(kind: Kind, resource: Resource) -> Resource:
    """What of a resource the change log holds: neither what is restless nor what is hidden."""
    return {name: value for name, value in resource.items() if name not in kind.unlogged}


def changed_paths(before: Resource, after: Resource) -> tuple[str, ...]:
    """The members that differ, in the order of `after`; `version` and `updated_at`, which always do, aside."""
    paths: list[str] = []
    for name in after:
        old, new = before.get(name), after[name]
        if old == new or name in ("version", "updated_at"):
            continue
        if name in _DEEP and isinstance(new, dict) and isinstance(old, dict):
            paths += [f"{name}.{key}" for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        else:
            paths.append(name)
    return tuple(paths)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: the target as the patch would have it; null removes."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result

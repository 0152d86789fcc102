"""Paths, as filters and order_by write them, to the SQL that reads them: `cpu_cores`, `labels.line`, `status.reason`.

Pure. It knows what a Kind says of its fields and nothing of operators, values or parameters: that is `inventory.filter`, its caller.
Whatever stands in an expression made here comes from a Kind, or is a label key that `LABEL_KEY` has let through.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from inventory.filter_syntax import FilterError
from inventory.kind import LABEL_KEY, Field, Kind, Scalar

EFFECTIVE = "effective_labels"
"""A kind that has this field reads `labels.KEY` from it: filters see the inherited labels (design.md section 5)."""

NEVER_NULL = frozenset({"id", "name", "title", "labels", "version", "generation", "created_at", "updated_at"})
"""Columns that every resource's table declares NOT NULL (`inventory.rows`)."""

_CAST = {Scalar.INTEGER: "bigint", Scalar.NUMBER: "double precision", Scalar.BOOLEAN: "boolean", Scalar.TIME: "timestamptz"}
_PLAIN = re.compile(r"\w+(\.\w+)?")


@dataclass(frozen=True, slots=True)
class Column:
    """What a path reads. sql: the value; for a label, the map that holds it. `nullable` errs on the safe side."""

    path: str
    sql: str
    scalar: Scalar
    field: Field
    label: str = ""
    nullable: bool = True

    @property
    def value_sql(self) -> str:
        """The value itself, for a label too."""
        return f"({self.sql} ->> '{self.label}')" if self.label else self.sql


def resolve(kind: Kind, path: str, column: int) -> Column:
    """The column behind a path. Raises FilterError, with the nearest names, where there is none. `column`: of the path, 1-based."""
    head, dot, rest = path.partition(".")
    field = kind.by_name.get(head)
    if field is None or field.hidden:
        raise FilterError(f"{kind.name} has no field {path[:64]}{_nearest(kind, path)}", column)
    match field.scalar:
        case Scalar.LABELS if dot:
            return _label(kind, field, rest, column)
        case Scalar.JSON if dot:
            return _member(field, rest, column)
        case _ if dot:
            raise FilterError(f"{head} has no members: {path[:64]}", column)
        case _:
            return Column(path, _source(kind, field), field.scalar, field, nullable=not _never_null(field))


def _label(kind: Kind, field: Field, key: str, column: int) -> Column:
    if not LABEL_KEY.fullmatch(key):
        raise FilterError(f"{key[:64]} is no label key: lower-case letters, digits and ._/- only, 1 to 63 of them", column)
    return Column(f"{field.name}.{key}", _source(kind, field), Scalar.TEXT, field, label=key)


def _member(field: Field, member: str, column: int) -> Column:
    scalar = field.members.get(member)
    if scalar is None:
        known = f"; there are {', '.join(field.members)}" if field.members else ""
        raise FilterError(f"{field.name} has no member {member[:64]} to filter or sort by{known}", column)
    text = f"({_expression(field)} ->> '{member}')"
    return Column(f"{field.name}.{member}", f"{text}::{_CAST[scalar]}" if scalar in _CAST else text, scalar, field)


def _source(kind: Kind, field: Field) -> str:
    effective = kind.by_name.get(EFFECTIVE)
    return _expression(effective if field.name == "labels" and effective is not None else field)


def _expression(field: Field) -> str:
    sql = field.column or f"r.{field.name}"
    return sql if _PLAIN.fullmatch(sql) else f"({sql})"


def _never_null(field: Field) -> bool:
    return not field.column and (field.name in NEVER_NULL or not field.nullable)


def paths(kind: Kind) -> Iterator[str]:
    """Every path that a filter on this kind may use, label keys apart. For completion and for the docs."""
    for field in kind.fields:
        if field.hidden or (field.single_only and not field.members):
            continue
        yield field.name
        yield from (f"{field.name}.{member}" for member in field.members)


def _nearest(kind: Kind, path: str) -> str:
    known = list(paths(kind))
    near = [name for name in known if name.startswith(path)][:3] or get_close_matches(path[:64], known, n=3, cutoff=0.6)
    if near:
        return f"; did you mean {', '.join(near)}?"
    return f"; did you mean labels.{path}?" if LABEL_KEY.fullmatch(path) else ""

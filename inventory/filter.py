"""AIP-160 filters and order_by, compiled to parameterised PostgreSQL. The only evaluator: lists, selectors and scopes all come here.

Pure: a Kind, a text and a clock in, SQL and parameters out; it runs nothing. What a text means is in docs/filters.md. Values travel as
parameters only; expressions come from the Kind. The store calls it for lists and selectors, `inventory.listing` for the order of pages.

Every condition may be NULL where it reads one; NULL counts as false, and `!=` and NOT turn it into true: a missing value matches them.
Source: AIP-160 (filtering), AIP-132 (order_by), contract.md section 5.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, get_args, get_origin

from inventory.columns import Column, resolve
from inventory.filter_syntax import All, Comparison, FilterError, Group, Literal, Node, Not, Search, Some, check_text, parse
from inventory.filter_values import is_duration, typed
from inventory.kind import Kind, Scalar

__all__ = ["EVERYTHING", "FilterError", "Order", "OrderKey", "Predicate", "both", "compile_filter", "compile_order"]

MAX_ORDER = 5
"""Most fields in one order_by."""
SEARCHED = ("name", "title", "id", "hostname")
"""Fields that a value without a field is looked for in, as far as the kind has them."""

_CAST = {
    Scalar.TEXT: "text",
    Scalar.INTEGER: "bigint",
    Scalar.NUMBER: "double precision",
    Scalar.BOOLEAN: "boolean",
    Scalar.TIME: "timestamptz",
}
"""Parameters are cast to the widest type of their scalar, so that no value overflows the column's own."""


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition on the row alias `r` and the kind's joins. params: for `$start`, `$start+1`, ... fields: the paths it reads."""

    sql: str
    params: tuple[Any, ...]
    fields: frozenset[str]
    start: int = 1

    @property
    def next(self) -> int:
        """The first parameter number that is still free after this predicate."""
        return self.start + len(self.params)


EVERYTHING = Predicate("TRUE", (), frozenset())


@dataclass(frozen=True, slots=True)
class OrderKey:
    """One key of an order. nullable: the value may be NULL, which sorts as the greatest."""

    path: str
    sql: str
    scalar: Scalar
    descending: bool
    nullable: bool

    @property
    def cast(self) -> str:
        return _CAST[self.scalar]


@dataclass(frozen=True, slots=True)
class Order:
    """A total order of a kind's rows: the last key is always the id. NULL is last ascending and first descending, as in an index."""

    keys: tuple[OrderKey, ...]

    @property
    def sql(self) -> str:
        return ", ".join(f"{key.sql} {'DESC' if key.descending else 'ASC'}" for key in self.keys)

    @property
    def text(self) -> str:
        """The order_by that it stands for, in its canonical form."""
        return ", ".join(f"{key.path} desc" if key.descending else key.path for key in self.keys)


def compile_filter(kind: Kind, text: str, *, start: int = 1, now: datetime, selector: bool = False) -> Predicate:
    """Compile a filter on a kind. start: number of the first parameter. now: what durations count from.

    selector: refuse fields that flap. Raises FilterError, with the 1-based column, for whatever can't be understood; an empty text
    matches everything.
    """
    node = parse(text)
    if node is None:
        return Predicate("TRUE", (), frozenset(), start)
    compiler = _Compiler(kind, now, selector, start)
    sql = compiler.condition(node)
    return Predicate(sql, tuple(compiler.params), frozenset(compiler.fields), start)


def both(first: Predicate, second: Predicate) -> Predicate:
    """What matches both, a filter and a scope for instance. `second` must have been compiled with `start=first.next`."""
    if second.start != first.next:
        raise ValueError(f"parameters would clash: the second starts at {second.start}, not at {first.next}")
    return Predicate(f"({first.sql}) AND ({second.sql})", first.params + second.params, first.fields | second.fields, first.start)


def compile_order(kind: Kind, text: str) -> Order:
    """Compile an order_by: `name desc, created_at`. Raises FilterError with the column. The id follows, in the last key's direction."""
    check_text(text)
    keys: list[OrderKey] = []
    column = 1
    for item in text.split(",") if text.strip() else ():
        if len(keys) == MAX_ORDER:
            raise FilterError(f"at most {MAX_ORDER} fields to sort by", column)
        keys.append(_order_key(kind, item, column, {key.path for key in keys}))
        column += len(item) + 1
    if all(key.path != "id" for key in keys):
        keys.append(OrderKey("id", "r.id", Scalar.TEXT, bool(keys) and keys[-1].descending, False))
    return Order(tuple(keys))


def _order_key(kind: Kind, item: str, column: int, taken: set[str]) -> OrderKey:
    column += len(item) - len(item.lstrip())
    match item.split():
        case [path]:
            descending = False
        case [path, "asc" | "desc" as direction]:
            descending = direction == "desc"
        case []:
            raise FilterError("a field is missing here", column)
        case [path, *rest]:
            raise FilterError(f"after {path[:64]} goes asc, desc or a comma, not {' '.join(rest)[:64]}", column)
        case _:
            raise AssertionError(item)
    found = resolve(kind, path, column)
    if found.scalar not in _CAST or found.field.single_only:
        raise FilterError(f"{path} can't be sorted by", column)
    if found.path in taken:
        raise FilterError(f"{path} is there twice", column)
    return OrderKey(found.path, found.value_sql, found.scalar, descending, found.nullable)


@dataclass(slots=True)
class _Compiler:
    """One compilation: gathers parameters and the paths used while the tree is walked (at most MAX_DEPTH deep)."""

    kind: Kind
    now: datetime
    selector: bool
    start: int
    params: list[Any] = field(default_factory=list)
    fields: set[str] = field(default_factory=set)

    def condition(self, node: Node) -> str:
        match node:
            case All(operands):
                return f"({' AND '.join(map(self.condition, operands))})"
            case Some(operands):
                return f"({' OR '.join(map(self.condition, operands))})"
            case Group(operand):
                return self.condition(operand)
            case Not(operand):
                return f"NOT COALESCE({self.condition(operand)}, false)"
            case Search(value):
                return self.search(value)
            case Comparison():
                return self.comparison(node)

    def bind(self, value: Any, cast: str = "text") -> str:
        self.params.append(value)
        return f"${self.start + len(self.params) - 1}::{cast}"

    def search(self, literal: Literal) -> str:
        columns = [resolve(self.kind, name, literal.column) for name in SEARCHED if name in self.kind.by_name]
        usable = [c for c in columns if c.field.selectable or not self.selector]
        if not usable:
            raise FilterError("a value without a field can't be used here", literal.column)
        self.fields.update(column.path for column in usable)
        pattern = self.bind(_pattern(literal, inside=True))
        return f"({' OR '.join(f'{column.sql} ILIKE {pattern}' for column in usable)})"

    def comparison(self, node: Comparison) -> str:
        column = resolve(self.kind, node.path, node.column)
        self.admit(column, node)
        self.fields.add(column.path)
        conditions = list(map(partial(self.one, column, node.operator), node.values))
        return conditions[0] if len(conditions) == 1 else f"({' OR '.join(conditions)})"

    def admit(self, column: Column, node: Comparison) -> None:
        if column.field.single_only and not column.field.members:
            raise FilterError(f"{column.path} can't be filtered by", node.column)
        if self.selector and not column.field.selectable:
            usable = ", ".join(f.name for f in self.kind.fields if f.selectable and not f.hidden)
            why = "it changes by itself, or follows from what is selected"
            raise FilterError(f"{column.path} can't be used in a selector: {why}; usable are {usable}", node.column)

    def one(self, column: Column, operator: str, literal: Literal) -> str:
        match operator:
            case "=":
                return self.equal(column, literal)
            case "!=":
                return self.differ(column, literal)
            case ":":
                return self.has(column, literal)
            case _:
                return self.ordered(column, operator, literal)

    def value(self, column: Column) -> str:
        return f"({column.sql} ->> {self.bind(column.label)})" if column.label else column.sql

    def equal(self, column: Column, literal: Literal) -> str:
        if literal.is_null:
            return f"{self.value(column)} IS NULL"
        if literal.is_any:
            return self.present(column)
        self.check_value(column, literal)
        if column.field.reference is not None:
            return self.refers(column, literal)
        if literal.prefix:
            return f"{self.value(column)} LIKE {self.bind(_pattern(literal))}"
        if column.label:
            return f"{column.sql} @> {self.bind(json.dumps({column.label: literal.text}), 'text::jsonb')}"
        return f"{column.sql} = {self.typed(column, literal)}"

    def differ(self, column: Column, literal: Literal) -> str:
        if literal.is_null:
            return f"{self.value(column)} IS NOT NULL"
        if literal.prefix or column.label or column.field.reference:
            return f"NOT COALESCE({self.equal(column, literal)}, false)"
        self.check_value(column, literal)
        return f"{column.sql} IS DISTINCT FROM {self.typed(column, literal)}"

    def present(self, column: Column) -> str:
        if column.label:
            return f"{column.sql} ? {self.bind(column.label)}"
        return f"{column.sql} <> '{{}}'::jsonb" if column.scalar is Scalar.LABELS else f"{column.sql} IS NOT NULL"

    def has(self, column: Column, literal: Literal) -> str:
        """AIP-160's `:`. A map has a key, a list an element; text has a part; anything else has only itself."""
        if column.scalar is Scalar.LABELS and not literal.is_any and not literal.prefix:
            return f"{column.sql} ? {self.bind(literal.text)}"
        if _is_text_list(column.field.annotation) and not literal.prefix:
            return f"{column.sql} ? {self.bind(literal.text)}"
        exact = column.label or column.field.choices or column.field.reference or column.scalar is not Scalar.TEXT
        if exact or literal.is_any or literal.is_null:
            return self.equal(column, literal)
        return f"{column.sql} ILIKE {self.bind(_pattern(literal, inside=True))}"

    def ordered(self, column: Column, operator: str, literal: Literal) -> str:
        if column.field.choices or column.field.reference or column.scalar is Scalar.BOOLEAN:
            raise FilterError(f"{column.path} has no order: compare it with =, != or :", literal.column)
        if literal.prefix or literal.is_null:
            raise FilterError(f"{operator} needs a value; null and a * at the end go with =, != and :", literal.column)
        self.check_value(column, literal)
        return f"{self.value(column)} {operator} {self.typed(column, literal)}"

    def typed(self, column: Column, literal: Literal) -> str:
        return self.bind(typed(column.scalar, literal, self.now), _CAST[column.scalar])

    def refers(self, column: Column, literal: Literal) -> str:
        """A reference by id or by name. As an array, which an index on the column serves in any context; of two elements where it names
        one, because PostgreSQL takes a subquery's array for ten and then rather walks a whole index of the order."""
        assert column.field.reference is not None
        table = column.field.reference.kind.replace("-", "_")
        if literal.prefix:
            pattern = self.bind(_pattern(literal))
            return f"{column.sql} = ANY (ARRAY(SELECT t.id FROM {table} t WHERE t.id LIKE {pattern} OR t.name LIKE {pattern}))"
        value = self.bind(literal.text)
        return f"{column.sql} = ANY (ARRAY[{value}, coalesce((SELECT t.id FROM {table} t WHERE t.name = {value}), {value})])"

    def check_value(self, column: Column, literal: Literal) -> None:
        """Whether the column can hold such a value at all."""
        if column.scalar not in _CAST:
            raise FilterError(_how_to_ask(column), literal.column)
        if literal.prefix and column.scalar is not Scalar.TEXT:
            raise FilterError(f"{column.path} is no text: a * after a value has no meaning", literal.column)
        if self.selector and column.scalar is Scalar.TIME and is_duration(literal):
            raise FilterError("a selector can't depend on the present time", literal.column)
        choices = column.field.choices if column.scalar is Scalar.TEXT and not column.label else ()
        if choices and not any(c == literal.text or (literal.prefix and c.startswith(literal.text)) for c in choices):
            raise FilterError(f"{column.path} is one of {', '.join(choices)}, not {literal.text[:64]!r}", literal.column)


def _how_to_ask(column: Column) -> str:
    if column.scalar is Scalar.LABELS:
        return f"write {column.path}.KEY = VALUE for a label's value, or {column.path}:KEY for whether it is there"
    members = ", ".join(f"{column.path}.{member}" for member in column.field.members)
    return f"{column.path} has no single value; filter by {members}" if members else f"of {column.path} only `:*` and `= null` can be asked"


def _pattern(literal: Literal, *, inside: bool = False) -> str:
    """The LIKE pattern of a literal: from the start if it ends in a star, else, for `inside`, anywhere."""
    escaped = literal.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"{'%' if inside and not literal.prefix else ''}{escaped}%"


def _is_text_list(annotation: Any) -> bool:
    while hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    return get_origin(annotation) in (list, tuple) and get_args(annotation)[:1] == (str,)

"""Kind: what a resource kind is made of, declared once and pure.

A Kind names its fields, who owns each, which states it may be in, what it refers to and how it is shown. The store, the REST API, the
OpenAPI document, the filter, the forms, the CLI's tables and the docs all derive from it; a new kind is a new file in
`inventory/kinds/` and a line in its registry. Nothing here touches the database: `inventory.store` does, by what a Kind says.

Source: design.md section 5, contract.md section 4.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StringConstraints

from inventory.errors import Problem
from inventory.times import parse_time

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
LABEL_KEY = re.compile(r"[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?")


class Nature(StrEnum):
    DECLARATIVE = "declarative"
    """Only what the user wants; no current state."""
    DISCOVERED = "discovered"
    """Only what is there."""
    MIXED = "mixed"
    """Both, and a manager that makes them equal."""
    MADE = "made"
    """Made by the system in the course of its work."""


class Scalar(StrEnum):
    """How a field compares, in filters and in order_by."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIME = "time"
    LABELS = "labels"
    """A map from text to text; `field.key` is one value."""
    JSON = "json"
    """Not comparable, apart from the named members in `Field.members`."""


USER = "user"
DEVICE = "device"
INVENTORY = "inventory"
"""Owners of fields; any other owner is the name of a manager."""


class Uses(StrEnum):
    """What a reference means for a delete of its target."""

    USES = "uses"
    """Deleting what is used is refused (409), naming the users."""
    OWNS = "owns"
    """The referring row is deleted with its owner."""
    FORGETS = "forgets"
    """The field becomes null when its target is deleted."""


@dataclass(frozen=True, slots=True)
class Reference:
    kind: str
    mode: Uses = Uses.USES


def _no_nul(text: str) -> str:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("must not hold NUL or lone surrogates")
    return text


def _parse_time(value: Any) -> Any:
    at = parse_time(value) if isinstance(value, str) else value
    if isinstance(at, datetime) and at.year < 1970:
        raise ValueError("must not be before 1970")
    return at


def _check_name(value: Any) -> Any:
    """Words for people, before the pattern, which is for programs, refuses it."""
    if isinstance(value, str) and not NAME.fullmatch(value):
        raise ValueError("must be 1 to 253 lower-case letters, digits and ._-, with a letter or digit at both ends")
    return value


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > 64:
        raise ValueError("at most 64 labels")
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            raise ValueError(f"label key {key!r}: lower-case letters, digits and ._/- only, 1 to 63, a letter or digit at both ends")
        if len(value) > 256:
            raise ValueError(f"label {key!r}: the value is longer than 256 characters")
    return labels


Text = Annotated[str, AfterValidator(_no_nul)]
Name = Annotated[str, BeforeValidator(_check_name), StringConstraints(pattern=f"^{NAME.pattern}$", max_length=253)]
Title = Annotated[Text, StringConstraints(max_length=256)]
Labels = Annotated[dict[str, Text], AfterValidator(_check_labels)]
Time = Annotated[datetime, BeforeValidator(_parse_time)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One member of a resource.

    annotation: the Python type that pydantic validates input with (and makes the JSON Schema from).
    owner: who may write it: `user`, `device`, `inventory`, or a manager's name.
    intent: a change by the user raises `generation`.
    restless: it changes by itself; no change row is written for it, and it is absent from events.
    selectable: a selector may use it.
    column: the SQL expression it is read from; empty: the row's column of the same name. One that is no plain column is `computed`.
    members: of a JSON field, the members that filters may name, with their scalar.
    hidden: an internal column, never shown.
    """

    name: str
    annotation: Any
    scalar: Scalar
    owner: str
    doc: str
    required: bool = False
    default: Any = None
    nullable: bool = True
    choices: tuple[str, ...] = ()
    reference: Reference | None = None
    intent: bool = False
    restless: bool = False
    selectable: bool = False
    immutable: bool = False
    column: str = ""
    computed: bool = False
    members: Mapping[str, Scalar] = field(default_factory=dict)
    hidden: bool = False
    single_only: bool = False
    """Shown on the single resource only, not in lists (the facts)."""
    selects: str = ""
    """The text is a selector over this kind."""
    secret: bool = False
    """A map from name to text that is written and never read back (`inventory.secret_field`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """desired: what a user may ask for, with the first as default. transitions: from desired to the desired ones that may follow
    (absent: any). removal: the desired state that a two-phase delete sets, and the current one that confirms it."""

    desired: tuple[str, ...]
    current: tuple[str, ...]
    initial_current: str
    user_sets_desired: bool = True
    removal: str = ""
    transitions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """A resource kind. `manager` owns `current_state`, `observed_generation` and `status`. `joins` are SQL joins on the row alias `r`
    that its fields' columns need. `creators`: the actors that may create one (`user`, `device`, `system`, or a manager's name)."""

    name: str
    collection: str
    prefix: str
    nature: Nature
    doc: str
    own_fields: tuple[Field, ...]
    creators: frozenset[str]
    manager: str = INVENTORY
    states: States | None = None
    published: bool = True
    has_host: bool = False
    """Its changes carry the `host` field's value (the host kind: its own id)."""
    joins: str = ""
    columns: tuple[str, ...] = ("name", "title")
    wide_columns: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    deletable_by_user: bool = True
    names_itself: bool = False
    """A user may leave the name out; it is then the id."""
    fits: Callable[[Mapping[str, Any]], Iterable[Problem]] | None = None
    """What is wrong with the fields of a resource together."""

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        if len(names) != len(set(names)):
            raise ValueError(f"{self.name}: a field is there twice")
        for column in self.columns + self.wide_columns:
            if column.split(".")[0] not in names:
                raise ValueError(f"{self.name}: no field {column} to show")

    @property
    def table(self) -> str:
        return self.name.replace("-", "_")

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """All fields, the ones every kind has first."""
        return meta_fields(self.manager, self.states) + self.own_fields

    @cached_property
    def unlogged(self) -> frozenset[str]:
        """The fields that no event shows."""
        return frozenset(f.name for f in self.fields if f.restless or f.hidden)

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        return {f.name: f for f in self.fields}

    @property
    def references(self) -> tuple[tuple[Field, Reference], ...]:
        return tuple((f, f.reference) for f in self.own_fields if f.reference is not None)


STATUS_MEMBERS = {
    "indicator": Scalar.TEXT,
    "reason": Scalar.TEXT,
    "message": Scalar.TEXT,
    "since": Scalar.TIME,
    "halted": Scalar.BOOLEAN,
}


def meta_fields(manager: str, states: States | None) -> tuple[Field, ...]:
    """The members that every resource has (contract.md section 4)."""
    desired = states.desired if states else ()
    current = states.current if states else ()
    desired_owner = USER if states and states.user_sets_desired else manager
    return (
        Field(name="id", annotation=str, scalar=Scalar.TEXT, owner=INVENTORY, doc="Prefix and lower-case ULID.", selectable=True),
        Field(name="name", annotation=Name, scalar=Scalar.TEXT, owner=USER, doc="Unique within the kind.", nullable=False, selectable=True),
        Field(
            name="title",
            annotation=Title,
            scalar=Scalar.TEXT,
            owner=USER,
            doc="Free text for people.",
            default="",
            nullable=False,
            selectable=True,
        ),
        Field(
            name="labels",
            annotation=Labels,
            scalar=Scalar.LABELS,
            owner=USER,
            doc="The resource's own labels.",
            default={},
            nullable=False,
            selectable=True,
        ),
        Field(name="version", annotation=int, scalar=Scalar.INTEGER, owner=INVENTORY, doc="Rises with every write; the ETag."),
        Field(name="generation", annotation=int, scalar=Scalar.INTEGER, owner=INVENTORY, doc="Rises when what the user wants changes."),
        Field(
            name="observed_generation",
            annotation=int,
            scalar=Scalar.INTEGER,
            owner=manager,
            doc="The generation that the manager has brought about.",
        ),
        Field(
            name="desired_state",
            annotation=str,
            scalar=Scalar.TEXT,
            owner=desired_owner,
            doc="What is wanted.",
            choices=desired,
            intent=True,
            default=desired[0] if desired else None,
            nullable=not desired,
            selectable=True,
        ),
        Field(name="current_state", annotation=str, scalar=Scalar.TEXT, owner=manager, doc="What is.", choices=current),
        Field(
            name="status",
            annotation=dict[str, Any],
            scalar=Scalar.JSON,
            owner=manager,
            doc="How the manager is getting on.",
            members=STATUS_MEMBERS,
        ),
        Field(name="created_at", annotation=Time, scalar=Scalar.TIME, owner=INVENTORY, doc="When it was made."),
        Field(name="updated_at", annotation=Time, scalar=Scalar.TIME, owner=INVENTORY, doc="When it was last written."),
        Field(
            name="deleted_at",
            annotation=Time,
            scalar=Scalar.TIME,
            owner=INVENTORY,
            doc="When its delete was asked for; it goes when that is confirmed.",
        ),
    )


STATE_FIELDS = frozenset({"desired_state", "current_state", "observed_generation", "status"})
"""What a kind without states shows as null."""

META = frozenset(f.name for f in meta_fields(INVENTORY, None))
"""The names of the fields that every kind has."""

"""A kind as the API tells it: its fields with their owners, types and choices. Pure; forms, tables and the command line are made of it."""

from typing import Any

from inventory.kind import USER, Field, Kind
from web.schemas import field_schema


def describe(kind: Kind) -> dict[str, Any]:
    """The item of `GET /api/v1/kinds`."""
    return {
        "kind": kind.name,
        "collection": kind.collection,
        "prefix": kind.prefix,
        "nature": kind.nature.value,
        "doc": kind.doc,
        "columns": list(kind.columns),
        "wide_columns": list(kind.wide_columns),
        "verbs": list(kind.verbs),
        "published": kind.published,
        "creatable": USER in kind.creators,
        "deletable": kind.deletable_by_user,
        "desired_states": list(kind.states.desired) if kind.states else [],
        "current_states": list(kind.states.current) if kind.states else [],
        "fields": [_field(field) for field in kind.fields if not field.hidden],
    }


def _field(field: Field) -> dict[str, Any]:
    default = None if callable(field.default) else field.default
    return {
        "name": field.name,
        "type": field.scalar.value,
        "doc": field.doc,
        "owner": field.owner,
        "writable": field.owner == USER,
        "required": field.required,
        "nullable": field.nullable,
        "immutable": field.immutable,
        "default": default,
        "choices": list(field.choices),
        "reference": field.reference.kind if field.reference is not None else None,
        "selectable": field.selectable,
        "restless": field.restless,
        "single_only": field.single_only,
        "members": {name: scalar.value for name, scalar in field.members.items()},
        "schema": field_schema(field),
    }

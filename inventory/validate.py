"""Input checked at the edge: what a user or an integration sends for a resource, against the kind's fields.

Every problem is found and named with its JSON pointer, not just the first. References are looked up later, by the store, in the
transaction that writes. Pure. Source: contract.md section 5 (422 for what is unknown or ill-typed, 403 for another owner's field).
"""

import difflib
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from inventory.actor import Actor
from inventory.db import dumps
from inventory.errors import Forbidden, Invalid, Problem
from inventory.kind import STATE_FIELDS, USER, Field, Kind, Scalar
from inventory.resource import Resource, merge_patch

Values = dict[str, Any]


@cache
def adapter(kind: Kind, name: str) -> TypeAdapter[Any]:
    """The pydantic type of a field. Cached: building one costs more than using it."""
    return TypeAdapter(kind.by_name[name].annotation)


def create_values(kind: Kind, body: Any, actor: Actor) -> Values:
    """The values of a new resource: what the body gives, checked, and the defaults of the fields that this actor owns.

    Raises Invalid (422) or Forbidden (403) naming every member that is wrong."""
    members = _members(kind, body)
    _refuse_others(kind, {name: value for name, value in members.items() if value is not None}, actor)
    problems: list[Problem] = []
    values: Values = {}
    for field in kind.fields:
        if field.name in members and members[field.name] is not None:
            values[field.name] = _check(kind, field, members[field.name], problems)
        elif field.name in members and not field.nullable and field.default is None:
            problems.append(Problem(f"/{field.name}", "must not be null"))
        elif field.required or (field.name == "name" and actor.owns(USER) and not kind.names_itself):
            problems.append(Problem(f"/{field.name}", "is required"))
        elif actor.owns(field.owner) and field.default is not None:
            values[field.name] = field.default() if callable(field.default) else field.default
    _raise(problems)
    return values


def patch_values(kind: Kind, current: Resource, patch: Any, actor: Actor) -> Values:
    """The values that a merge patch changes, checked. A member that says what already is, whoever owns it, changes nothing.

    Raises Invalid (422) or Forbidden (403)."""
    members = _members(kind, patch)
    wanted = {name: merge_patch(current.get(name), value) for name, value in members.items()}
    wanted = {name: value for name, value in wanted.items() if value != current.get(name)}
    _refuse_others(kind, wanted, actor)
    problems: list[Problem] = []
    values: Values = {}
    for name, value in wanted.items():
        field = kind.by_name[name]
        if field.immutable:
            problems.append(Problem(f"/{name}", "can't be changed after creation"))
        elif value is not None:
            values[name] = _check(kind, field, value, problems)
        elif not field.nullable:
            if field.default is None or callable(field.default):
                problems.append(Problem(f"/{name}", "must not be null"))
            else:
                values[name] = field.default
        else:
            values[name] = None
    _raise(problems)
    return values


def _members(kind: Kind, body: Any) -> Values:
    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object", errors=(Problem("", "must be an object"),))
    named = body.get("kind", kind.name)
    if named != kind.name:
        raise Invalid(f"kind: this is a {kind.name}", errors=(Problem("/kind", f"must be {kind.name!r} here"),))
    members = {name: value for name, value in body.items() if name != "kind"}
    visible = [f.name for f in kind.fields if not f.hidden]
    _raise([Problem(f"/{_escape(name)}", _unknown(name, visible)) for name in members if name not in visible])
    return members


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    return "there is no such field" + (f"; did you mean {' or '.join(near)}?" if near else "")


def _refuse_others(kind: Kind, members: Values, actor: Actor) -> None:
    others = [Problem(f"/{name}", _refusal(kind, kind.by_name[name])) for name in members if not actor.owns(kind.by_name[name].owner)]
    if others:
        raise Forbidden(f"{kind.name}: " + "; ".join(f"{p.pointer[1:]} {p.detail}" for p in others), errors=tuple(others))


def _refusal(kind: Kind, field: Field) -> str:
    if kind.states is None and field.name in STATE_FIELDS:
        return f"is nothing that a {kind.name} has: it has no states"
    return f"belongs to {_owner_words(field)}; you can't write it"


def _owner_words(field: Field) -> str:
    return {"device": "the device", "inventory": "Inventory"}.get(field.owner, f"the {field.owner} manager")


def _check(kind: Kind, field: Field, value: Any, problems: list[Problem]) -> Any:
    pointer = f"/{field.name}"
    if field.choices and value not in field.choices:
        problems.append(Problem(pointer, f"must be one of {', '.join(field.choices)}"))
        return None
    try:
        checked = adapter(kind, field.name).validate_json(dumps(value), strict=True)
    except ValidationError as error:
        for e in error.errors(include_url=False, include_input=False, include_context=False):
            problems.append(Problem(pointer + _pointer(field, e["loc"]), _words(e["msg"])))
        return None
    except UnicodeEncodeError:
        problems.append(Problem(pointer, "must not hold lone surrogates"))
        return None
    if field.scalar in (Scalar.JSON, Scalar.LABELS):
        return adapter(kind, field.name).dump_python(checked, mode="json", exclude_none=True)
    return checked


def _pointer(field: Field, loc: tuple[int | str, ...]) -> str:
    """pydantic puts the name of the branch of a union into the place; a JSON pointer has none."""
    if field.name == "on_change":
        loc = tuple(part for part in loc if not (isinstance(part, str) and ("[" in part or part in ("OnChange", "str"))))
    return "".join(f"/{_escape(str(part))}" for part in loc if part != "[key]")


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def _words(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")


def _raise(problems: list[Problem]) -> None:
    if problems:
        raise Invalid("; ".join(f"{p.pointer.lstrip('/') or 'body'}: {p.detail}" for p in problems), errors=tuple(problems))

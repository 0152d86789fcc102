"""The field of a kind that takes secrets: a map from name to text, written and never read back. Pure.

What is read is a mark a name: that it is set, and since when. A mark that is sent back keeps what is there, so that a resource can be read,
edited and applied again; a text replaces it, null removes it. The values lie sealed in a table of their own (`inventory.deposits`).

Called by the kinds that have one. Decision: docs/adr/0028-secrets.md.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints
from pydantic import Field as Bounds

from inventory.kind import USER, Field, Scalar
from inventory.times import parse_time

MOST = 64
MAX_SECRET = 32 * 1024
"""Characters of one: a private key with its chain fits."""
SALT = ".salt"
"""The name, which no user can give, under which a resource's salt lies among its secrets."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def _marks(owner: str) -> str:
    """The marks of a resource, as SQL. Sessions are in UTC (`inventory.db`)."""
    at = 'to_char(s.changed_at, \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\')'
    mark = f"jsonb_build_object('set', true, 'changed_at', {at})"
    return f"SELECT coalesce(jsonb_object_agg(s.name, {mark}), '{{}}') FROM secret s WHERE s.owner = {owner} AND s.name <> '{SALT}'"


MARKS_NOW = _marks("$1")
"""For a row that has just been locked: the statement that locked it may have waited, and sees no secret that came meanwhile."""


class SecretMark(BaseModel):
    """In the place of a value: there is one, since `changed_at`. Sent back, it keeps that value."""

    model_config = ConfigDict(extra="forbid", strict=True)

    set: Literal[True]
    changed_at: Annotated[str, Bounds(json_schema_extra={"format": "date-time"})] | None = None


def _is_time(said: Any) -> bool:
    try:
        return isinstance(said, str) and bool(parse_time(said))
    except ValueError:
        return False


def _check(value: Any) -> Any:
    """Everything that can be wrong with one, in words that do not show it."""
    match value:
        case str():
            if not value or "\0" in value or len(value) > MAX_SECRET:
                raise ValueError(f"must be 1 to {MAX_SECRET} characters without NUL; null removes a secret")
        case {"set": True, **more} if all(name == "changed_at" and (said is None or _is_time(said)) for name, said in more.items()):
            pass
        case _:
            raise ValueError('must be a text, or {"set": true} to keep the one that is there; null removes it')
    return value


_Value = Annotated[
    Annotated[str, Bounds(min_length=1, max_length=MAX_SECRET, json_schema_extra={"writeOnly": True, "format": "password"})] | SecretMark,
    BeforeValidator(_check),
]
Secrets = Annotated[
    dict[Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")], _Value],
    Bounds(max_length=MOST, json_schema_extra={"additionalProperties": False}),
]


def secrets_field(doc: str) -> Field:
    return Field(
        name="secrets",
        annotation=Secrets,
        scalar=Scalar.JSON,
        owner=USER,
        default={},
        nullable=False,
        intent=True,
        computed=True,
        column=f"({_marks('r.id')})",
        secret=True,
        doc=doc,
    )

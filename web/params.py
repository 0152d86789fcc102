"""Query parameters and conditional headers, checked exactly: one that is not known, comes twice or can't be read is refused with its name.

A route lists what it takes as `Parameter`s; the OpenAPI document is made from the same list. Pure: given the raw query string, `parse`
gives the values. Source: contract.md section 5; RFC 9110 section 13.1.1 (If-Match).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from inventory.errors import BadRequest

JsonSchema = dict[str, Any]
Values = dict[str, Any]

MAX_QUERY: int = 8192
"""Characters of a query string; the longest selector has as many."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter. `read` makes its value of the text, or raises ValueError with words for the user.

    repeatable: its value is the list of all that came; otherwise a second one is refused.
    """

    name: str
    doc: str
    read: Callable[[str], Any]
    schema: JsonSchema = field(default_factory=lambda: {"type": "string"})
    repeatable: bool = False
    default: Any = None


def text(value: str) -> str:
    return value


def boolean(value: str) -> bool:
    match value:
        case "true":
            return True
        case "false":
            return False
    raise ValueError("must be true or false")


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a decimal number from `least` to `most`."""

    def read(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", value) or not least <= int(value) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(value)

    return read


def names(value: str) -> tuple[str, ...]:
    """Reads a list with commas between; none may be empty."""
    found = tuple(part.strip() for part in value.split(","))
    if not all(found):
        raise ValueError("must be names with commas between them")
    return found


def one_of(*choices: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return read


MAX_POSITION: int = 2**63 - 1
POSITION_SCHEMA: JsonSchema = {"type": "integer", "minimum": 0, "format": "int64"}
DRY_RUN = Parameter("dry_run", "Check and answer as if it were done, and write nothing.", boolean, {"type": "boolean"}, default=False)


def parse(raw: bytes, taken: tuple[Parameter, ...]) -> Values:
    """The value of every parameter in `taken`, by name. Raises BadRequest naming the parameter."""
    by_name = {parameter.name: parameter for parameter in taken}
    values: Values = {parameter.name: [] if parameter.repeatable else parameter.default for parameter in taken}
    seen: set[str] = set()
    for name, value in _pairs(raw):
        parameter = by_name.get(name)
        if parameter is None:
            raise BadRequest(f"unknown query parameter {name!r}; {_known(by_name)}", pointer=name)
        if name in seen and not parameter.repeatable:
            raise BadRequest(f"{name}: is there twice", pointer=name)
        seen.add(name)
        read = _read(parameter, value)
        if parameter.repeatable:
            values[name].append(read)
        else:
            values[name] = read
    return values


def _known(by_name: Mapping[str, Parameter]) -> str:
    return f"there is {', '.join(by_name)}" if by_name else "there are none here"


def _read(parameter: Parameter, value: str) -> Any:
    try:
        return parameter.read(value)
    except ValueError as error:
        raise BadRequest(f"{parameter.name}: {error}", pointer=parameter.name) from None


def _pairs(raw: bytes) -> Iterator[tuple[str, str]]:
    if len(raw) > MAX_QUERY:
        raise BadRequest(f"the query string is longer than {MAX_QUERY} characters", pointer="?")
    for part in raw.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            yield _unquoted(name), _unquoted(value)


def _unquoted(raw: bytes) -> str:
    try:
        decoded = unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise BadRequest("the query string is not UTF-8", pointer="?") from None
    if "\0" in decoded:
        raise BadRequest("the query string holds a NUL", pointer="?")
    return decoded


_ENTITY_TAG = re.compile(r'"(?P<quoted>[0-9]{1,18})"|(?P<bare>[0-9]{1,18})|(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def if_match(header: str | None) -> int | None:
    """The version that If-Match asks for; None where any will do (absent, or `*`), 0 for a tag that is no version of ours (weak ones never
    match). Raises BadRequest."""
    if header is None or header.strip() == "*":
        return None
    if not (found := _ENTITY_TAG.fullmatch(header.strip())):
        raise BadRequest('If-Match: must be one version, such as "4711", or *', pointer="If-Match")
    version = found["quoted"] or found["bare"]
    return int(version) if version else 0


def idempotency_key(header: str | None) -> str | None:
    """The Idempotency-Key, where one was given. Raises BadRequest."""
    if header is None:
        return None
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", header.strip()):
        raise BadRequest("Idempotency-Key: must be 1 to 255 printable ASCII characters without spaces", pointer="Idempotency-Key")
    return header.strip()


def event_id(header: str | None) -> int | None:
    """The position in Last-Event-ID, where one was given. Raises BadRequest."""
    if header is None or header == "":
        return None
    try:
        return whole(0, MAX_POSITION)(header.strip())
    except ValueError as error:
        raise BadRequest(f"Last-Event-ID: {error}", pointer="Last-Event-ID") from None

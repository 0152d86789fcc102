"""JSON in and out: strict in what it takes, so that nothing reaches the inventory that it could not keep.

Taken is one object or array in UTF-8. Refused, with where it stands: what does not parse (400), and what PostgreSQL can't hold: NUL, lone
surrogates, numbers beyond 64 bits (422). Pure. Called by the request parsing and by everything that answers.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from inventory.errors import BadRequest, Invalid, Problem

MAX_DEPTH: int = 32
"""How deep a body may nest: no kind needs more than 6, and a recursive reader further on must not be led astray."""

_LARGEST: int = 2**63 - 1
_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = msgspec.json.Decoder()


def encode(value: Any) -> bytes:
    """Compact JSON in UTF-8; times and the like as their text."""
    return _encoder.encode(value)


def decode_object(raw: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises BadRequest (400) or Invalid (422), with a JSON pointer."""
    try:
        value = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {_words(error)}") from None
    if not isinstance(value, dict):
        raise Invalid("the body must be a JSON object", errors=(Problem("", "must be an object"),))
    problems = tuple(_unkeepable(value, "", 1))
    if problems:
        raise Invalid("; ".join(f"{problem.pointer or 'body'}: {problem.detail}" for problem in problems), errors=problems)
    return value


def _words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _unkeepable(value: Any, pointer: str, depth: int) -> Iterator[Problem]:
    match value:
        case str():
            yield from _text_problems(value, pointer)
        case int() | float() if not -_LARGEST <= value <= _LARGEST:
            yield Problem(pointer, "is too large a number")
        case dict() | list() if depth > MAX_DEPTH:
            yield Problem(pointer, f"is nested more than {MAX_DEPTH} deep")
        case dict():
            for key, member in value.items():
                below = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
                yield from _text_problems(key, below)
                yield from _unkeepable(member, below, depth + 1)
        case list():
            for index, member in enumerate(value):
                yield from _unkeepable(member, f"{pointer}/{index}", depth + 1)


def _text_problems(text: str, pointer: str) -> Iterator[Problem]:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        yield Problem(pointer.replace("\0", "\ufffd"), "must not hold NUL or lone surrogates")

"""JSON in and out: strict in what it takes, so that nothing reaches the inventory that it could not keep.

Taken is one object or array in UTF-8. Refused, with where it stands: what does not parse (400), and what PostgreSQL can't hold: NUL, lone
surrogates, numbers beyond 64 bits (422). Pure. Called by the request parsing and by everything that answers.
"""

from typing import Any

import msgspec

from inventory.errors import BadRequest, Invalid, Problem
from inventory.keepable import unkeepable

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
    if problems := unkeepable(value):
        raise Invalid("; ".join(f"{problem.pointer or 'body'}: {problem.detail}" for problem in problems), errors=problems)
    return value


def _words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)

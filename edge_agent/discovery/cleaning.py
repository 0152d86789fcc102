"""Text and numbers as firmware, buses and files give them, made presentable. Pure.

What a device says of itself may be anything: NUL padding, half a UTF-8 character, a megabyte, or a maker's placeholder. What leaves
here is short, printable, encodable text, so that a message is never refused because of it. Called by `tree` and by every probe.
"""

import re
from typing import Any

TEXT_LIMIT = 256
"""Characters kept of one text."""

_SPACES = re.compile(r"\s+")
_PLACEHOLDER = re.compile(
    r"""(
        to\ be\ filled\ (by\ o\.?e\.?m\.?)?.* | default(\ string)? | o\.?e\.?m\.?(\ string)?
      | not\ (specified|applicable|available|provided|settable)
      | \(?none\)? | null | n/?a
      | unknown | undefined | unspecified | invalid | empty | no\ (dimm|asset).* | \(?no\ module.* | tbd | fill\ by\ oem
      | (system|chassis|base\ board|board|product)\ (serial\ number|manufacturer|product\ name|name|version)
      | (serial|asset|part)[ _-]?(number|num|tag) | (chassis|board)\ (vendor|version)
      | \<?bad\ index\>? | [0xf.\s_*-]+ | 0?123456789(abcdef|0)?
      | manufacturer\d* | sernum\d* | partnum\d* | assettagnum\d*
    )""",
    re.VERBOSE | re.IGNORECASE,
)
"""What makers leave in the fields that they should have filled."""

INT_LIMIT = 2**53
"""Beyond it JSON numbers are not exact."""


def clean(text: str, limit: int = TEXT_LIMIT) -> str:
    """Printable characters only (no control characters, no unassigned ones), white space collapsed, at most `limit` characters."""
    text = text[: limit * 8].encode("utf-8", "replace").decode()
    return _SPACES.sub(" ", "".join(each if each.isprintable() else " " for each in text)).strip()[:limit].strip()


def decoded(data: bytes) -> str:
    """Bytes as text; what is no UTF-8 becomes U+FFFD."""
    return data.decode("utf-8", "replace")


def meaningful(text: str | None) -> str | None:
    """The text, or None where it is blank or a maker's placeholder such as "To Be Filled By O.E.M."."""
    text = clean(text) if text else ""
    return text if text and not _PLACEHOLDER.fullmatch(text) else None


def whole(text: str | None, base: int = 10) -> int | None:
    """A whole number that JSON can carry exactly, else None."""
    try:
        value = int(text.strip()[:64], base) if text else None
    except ValueError:
        return None
    return value if value is not None and abs(value) <= INT_LIMIT else None


def clean_json(value: Any, limit: int = TEXT_LIMIT) -> Any:
    """The value with every text and member name cleaned; what JSON has no form for becomes None."""
    match value:
        case str():
            return clean(value, limit)
        case bool() | None:
            return value
        case int():
            return value if abs(value) <= INT_LIMIT else None
        case float():
            return value if abs(value) <= INT_LIMIT else None
        case dict():
            return {clean(str(name), limit): clean_json(item, limit) for name, item in value.items()}
        case list() | tuple():
            return [clean_json(item, limit) for item in value]
    return None


def natural(text: str) -> tuple[tuple[int, str], ...]:
    """A sort key under which `eth2` comes before `eth10`."""
    return tuple((int(part[:18]), "") if part.isdecimal() and part.isascii() else (-1, part) for part in re.split(r"([0-9]+)", text))


def without_nulls(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry without the members nothing is known of: facts stay short."""
    return {name: value for name, value in entry.items() if value is not None}

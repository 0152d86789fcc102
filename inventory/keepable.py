"""What PostgreSQL can't keep of decoded JSON: NUL, lone surrogates, numbers beyond 64 bits, and what nests without end.

Pure. Called wherever JSON comes from outside and is to be stored: request bodies (`web.json`) and intents. Devices' messages have the
same rules in `broker.messages`, which agents share.
"""

import re
from collections.abc import Iterator
from typing import Any

from inventory.errors import Problem

MAX_DEPTH: int = 32
"""How deep a body may nest: no kind needs more than 6, and a recursive reader further on must not be led astray."""

_LARGEST: int = 2**63 - 1
_ODD = re.compile("[\0\ud800-\udfff]")


def unkeepable(value: Any) -> tuple[Problem, ...]:
    """Each place that can't be kept, by its JSON pointer (which is fit to be sent itself); empty for what can."""
    return tuple(Problem(_ODD.sub("\ufffd", problem.pointer), problem.detail) for problem in _problems(value, "", 1))


def _problems(value: Any, pointer: str, depth: int) -> Iterator[Problem]:
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
                yield from _problems(member, below, depth + 1)
        case list():
            for index, member in enumerate(value):
                yield from _problems(member, f"{pointer}/{index}", depth + 1)


def _text_problems(text: str, pointer: str) -> Iterator[Problem]:
    if _ODD.search(text):
        yield Problem(pointer, "must not hold NUL or lone surrogates")

"""Facts on their way to the outbox: made fit for JSON, hashed, compared. Pure; `discovery` finds them, `agent` sends them.

Data is not kept here: of each section the agent remembers the hash alone, and looks again when the server wants it again.
"""

from typing import Any

from broker.messages import SECTIONS, Section, canonical, section_hash

MAX_SECTION = 160 * 1024
"""Bytes of one section; a larger one would not fit into a message."""


class Unfit(ValueError):
    """A section can't be sent; the text says why."""


def section_of(data: Any) -> Section:
    """The section with its hash. Raises Unfit."""
    data = cleaned(data)
    try:
        size = len(canonical(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise Unfit(f"not JSON: {error}") from None
    if size > MAX_SECTION:
        raise Unfit(f"{size} bytes are more than {MAX_SECTION}")
    return Section(hash=section_hash(data), data=data)


def cleaned(value: Any) -> Any:
    """Without what the wire refuses: firmware puts NUL and bytes that are no text into its strings."""
    match value:
        case str():
            return value.replace("\0", "").encode("utf-8", "replace").decode()
        case dict():
            return {cleaned(str(key)): cleaned(item) for key, item in value.items()}
        case list() | tuple():
            return [cleaned(item) for item in value]
        case _:
            return value


def known(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Of the names that a server asks for, those that this agent knows; None stays all."""
    return None if names is None else tuple(name for name in names if name in SECTIONS)

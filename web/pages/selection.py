"""Which hosts a selector takes, for the preview beside the form and for what a save would change. Read only."""

from dataclasses import dataclass
from datetime import UTC, datetime

from inventory.access import checked_scope
from inventory.errors import Invalid
from inventory.filter import FilterError, compile_filter
from inventory.kinds.host import HOST
from inventory.resource import Resource
from inventory.store import ListQuery
from web.identity import view
from web.pages.listing import Wrong

SHOWN = 12


@dataclass(frozen=True, slots=True)
class Selection:
    """`wrong` where it is no selector; otherwise how many hosts, of how many, and the first of them."""

    wrong: Wrong | None
    total: int = 0
    of: int = 0
    first: tuple[Resource, ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """Hosts that a new selector takes on and lets go."""

    gains: int
    loses: int
    lost: tuple[Resource, ...]


async def select(text: str) -> Selection:
    try:
        compile_filter(HOST, text, now=datetime.now(UTC), selector=True)
    except FilterError as error:
        return Selection(Wrong(error.detail, text, error.column))
    found = await view().list("host", ListQuery(text, "name", SHOWN, count=True))
    every = await view().list("host", ListQuery(page_size=1, count=True, fields=("id",)))
    return Selection(None, found.total or 0, every.total or 0, tuple(found.items))


async def select_scope(text: str) -> Selection:
    """Likewise for a scope, which may name nothing by its name."""
    found = await select(text)
    try:
        checked_scope(text)
    except Invalid as error:
        return found if found.wrong else Selection(Wrong(error.detail, text, None))
    return found


async def moved(old: str, new: str) -> Moved:
    """Both must be selectors."""
    gains = await view().list("host", ListQuery(_but(new, old), "name", 1, count=True))
    loses = await view().list("host", ListQuery(_but(old, new), "name", SHOWN, count=True))
    return Moved(gains.total or 0, loses.total or 0, tuple(loses.items))


def _but(these: str, those: str) -> str:
    """A filter for what is in the first and not in the second; the empty selector takes all."""
    excluded = f"NOT ({those})" if those.strip() else 'id = ""'
    return f"({these}) AND {excluded}" if these.strip() else excluded

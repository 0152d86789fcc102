"""Stories with names: changes read from the log, and the names of what they mention looked up. Called by the pages that show changes."""

from collections.abc import Iterable

from inventory.changes import Change
from inventory.seen import Asked
from web.identity import seen, view
from web.pages.story import Line, mentioned, tell, without_company


async def narrate(found: Iterable[Change]) -> list[Line]:
    """Lines in the order of the changes."""
    found = list(found)
    hosts, configs = mentioned(found)
    named = await view().read_many("host", hosts) if hosts else {}
    named = named | (await view().read_many("config", configs) if configs else {})
    names = {id: str(resource["title"] or resource["name"]) for id, resource in named.items()}
    return [tell(change, names) for change in found]


async def newest(
    limit: int, *, kinds: Iterable[str] | None = None, ids: Iterable[str] | None = None, before: int | None = None
) -> tuple[list[Line], int | None]:
    """The newest lines, newest first, and the position to go on below; None where there are no more."""
    asked = Asked(None if kinds is None else frozenset(kinds), None if ids is None else frozenset(ids))
    found = await seen().newest(limit, asked, before=before)
    return await narrate(reversed(without_company(found.changes))), found.older

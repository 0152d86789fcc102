"""Stories with names: changes read from the log, and the names of what they mention looked up. Called by the pages that show changes."""

from collections.abc import Iterable

from inventory import changes
from inventory.changes import Change
from web.pages.story import Line, mentioned, tell
from web.services import services


async def narrate(found: Iterable[Change]) -> list[Line]:
    """Lines in the order of the changes."""
    found = list(found)
    hosts, configs = mentioned(found)
    store = services().store
    named = await store.read_many("host", hosts) if hosts else {}
    named = named | (await store.read_many("config", configs) if configs else {})
    names = {id: str(resource["title"] or resource["name"]) for id, resource in named.items()}
    return [tell(change, names) for change in found]


async def newest(
    limit: int, *, kinds: Iterable[str] | None = None, ids: Iterable[str] | None = None, before: int | None = None
) -> tuple[list[Line], int | None]:
    """The newest lines, newest first, and the position to go on below; None where there are no more."""
    found = (await changes.newest(services().db, limit=limit, kinds=kinds, ids=ids, before=before)).changes
    lines = await narrate(reversed(found))
    return lines, found[0].position if len(found) == limit else None

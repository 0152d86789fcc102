"""What the log tells, and what the tables hold: the same, or the store is broken."""

from inventory.changes import Change
from inventory.kinds import BY_NAME
from inventory.resource import Resource, logged
from inventory.store import ListQuery, Store


def replay(found: list[Change]) -> dict[str, Resource]:
    """The tables as the log tells them."""
    state: dict[str, Resource] = {}
    for change in found:
        if change.resource is None:
            del state[change.id]
        else:
            state[change.id] = change.resource
    return state


async def tables(store: Store) -> dict[str, Resource]:
    """The tables as they are, without what the log leaves out."""
    state: dict[str, Resource] = {}
    for kind in BY_NAME.values():
        for item in (await store.list(kind.name, ListQuery(page_size=1000))).items:
            state[item["id"]] = logged(kind, item)
    return state

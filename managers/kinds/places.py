"""Places: when a region, a site or its labels change, the labels of the hosts below are brought up to date. Key: a region's or site's id.

Hosts whose effective labels did not change are not touched, and so nothing that depends on labels is looked at for them. A host's own site
and labels are dealt with by the store, in the write itself.
"""

from collections.abc import Mapping, Sequence

from inventory.actor import Actor
from inventory.changes import Change
from inventory.store import Store
from inventory.work import Strength
from managers.reconcile import AnyTrigger, Done, Outcome, Request, Trigger

QUEUE = "places"

_KINDS = ("region", "site")
_MATTERS = frozenset({"labels", "region", "parent", "retry"})


def interest(change: Change) -> Sequence[AnyTrigger]:
    """A new place has no hosts yet, and one with hosts can't be deleted."""
    if change.kind in _KINDS and change.op == "updated" and any(path.partition(".")[0] in _MATTERS for path in change.changed):
        return [Trigger(QUEUE, change.id, Strength.FRESH)]
    return ()


class PlacesReconciler:
    """Relabels the hosts below a place; each batch of hosts is a transaction under the key's lease."""

    def __init__(self, store: Store, actor: Actor) -> None:
        self._store = store
        self._actor = actor

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        return {request.key: await self._one(request) for request in requests}

    async def _one(self, request: Request) -> Outcome:
        if request.key.startswith("site-"):
            await self._store.relabel(self._actor, sites=[request.key], lease=request.lease)
        else:
            await self._store.relabel(self._actor, regions=[request.key], lease=request.lease)
        return Done()

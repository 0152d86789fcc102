"""Config: a change of one is handed on to every host that it concerns. Key: a config's id.

It only finds the hosts: those that the selector matches, those that have the config, and those that are being decided on just now, perhaps
by what the config was before. What is to be on each of them is decided by `placement`. A deleted config stays until no host has it any
more, then its row goes.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from inventory import applying
from inventory.applying import Outline
from inventory.changes import Change
from inventory.db import Database
from inventory.work import Strength, in_hand
from managers.reconcile import Again, AnyTrigger, Done, Enqueue, Outcome, Remove, Request, Trigger

QUEUE = "config"
PLACEMENT = "placement"
"""The queue, further down the wiring, that decides host by host."""

_INTENT = frozenset({"selector", "priority", "files", "on_change", "secrets", "deleted_at", "retry"})
_GATHER = timedelta(milliseconds=200)
"""Hosts give up a deleted config one by one; the row is looked at for many of them at once."""


def interest(change: Change) -> Sequence[AnyTrigger]:
    """A config's own changes, and the end of one of its host-configs, for which a deleted config waits."""
    match change:
        case Change(kind="config", op="created"):
            return [Trigger(QUEUE, change.id, Strength.FRESH)]
        case Change(kind="config", op="updated") if not _INTENT.isdisjoint(path.partition(".")[0] for path in change.changed):
            return [Trigger(QUEUE, change.id, Strength.FRESH)]
        case Change(kind="host-config", op="deleted", before=dict(before)):
            return [Trigger(QUEUE, before["config"], delay=_GATHER)]
    return ()


class ConfigReconciler:
    """Finds the hosts that a config concerns."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        async with self._db.acquire() as connection:
            deciding = await in_hand(connection, PLACEMENT)  # first: what is decided by then, is among the concerned
            known = await applying.outlines(connection, [request.key for request in requests])
            concerned = {id: await applying.concerned_hosts(connection, config) for id, config in known.items()}
        return {request.key: plan(known.get(request.key), concerned.get(request.key, ()), deciding) for request in requests}


def plan(config: Outline | None, concerned: Sequence[str], deciding: Sequence[str] = ()) -> Outcome:
    """All hosts that it concerns now or did until now are looked at, and so are those of which it can't be known yet (`deciding`); a
    deleted one goes with its last host."""
    if config is None:
        return Done()
    if config.deleted and not concerned:
        return Done((Remove("config", config.id),))
    doubtful = tuple(sorted(set(deciding) - set(concerned)))
    hosts = Enqueue(PLACEMENT, tuple(sorted(concerned)), Strength.FRESH)
    looked_at = (hosts, Enqueue(PLACEMENT, doubtful, Strength.CHANGED)) if doubtful else (hosts,)
    if not config.deleted:
        return Done(looked_at)
    return Again(None, "Deleting", f"{len(concerned)} hosts have still to give it up", looked_at)

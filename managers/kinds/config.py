"""Config: a change of one is handed on to every host that it concerns. Key: a config's id.

It only finds the hosts, those that the selector matches and those that have the config; what is to be on each of them is decided by
`placement`. A deleted config stays until no host has it any more, then its row goes.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta

from inventory.applying import Config, Configs, holders, selected_hosts
from inventory.changes import Change
from inventory.db import Database
from inventory.filter import FilterError
from inventory.work import Strength
from managers.reconcile import Again, AnyTrigger, Done, Enqueue, Outcome, Remove, Request, Trigger

log = logging.getLogger(__name__)

QUEUE = "config"
PLACEMENT = "placement"
"""The queue, further down the wiring, that decides host by host."""

_INTENT = frozenset({"selector", "priority", "files", "on_change", "deleted_at", "retry"})
_GATHER = timedelta(milliseconds=200)
"""Hosts give up a deleted config one by one; the row is looked at for many of them at once."""


def interest(change: Change) -> Sequence[AnyTrigger]:
    """A config's own changes, and the end of one of its host-configs, for which a deleted config waits."""
    match change:
        case Change(kind="config", op="created"):
            return [Trigger(QUEUE, change.id, Strength.FRESH)]
        case Change(kind="config", op="updated") if not _INTENT.isdisjoint(change.changed):
            return [Trigger(QUEUE, change.id, Strength.FRESH)]
        case Change(kind="host-config", op="deleted", before=dict(before)):
            return [Trigger(QUEUE, before["config"], delay=_GATHER)]
    return ()


class ConfigReconciler:
    """Finds the hosts that a config concerns."""

    def __init__(self, db: Database, configs: Configs) -> None:
        self._db = db
        self._configs = configs

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        known = await self._configs.all()
        return {request.key: await self._one(known.get(request.key)) for request in requests}

    async def _one(self, config: Config | None) -> Outcome:
        if config is None:
            return Done()
        async with self._db.acquire() as connection:
            having = await holders(connection, config.id)
            try:
                selected = [] if config.deleted else await selected_hosts(connection, config.selector)
            except FilterError as error:
                log.error("a config's selector can't be used", extra={"key": config.id, "error": str(error)})
                selected = []
        return plan(config, selected, having)


def plan(config: Config, selected: Sequence[str], having: Sequence[str]) -> Outcome:
    """All hosts that it concerns now or did until now; a deleted one goes with its last host."""
    concerned = Enqueue(PLACEMENT, tuple(sorted({*selected, *having})), Strength.FRESH)
    if not config.deleted:
        return Done((concerned,))
    if not having:
        return Done((Remove("config", config.id),))
    return Again(None, "Deleting", f"{len(having)} hosts have still to give it up", (concerned,))

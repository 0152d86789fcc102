"""Host: its life, from known to onboarded to gone. Key: a host's id.

Nothing has to be done on the device for it: a host is what its owner says, as soon as a device has enrolled for it. What depends on it
(configs, commands) looks at `current_state`. A deleted host goes at once with all that it owns, whether its device can be reached or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inventory.changes import Change
from inventory.db import SQL, Database
from inventory.work import Strength
from managers.reconcile import Again, AnyTrigger, Done, Outcome, Remove, Request, Trigger, Write

QUEUE = "host"

_INTENT = frozenset({"desired_state", "deleted_at", "retry", "boot_id"})
"""`boot_id`: a device has spoken for the first time, so that it has enrolled."""


@dataclass(frozen=True, slots=True)
class Life:
    id: str
    name: str
    desired_state: str
    generation: int
    enrolled: bool


def interest(change: Change) -> Sequence[AnyTrigger]:
    if change.kind == "host" and change.op != "deleted" and (change.op == "created" or not _INTENT.isdisjoint(change.changed)):
        return [Trigger(QUEUE, change.id, Strength.FRESH)]
    return ()


def plan(life: Life) -> Outcome:
    """Onboarding needs a device that can be spoken to; all else is so because the owner says so."""
    if life.desired_state == "deleted":
        return Done((Remove("host", life.id),))
    if life.desired_state == "onboarded" and not life.enrolled:
        here = {"current_state": "registered"}
        return Again(None, "WaitingForDevice", "no device has enrolled for it yet", (Write("host", life.id, here),))
    reached = {"current_state": life.desired_state, "observed_generation": life.generation}
    return Done((Write("host", life.id, reached),))


class HostReconciler:
    """Reads a batch of hosts and plans each."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["host_lives"], [request.key for request in requests])
        lives = {row["id"]: Life(row["id"], row["name"], row["desired_state"], row["generation"], row["enrolled"]) for row in rows}
        return {request.key: plan(lives[request.key]) if request.key in lives else Done() for request in requests}

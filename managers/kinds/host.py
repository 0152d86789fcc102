"""Host: its life, from known to onboarded to gone. Key: a host's id.

Nothing has to be done on the device for it: a host is what its owner says, as soon as a device has enrolled for it; one whose device waits
for approval (`inventory.enrollment`) is `discovered`. What depends on it (configs, commands) looks at `current_state`. A deleted host goes
at once with all that it owns, whether its device can be reached or not.
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
    waiting: bool = False
    """A device asks to become it, and has no identity yet."""


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
        words = "approved: its device fetches its identity when it asks again" if life.waiting else "no device has enrolled for it yet"
        return Again(None, "WaitingForDevice", words, (Write("host", life.id, here),))
    if life.desired_state == "registered" and life.waiting and not life.enrolled:
        here = {"current_state": "discovered"}
        return Again(None, "WaitingForApproval", "a device asks to be let in: approve it or refuse it", (Write("host", life.id, here),))
    reached = {"current_state": life.desired_state, "observed_generation": life.generation}
    return Done((Write("host", life.id, reached),))


class HostReconciler:
    """Reads a batch of hosts and plans each."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["host_lives"], [request.key for request in requests])
        lives = {row["id"]: Life(**{name: row[name] for name in Life.__slots__}) for row in rows}
        return {request.key: plan(lives[request.key]) if request.key in lives else Done() for request in requests}

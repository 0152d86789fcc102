"""The contract between the engine and the managers: what a reconciler is asked, and everything that it may answer.

A reconciler is given keys and nothing else. It reads afresh, decides purely, and answers an outcome a key, with the writes that belong to
it as values (`Effect`): the engine commits them together with the outcome, or neither. So a reconcile that is cut short has happened or
has not, and one that lost its lease leaves no trace. No I/O here. The engine (`managers.driver`) and `managers.kinds` import this.

Source: design.md section 6; controller-runtime's `reconcile.Reconciler` for the shape.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from inventory.db import Tx
from inventory.store import Lease
from inventory.work import Strength


@dataclass(frozen=True, slots=True)
class Request:
    """One key to reconcile. `attempt` begins at 1 and rises with each failure that counted. `lease`: for writes made on the way."""

    key: str
    attempt: int
    lease: Lease


# --- effects: what is written together with the outcome -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Fields of a resource. Equal values write nothing; a resource that has gone meanwhile is no error."""

    kind: str
    id: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Make:
    """A new resource. `values` has its `id` where others must know it."""

    kind: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remove:
    """The row goes, with what it owns."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Keys for a manager further down. Managers form no circle here: each may enqueue only for later ones in the wiring."""

    manager: str
    keys: tuple[str, ...]
    strength: Strength = Strength.CHANGED


@dataclass(frozen=True, slots=True)
class Also:
    """Bookkeeping of Inventory's that is no resource, run in the same transaction."""

    run: Callable[[Tx], Awaitable[None]]


Effect = Write | Make | Remove | Enqueue | Also

# --- outcomes -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing left to do: desired equals current, or the resource has gone."""

    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """Something is in the way that is nobody's failure. `after` None: until a trigger. Counts as no attempt.

    reason: one of contract.md section 4's, shown in the status with the message."""

    after: timedelta | None
    reason: str
    message: str = ""
    effects: tuple[Effect, ...] = ()
    indicator: str = "in_progress"


@dataclass(frozen=True, slots=True)
class Error:
    """`code`: an error code of contract.md section 3. Not recoverable: the resource halts at once."""

    code: str
    message: str
    recoverable: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """It was tried and failed: backoff and another attempt, or a halt."""

    error: Error
    effects: tuple[Effect, ...] = ()


Outcome = Done | Again | Failed


class Reconciler(Protocol):
    """Answers every key it is given, each by itself: that they come in batches only saves statements."""

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]: ...


# --- triggers: from a change to the keys it may matter for ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trigger:
    """A key to look at. `delay`: give what belongs together the time to arrive."""

    manager: str
    key: str
    strength: Strength = Strength.CHANGED
    delay: timedelta = field(default=timedelta())


@dataclass(frozen=True, slots=True)
class TriggerSelected:
    """The keys that the statement `selection` (of queries.sql) finds for `id`."""

    manager: str
    selection: str
    id: str
    strength: Strength = Strength.CHANGED


AnyTrigger = Trigger | TriggerSelected

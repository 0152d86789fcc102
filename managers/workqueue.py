"""What triggers and outcomes do to a key of the work queue. Pure: no database, the clock and the dice are arguments.

`inventory.work` keeps the rows; its statement for triggers does what `triggered` says here (a test holds the two together). The engine
(`managers.driver`) asks `settle` what becomes of a key, inside the transaction that writes it.

Source: design.md section 6; "Exponential Backoff And Jitter", AWS Architecture Blog, for full jitter.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from inventory.work import Entry, Held, Lane, Strength
from managers.reconcile import Again, Done, Error, Failed, Outcome

Uniform = Callable[[float, float], float]
"""Like `random.uniform`."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a key that failed is tried again, and how often."""

    shortest: timedelta = timedelta(seconds=2)
    """No pause is shorter: a device that has just failed fails again at once."""
    longest: timedelta = timedelta(minutes=10)
    """No pause is longer, so that a cause removed is noticed while somebody still looks."""
    attempts: int = 8
    """Then it halts: after some four minutes of trying only the user can know more."""

    def pause(self, failures: int, uniform: Uniform) -> timedelta:
        """Full jitter: anything from the shortest up to a ceiling that doubles with each failure, so that hosts that failed together don't
        come back together."""
        shortest = self.shortest.total_seconds()
        ceiling = min(self.longest.total_seconds(), shortest * 2.0 ** min(failures, 30))
        return timedelta(seconds=uniform(shortest, ceiling))


LONGEST = timedelta(hours=1)
"""Nothing is put off for longer at a time: `claim_work` takes what is due later for the work of a clock that was wrong."""


class Fate(StrEnum):
    """What became of a key, for its resource's status."""

    DONE = "done"
    WAITS = "waits"
    RETRIES = "retries"
    HALTS = "halts"


@dataclass(frozen=True, slots=True)
class Settled:
    """`entry` None: the row goes. `due_at_once`: it was triggered meanwhile."""

    fate: Fate
    entry: Entry | None
    due_at_once: bool = False


PROMPT_KEYS = 100
"""What a person's change may concern and still be prompt: a batch, done in a tenth of a second. A change that concerns more takes its time
anyhow, and must not be in the way of others that don't."""


def lane_of(cause: Lane, keys: int) -> Lane:
    """The lane of the keys that one cause leads to. Few of what is prompt are prompt; many are bulk, whoever wanted them."""
    return Lane.PROMPT if cause is Lane.PROMPT and keys <= PROMPT_KEYS else Lane.BULK


def triggered(entry: Entry | None, key: str, strength: Strength, due_at: datetime) -> Entry:
    """A key that is not being reconciled, after a trigger."""
    if entry is None:
        return Entry(key, due_at)
    if strength is Strength.FRESH:
        return Entry(key, _sooner(entry.due_at, due_at))
    if entry.halted or (entry.backoff and strength is Strength.CHANGED):
        return entry
    return replace(entry, due_at=_sooner(entry.due_at, due_at), backoff=False)


def settle(held: Held, outcome: Outcome, backoff: Backoff, uniform: Uniform) -> Settled:
    """A key whose reconcile has ended. A trigger that came meanwhile makes it due again at once, unless it has to back off or halts."""
    match outcome:
        case Done():
            return Settled(Fate.DONE, Entry(held.key, held.now), True) if held.again else Settled(Fate.DONE, None)
        case Again(after):
            due_at = held.now if held.again else None if after is None else held.now + min(after, LONGEST)
            attempts = 0 if held.again is Strength.FRESH else held.attempts
            last_error = None if held.again is Strength.FRESH else held.last_error
            return Settled(Fate.WAITS, Entry(held.key, due_at, attempts, last_error=last_error), held.again is not None)
        case Failed(error):
            return _failed(held, error, backoff, uniform)


def _failed(held: Held, error: Error, backoff: Backoff, uniform: Uniform) -> Settled:
    if held.again is Strength.FRESH:
        return Settled(Fate.WAITS, Entry(held.key, held.now), True)
    failures = held.attempts + 1
    told = {"code": error.code, "message": error.message, "recoverable": error.recoverable, "attempt": failures}
    if not error.recoverable or failures >= backoff.attempts:
        return Settled(Fate.HALTS, Entry(held.key, None, failures, halted=True, last_error=told))
    if held.again is Strength.NOW:
        return Settled(Fate.RETRIES, Entry(held.key, held.now, failures, last_error=told), True)
    return Settled(Fate.RETRIES, Entry(held.key, held.now + backoff.pause(failures, uniform), failures, backoff=True, last_error=told))


def _sooner(known: datetime | None, other: datetime) -> datetime:
    return other if known is None else min(known, other)

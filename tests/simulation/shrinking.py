"""A broken plan cut down: events are left out as long as the same promise stays broken. Called for what the command line shows."""

from dataclasses import replace

from tests.simulation.plan import Event, Plan
from tests.simulation.world import simulate

TRIES = 120


def shrink(planned: Plan, tries: int = TRIES) -> Plan:
    """The smallest plan found that breaks the same promise; the plan itself where it breaks none. Halves first, then single events."""
    promise = _promise(planned)
    if promise is None:
        return planned
    size = max(1, len(planned.events) // 2)
    while tries > 0:
        smaller, tries = _without(planned, size, promise, tries)
        if smaller is not None:
            planned = smaller
        elif size == 1:
            break
        else:
            size //= 2
    return planned


def _without(planned: Plan, size: int, promise: str, tries: int) -> tuple[Plan | None, int]:
    """A plan without some `size` events that stand together, if one still breaks the promise; and the tries that are left."""
    for start in range(0, len(planned.events), size):
        if tries <= 0:
            break
        tries -= 1
        kept: tuple[Event, ...] = planned.events[:start] + planned.events[start + size :]
        candidate = replace(planned, events=kept)
        if _promise(candidate) == promise:
            return candidate, tries
    return None, tries


def _promise(planned: Plan) -> str | None:
    """Which promise a plan breaks, without the particulars."""
    broken = simulate(planned).broken
    return None if broken is None else broken.partition(":")[0]

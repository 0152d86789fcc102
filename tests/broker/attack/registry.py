"""The attacks by name, with the sizes of a whole run and of the short one that the tests make."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.broker.attack import flood, idle, mutated, oversized, slow, strangers
from tests.broker.attack.ground import Finding, Ground

Attack = Callable[[Ground, int, random.Random], Awaitable[list[Finding]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """`size` is what the attack takes it for: connections, bytes, readers, attempts or packets; `short` 0 leaves it out there. `open`: on a
    broker without TLS and ACL."""

    attack: Attack
    size: int
    short: int
    open: bool = False


ATTACKS: dict[str, Entry] = {
    "idle": Entry(idle.attack, size=1_000, short=0),
    "idle-mixed": Entry(idle.mixed, size=1_000, short=250),
    "oversized": Entry(oversized.attack, size=200_000_000, short=30_000_000),
    "slow": Entry(slow.attack, size=10, short=2),
    "flood": Entry(flood.attack, size=20_000_000, short=500_000),
    "strangers": Entry(strangers.attack, size=10_000, short=200),
    "mutated": Entry(mutated.attack, size=100_000, short=500, open=True),
}

"""Which nemesis comes when, on which broker, and for how long: a pure function of the seed, so that a run can be had again."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.nemeses.registry import NEMESES

BROKERS = ("embedded", "mosquitto")
ON_BOTH = frozenset({"kill-broker", "freeze-broker", "forgetful-broker", "resets"})
"""What the broker itself answers: asked of each."""


@dataclass(frozen=True, slots=True)
class Step:
    nemesis: str
    hold_s: float


PLUG = (
    Step("kill-broker", 1.0),
    Step("kill-agent-1", 1.0),
    Step("kill-postgres", 1.0),
    Step("pull-cable", 13.0),
    Step("kill-inventory", 1.0),
    Step("kill-managers", 1.0),
    Step("kill-web", 1.0),
)
"""What the demonstration does, in this order: always the same, as the README tells it."""


def plan(seed: int, names: Sequence[str], rounds: int = 1, everywhere: bool = False) -> dict[str, tuple[Step, ...]]:
    """For each broker its steps: every name once a round, in an order of its own. Unless `everywhere`, one that does not depend on the
    broker comes on one of them."""
    steps: dict[str, list[Step]] = {broker: [] for broker in BROKERS}
    chance = random.Random(seed)
    for _ in range(rounds):
        dealt = _deal(chance, names, everywhere)
        for broker in BROKERS:
            chance.shuffle(dealt[broker])
            steps[broker] += [_step(chance, name) for name in dealt[broker]]
    return {broker: tuple(found) for broker, found in steps.items()}


def worlds(seed: int, count: int) -> range:
    """The seeds of the simulated worlds of a run: as many, and others, for each seed."""
    return range(1 + (seed - 1) * count, 1 + seed * count)


def _deal(chance: random.Random, names: Sequence[str], everywhere: bool) -> dict[str, list[str]]:
    dealt: dict[str, list[str]] = {broker: [name for name in names if everywhere or name in ON_BOTH] for broker in BROKERS}
    rest = [name for name in names if name not in dealt[BROKERS[0]]]
    chance.shuffle(rest)
    for number, name in enumerate(rest):
        dealt[BROKERS[number % len(BROKERS)]].append(name)
    return dealt


def _step(chance: random.Random, name: str) -> Step:
    return Step(name, round(chance.uniform(*NEMESES[name]().hold_s), 1))

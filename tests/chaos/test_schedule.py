"""The schedule of nemeses follows from the seed."""

import pytest

from tests.chaos.ground import LOOK_S, WILL_S
from tests.chaos.nemeses.processes import MARGIN_S
from tests.chaos.nemeses.registry import NEMESES
from tests.chaos.schedule import BROKERS, ON_BOTH, PLUG, plan, worlds

NAMES = list(NEMESES)


def test_the_same_seed_gives_the_same_schedule() -> None:
    """Names, brokers, order and times; another seed gives another one."""
    assert plan(7, NAMES, 2) == plan(7, NAMES, 2)
    assert plan(7, NAMES) != plan(8, NAMES)


def test_each_nemesis_comes_once_a_round_on_one_of_the_brokers() -> None:
    """And those that the broker itself has to answer on both."""
    planned = plan(1, NAMES)
    on = {broker: [step.nemesis for step in steps] for broker, steps in planned.items()}
    assert sorted([*on["embedded"], *on["mosquitto"]]) == sorted([*NAMES, *ON_BOTH])
    assert set(on["embedded"]) & set(on["mosquitto"]) == ON_BOTH


def test_each_seed_has_simulated_worlds_of_its_own() -> None:
    """From the first one on, none left out, none twice, and none where none are asked for."""
    assert [seed for run in (1, 2, 3) for seed in worlds(run, 100)] == list(range(1, 301))
    assert not worlds(7, 0)


@pytest.mark.parametrize("broker", BROKERS)
def test_everywhere_means_each_on_each(broker: str) -> None:
    """In every round, and each for as long as it says that it stays."""
    steps = plan(1, NAMES, 2, everywhere=True)[broker]
    assert sorted(step.nemesis for step in steps) == sorted(NAMES * 2)
    for step in steps:
        low, high = NEMESES[step.nemesis]().hold_s
        assert low <= step.hold_s <= high


def test_who_has_to_be_shown_offline_is_away_for_long_enough() -> None:
    """On either broker: one that looks for silent clients now and then would not have noticed."""
    long = {step.nemesis: step.hold_s for step in plan(1, NAMES, everywhere=True)["mosquitto"]}
    for name in ("black-hole", "freeze-agent-1", "freeze-simulator", "pull-cable"):
        assert long[name] > WILL_S + LOOK_S


def test_the_demonstration_holds_for_as_long_as_it_has_to() -> None:
    """A pulled cable is shown within its bound, and all of it takes about a minute."""
    assert {step.nemesis for step in PLUG} <= set(NEMESES)
    assert all(step.hold_s > WILL_S + MARGIN_S for step in PLUG if step.nemesis == "pull-cable")
    assert sum(step.hold_s for step in PLUG) < 30

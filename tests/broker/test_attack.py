"""The attacks of `python -m tests.broker.attack` in short: everything that is looked at there holds."""

from pathlib import Path

import pytest

from tests.broker.attack.ground import chance_of, standing, standing_open
from tests.broker.attack.registry import ATTACKS


@pytest.mark.parametrize("name", [name for name, entry in ATTACKS.items() if entry.short and not entry.open])
async def test_the_broker_holds_against(tmp_path: Path, name: str) -> None:
    """No crash, nobody else harmed, no more memory than allowed, nothing left behind, and what the attack itself looks at."""
    async with standing(tmp_path, calm=True) as ground:
        findings = await ATTACKS[name].attack(ground, ATTACKS[name].short, chance_of(1, name))
    assert [each for each in findings if not each.held] == []


async def test_mutated_packets_do_what_they_do_to_mosquitto() -> None:
    """Two connections at once; what a subscriber of everything is sent is the same, but for what is explained."""
    async with standing_open(calm=True) as ground:
        findings = await ATTACKS["mutated"].attack(ground, ATTACKS["mutated"].short, chance_of(1, "mutated"))
    assert [each for each in findings if not each.held] == []

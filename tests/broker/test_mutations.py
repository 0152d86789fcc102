"""Mutated packets for two seconds; `python -m tests.broker.mutations` goes on for longer."""

import pytest

from tests.broker.mutations import run


@pytest.mark.parametrize("seed", [1, 2])
async def test_mutated_packets_harm_nobody_else(seed: int) -> None:
    """No crash, no hang over a second, no message of others lost, nothing left behind."""
    outcome = await run(1.0, seed)
    assert outcome.failures == []
    assert outcome.left == 0
    assert outcome.slowest < 1.0
    assert outcome.attacks > 20
    assert outcome.exchanges > 20

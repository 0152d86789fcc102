"""The gate before every request: turns by client, bounds, and slots that come back whatever happens."""

import asyncio
import random
from collections.abc import Hashable

import pytest

from inventory.errors import TooManyRequests, Unavailable
from web.gate import Gate, Recognised


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_turns_go_round_by_client() -> None:
    """With one slot and five waiting of one client, another's only request is served after one of them."""
    gate, order = Gate(running_most=1), list[str]()

    async def ask(client: str) -> None:
        await gate.enter(client)
        order.append(client)
        gate.leave()

    await gate.enter("first")
    tasks = [asyncio.create_task(ask(client)) for client in ["loud"] * 5 + ["quiet"]]
    await settle()
    gate.leave()
    await asyncio.gather(*tasks)
    assert order == ["loud", "quiet", "loud", "loud", "loud", "loud"]
    assert (gate.running, gate.waiting) == (0, 0)


async def test_beyond_its_share_a_client_is_refused_and_others_are_not() -> None:
    """Told when to come back; only when all together are too many is everybody refused."""
    gate = Gate(running_most=1, waiting_most=3, all_most=5)
    await gate.enter("loud")
    waiting = [asyncio.create_task(gate.enter("loud")) for _ in range(3)]
    await settle()
    with pytest.raises(TooManyRequests) as refused:
        await gate.enter("loud")
    assert refused.value.retry_after > 0
    waiting += [asyncio.create_task(gate.enter(client)) for client in ("a", "b")]
    await settle()
    with pytest.raises(Unavailable):
        await gate.enter("c")
    assert gate.refused == 2
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (gate.running, gate.waiting) == (1, 0)


async def test_no_slot_is_lost_to_those_who_go() -> None:
    """Clients that leave while they wait, while they are served, or at the moment that their turn comes: in the end all slots are free."""
    gate, chance = Gate(running_most=3, waiting_most=50, all_most=100), random.Random(7)

    async def ask(client: Hashable) -> None:
        await gate.enter(client)
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            gate.leave()

    for _ in range(50):
        tasks = [asyncio.create_task(ask(chance.randrange(4))) for _ in range(40)]
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
            chance.choice(tasks).cancel()
            assert gate.running <= 3
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.running, gate.waiting, len(gate._lines)) == (0, 0, 0)


def test_invented_tokens_are_no_clients_of_their_own() -> None:
    """Until a token was recognised, its requests count by their address; those remembered are bounded."""
    recognised = Recognised(most=2)
    recognised.add("Bearer good")
    assert recognised.client("Bearer good", "10.0.0.1") != "10.0.0.1"
    assert recognised.client("Bearer invented", "10.0.0.1") == recognised.client("", "10.0.0.1") == "10.0.0.1"
    recognised.add("Bearer b")
    recognised.add("Bearer c")
    assert recognised.client("Bearer good", "10.0.0.1") == "10.0.0.1"

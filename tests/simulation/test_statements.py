"""The simulated database against the real one: what simulated worlds ask, asked of Postgres as well."""

import asyncio

import pytest

from tests.simulation.plan import plan
from tests.simulation.replaying import replay, tables
from tests.simulation.world import World


@pytest.mark.parametrize("seed", [3, 8])
async def test_the_models_of_statements_are_what_postgres_says(inventory_url: str, seed: int) -> None:
    """Every statement of a whole run gives the same rows there, and leaves the same tables."""
    world = World(plan(seed), record=True)
    outcome = await _elsewhere(world)
    assert outcome is None
    record = world.server.record or []
    replayed = await replay(inventory_url, record, world.seams.shards)
    assert "\n".join(f"{sql}: {found}" for sql, found in replayed.different.items()) == ""
    assert replayed.asked > 300
    assert await tables(inventory_url, world.memory) == {}


async def _elsewhere(world: World) -> str | None:
    """Run a world in a thread: it has an event loop of its own."""
    return (await asyncio.to_thread(world.run)).broken

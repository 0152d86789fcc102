"""One config change to a whole online fleet, until everybody is current: `python -m benchmarks.config_rollout [--agents 10000]`.

A config is placed on all hosts first; measured is the PATCH of its content, until each host-config is as wanted by the device's own word.
Beside it stands the lean hand-written loop of `benchmarks.reconcile` (claim, read, one row with its change, settle; no MQTT, no device,
no command) on the same database.
"""

import asyncio
import time

from benchmarks.fleet import Standing, alone
from benchmarks.ground import Failed
from benchmarks.reconcile import lean
from benchmarks.report import Row

TARGET_S = 60.0
LIMIT_S = 300.0
LEAN_KEYS = 2000
CURRENT = """
SELECT count(*) FROM host_config c JOIN config f ON f.id = c.config
WHERE f.name = 'bench' AND c.observed_generation = c.generation AND c.generation = $1 AND c.status->>'indicator' = 'idle'
"""


def placed(stand: Standing) -> float:
    """Put the config on all hosts for the first time; seconds."""
    with stand.ground.api() as api:
        api.post("/configs", json={"name": "bench", "selector": "", "files": [_file("one")]}).raise_for_status()
        return asyncio.run(_until_current(stand, 1))


def measure(stand: Standing) -> Row:
    print(f"   first placing: {placed(stand):.1f} s", flush=True)
    with stand.ground.api() as api:
        load = stand.load()
        load.begin()
        api.patch("/configs/bench", json={"files": [_file("two")]}).raise_for_status()
        took = asyncio.run(_until_current(stand, 2))
    spent = load.spent()
    print("   CPU seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items()), flush=True)
    rate, beside = stand.agents / took, asyncio.run(_lean(stand))
    return Row(
        what=f"one config change to {stand.agents:,} online hosts, all current ({stand.broker})",
        target=f"{TARGET_S:.0f} s" if stand.agents == 10_000 else f"{TARGET_S:.0f} s at 10,000",
        ours=f"{took:.1f} s, {rate:.0f} hosts/s",
        beside=f"lean loop, no MQTT and no device: {beside:.0f} keys/s",
        ratio=f"{rate / beside:.2f}",
        met=rate >= 10_000 / TARGET_S,
    )


async def _until_current(stand: Standing, generation: int) -> float:
    began = time.monotonic()
    connection = await stand.ground.connect()
    try:
        while (done := await connection.fetchval(CURRENT, generation)) < stand.agents:
            if time.monotonic() - began > LIMIT_S:
                raise Failed(f"{done} of {stand.agents} hosts are current after {LIMIT_S:.0f} s")
            await asyncio.sleep(0.25)
    finally:
        await connection.close()
    return time.monotonic() - began


async def _lean(stand: Standing) -> float:
    db = await stand.ground.open_database()
    try:
        return await lean(db, LEAN_KEYS)
    finally:
        await db.close()


def _file(content: str) -> dict[str, str]:
    return {"path": "/etc/fleet/bench.conf", "content": content}


def main() -> None:
    alone(__doc__, measure)


if __name__ == "__main__":
    main()

"""What a second replica brings, or costs, on one machine: durable messages and config changes, with one process of a role and with two.

`python -m benchmarks.replicas [--devices 1000] [--messages 20] [--hosts 2000] [--rounds 2]`. Messages: the load of `benchmarks.ingest` on a
plain Mosquitto, read by one `inventory` process or, shards shared out, by two. Changes: one config to all online hosts, reconciled by one
`managers` process or by two; commands go through Mosquitto, and what devices answer is written in batches as ingest would write it
(`benchmarks.reconcile`). One and two take turns, and the best round of each counts. On 2 cores there is no core left for a second process,
so the ratio says what sharing costs; on a machine of its own a replica has cores of its own.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import aiomqtt

from benchmarks import paper, reconcile
from benchmarks.ground import Failed, directory
from benchmarks.ingest import TOPICS, Ground, load, mosquitto, payload, positioned, process
from benchmarks.meters import cpu_seconds
from benchmarks.report import arguments, machine, today, versions
from inventory.authority import Authority
from inventory.changes import Relay
from inventory.db import Database, migrate
from inventory.store import Store
from tests.inventory_wire.device import make_devices

SHARED_S = 30.0
"""For the shards to be shared out, in seconds; the leases take 4."""
COUNTS = (1, 2)


@contextmanager
def replicas(role: str, count: int, ground: Ground) -> Iterator[list[int]]:
    """So many processes of a role, all ready; their pids."""
    with ExitStack() as stack:
        yield [stack.enter_context(process([sys.executable, "-m", role], _environment(ground, n))).pid for n in range(1, count + 1)]


def _environment(ground: Ground, number: int) -> dict[str, str]:
    return dict(os.environ) | {
        "FLEETWARD_DATABASE": ground.database,
        "FLEETWARD_BROKER": f"mqtt://127.0.0.1:{ground.port}",
        "FLEETWARD_SECRETS": str(ground.secrets),
        "FLEETWARD_REPLICA": str(number),
    }


# --- durable messages -------------------------------------------------------------------------------------------------------------


async def messages(db: Database, ground: Ground, devices: list[Any], options: argparse.Namespace, count: int, epoch: str) -> float:
    """Messages a second, acknowledged."""
    payloads = {
        d.topic("up/facts").encode(): [payload(d.id, d.key, epoch, seq) for seq in range(1, options.messages + 1)] for d in devices
    }  # fmt: skip
    with replicas("inventory", count, ground) as pids:
        await _shared(db, count)
        before = cpu_seconds(pids)
        took = await load(ground, payloads)
        used = cpu_seconds(pids) - before
        await positioned(ground)
    total = int(len(devices) * options.messages)
    print(f"   inventory x {count}: {total / took:6.0f} messages/s, {used / total * 1e6:.0f} µs of CPU each", flush=True)
    return total / took


async def _shared(db: Database, count: int) -> None:
    """Until each replica holds its share of the shards."""
    began = time.monotonic()
    while True:
        async with db.acquire() as connection:
            rows = await connection.fetch("SELECT count(*) AS n FROM ingest_lease WHERE until > now() GROUP BY owner")
        if [row["n"] for row in rows] == [256 // count] * count:
            return
        if time.monotonic() - began > SHARED_S:
            raise Failed(f"the shards are not shared out among {count} processes after {SHARED_S:.0f} s: {[row['n'] for row in rows]}")
        await asyncio.sleep(0.1)


# --- config changes ---------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def obeying(store: Store, ground: Ground) -> AsyncIterator[None]:
    """Devices that do what they are told, and the relay, which is otherwise Inventory's."""
    devices = reconcile.Devices()
    async with aiomqtt.Client("127.0.0.1", ground.port) as client, asyncio.TaskGroup() as group:
        await client.subscribe(TOPICS.channel("down/command"), qos=1)
        tasks = [group.create_task(Relay(store.db).run()), group.create_task(devices.obey(store))]
        tasks.append(group.create_task(_listen(client, devices)))
        yield
        for task in tasks:
            task.cancel()


async def _listen(client: aiomqtt.Client, devices: reconcile.Devices) -> None:
    async for message in client.messages:
        assert isinstance(message.payload, bytes)
        await devices.send(str(message.topic), message.payload)


async def changes(store: Store, ground: Ground, hosts: int, count: int, generation: int) -> float:
    """Hosts a second, for one new content of the config to be current on all. The first generation makes the config."""
    with replicas("managers", count, ground) as pids:
        before, began = cpu_seconds(pids), time.perf_counter()
        if generation == 1:
            await store.create("config", {"name": "bench", "selector": "", "files": [reconcile.file("1")]}, reconcile.ADMIN)
        else:
            await store.patch("config", "bench", {"files": [reconcile.file(str(generation))]}, reconcile.ADMIN)
        await reconcile.until_current(store.db, hosts, generation)
        took, used = time.perf_counter() - began, cpu_seconds(pids) - before
    first = " (the first placing, which does not count)" if generation == 1 else ""
    print(f"   managers x {count}: {hosts / took:6.0f} hosts/s, {used / hosts * 1e6:.0f} µs of CPU each{first}", flush=True)
    return hosts / took


# --- both -------------------------------------------------------------------------------------------------------------------------


async def compare_messages(ground: Ground, options: argparse.Namespace) -> dict[int, float]:
    db = await Database.open(ground.database, application="benchmark")
    devices = await make_devices(db, Store(db), Authority(ground.secrets), [f"edge-{n}" for n in range(options.devices)])
    best = dict.fromkeys(COUNTS, 0.0)
    for round_ in range(options.rounds):
        for count in COUNTS:
            best[count] = max(best[count], await messages(db, ground, devices, options, count, f"e{round_}-{count}"))
    await db.close()
    return best


async def compare_changes(ground: Ground, options: argparse.Namespace) -> dict[int, float]:
    db = await Database.open(ground.database, application="benchmark", pool_size=16)
    async with db.acquire() as connection:
        await connection.execute("TRUNCATE host, config, command, host_config, work, changes_in, notification, cursors CASCADE")
    await reconcile.populate(db, options.hosts)
    store, best, generation = Store(db), dict.fromkeys(COUNTS, 0.0), 1
    async with obeying(store, ground):
        await changes(store, ground, options.hosts, 1, generation)
        for _ in range(options.rounds):
            for count in COUNTS:
                generation += 1
                best[count] = max(best[count], await changes(store, ground, options.hosts, count, generation))
    await db.close()
    return best


def tell(what: str, unit: str, best: dict[int, float]) -> None:
    one, two = (best[count] for count in COUNTS)
    print(f"== {what}\n   one     {one:,.0f} {unit}\n   two     {two:,.0f} {unit}\n   ratio   {two / one:.2f}", flush=True)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=20, help="of each device")
    parser.add_argument("--hosts", type=int, default=2000, help="that the config goes to")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-v", action="store_true", help="show what the services log")
    options = parser.parse_args()
    with directory() as home, paper.cluster(home / "postgres") as cluster, mosquitto(home) as port:
        Authority(home / "secrets").bootstrap()
        asyncio.run(migrate(cluster.url()))
        ground = Ground(cluster.url(), port, home / "secrets")
        tell("durable device messages, committed and acknowledged", "/s", asyncio.run(compare_messages(ground, options)))
        tell("one config change to all online hosts", "hosts/s", asyncio.run(compare_changes(ground, options)))
    print(f"{today()}, {machine()}; {versions()}")


if __name__ == "__main__":
    main()

"""One config change to N online hosts, until all are current: the managers and Inventory's store, without MQTT.

Devices are played by a loop that ends each command as ingest would, in batches. Printed: keys/s of a lean hand-written loop over the same
tables (claim, read, one upsert with a change row, settle) on the same database, ours, their ratio, the time of the statement that
evaluates selectors, how long a change to a single host takes while another one to all of them is under way, how many keys were queued
then, and this process's memory (managers, devices and store together). Run: `python -m benchmarks.reconcile [--hosts 10000]`. It starts a
PostgreSQL of its own; the one that `--database postgresql://…` names instead is emptied.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import paper
from benchmarks.ground import directory
from broker.messages import Command, Order, decode, decode_text
from inventory import applying, bulk
from inventory.actor import Actor
from inventory.applying import Configs
from inventory.authority import Authority
from inventory.changes import Relay
from inventory.db import Database, dumps, migrate
from inventory.ids import new_id
from inventory.kinds import BY_NAME
from inventory.resource import time_text
from inventory.signing import CommandSigner
from inventory.store import Store
from inventory.vault import Vault
from managers.rendering import Renderer
from managers.service import assemble, started
from managers.settings import Settings

ADMIN = Actor.user("admin", "admin")
BATCH = 200


class Devices:
    """The wire, and what is behind it: commands are ended in batches."""

    def __init__(self) -> None:
        self.connected_since: datetime | None = datetime.now(UTC)
        self.orders: asyncio.Queue[Order] = asyncio.Queue()
        self.commands = 0

    async def send(self, topic: str, payload: bytes, qos: int = 1) -> None:
        message = decode("down/command", payload)
        assert isinstance(message, Command)
        self.commands += 1
        self.orders.put_nowait(decode_text(Order, message.signed))

    async def obey(self, store: Store) -> None:
        """Report and result of each order, written as ingest writes them: many rows a statement."""
        while True:
            orders = [await self.orders.get()]
            while not self.orders.empty() and len(orders) < BATCH:
                orders.append(self.orders.get_nowait())
            async with bulk.transaction(store.db, datetime.now(UTC)) as w:
                now = time_text(w.at)
                reports = {}
                for order in orders:
                    assert order.resource is not None
                    said = {"generation": order.resource.generation, "state": "present", "digest": order.args["digest"], "reason": ""}
                    reports[order.resource.id] = {"reported": said | {"message": "", "at": now}}
                result = {"state": "succeeded", "progress": 100, "output": "", "error": None}
                ends: dict[str, Any] = {o.id: {"state": "succeeded", "result": result, "finished_at": w.at} for o in orders}
                await w.write_many(BY_NAME["host-config"], reports, lambda row: Actor.device(row["host"]))
                await w.write_many(BY_NAME["command"], ends, lambda row: Actor.system())


async def populate(db: Database, hosts: int) -> None:
    """Onboarded, online hosts, written directly: their making is not what is measured."""
    ids = [new_id("host") for _ in range(hosts)]
    labels = [dumps({"line": str(n % 100), "country": ["de", "fr", "it"][n % 3]}) for n in range(hosts)]
    async with db.transaction() as tx:
        await tx.raw.execute(
            "INSERT INTO host (id, name, title, labels, version, generation, observed_generation, desired_state, current_state, status, "
            "created_at, updated_at, presence, cpu_cores, memory_bytes) "
            "SELECT id, 'bench-' || n, '', labels::jsonb, nextval('versions'), 1, 1, 'onboarded', 'onboarded', "
            "'{\"indicator\": \"idle\"}', now(), now(), 'online', 4, 8589934592 "
            "FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (id, labels, n)",
            ids,
            labels,
        )
        await tx.raw.execute("INSERT INTO host_labels (host, labels) SELECT id, labels FROM host")
        await tx.raw.execute(
            "INSERT INTO device_stream (host, seq, session, retired, retired_epochs, keepalive_s, heartbeat_s, flaps) "
            "SELECT id, 0, 's', '[]', '[]', 30, 30, 0 FROM host"
        )
        await tx.raw.execute(
            "INSERT INTO device_identity (host, fingerprint, incarnation, certificate, certificate_serial, expires_at, fence, evidence, "
            "created_at) SELECT id, id, 1, '', '', now() + interval '1 year', 0, '{}', now() FROM host"
        )
        await tx.raw.execute("INSERT INTO host_told (host, presence, told_at) SELECT id, 'online', now() FROM host")
    async with db.acquire() as connection:
        await connection.execute("ANALYZE")


async def evaluation(db: Database) -> float:
    """Milliseconds of the statement that asks 500 hosts about all configs."""
    configs = [config for config in (await Configs(db, Vault(Path())).all()).values() if not config.deleted]
    async with db.acquire() as connection:
        ids = [row["id"] for row in await connection.fetch("SELECT id FROM host ORDER BY id LIMIT 500")]
        await applying.matching(connection, ids, configs)
        began = time.perf_counter()
        await applying.matching(connection, ids, configs)
        return (time.perf_counter() - began) * 1000


async def lean(db: Database, keys: int) -> float:
    """Keys a second of what nobody would call less: claim a key, read, write its row with a change, settle, in one transaction."""
    async with db.acquire() as connection:
        await connection.execute("CREATE TABLE lean_work (key text PRIMARY KEY, due_at timestamptz NOT NULL)")
        await connection.execute("CREATE TABLE lean_row (id text PRIMARY KEY, digest text, state text, version bigint)")
        await connection.execute("INSERT INTO lean_work SELECT 'k' || n, now() FROM generate_series(1, $1::int) AS n", keys)
        await connection.execute("INSERT INTO lean_row SELECT 'k' || n, '', '', 0 FROM generate_series(1, $1::int) AS n", keys)
    began, done = time.perf_counter(), 0
    while done < keys:
        for _ in range(10):
            async with db.transaction() as tx:
                key = await tx.raw.fetchval("SELECT key FROM lean_work ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED")
                row = await tx.raw.fetchrow("SELECT * FROM lean_row WHERE id = $1", key)
                assert row is not None
                await tx.raw.execute("UPDATE lean_row SET state = 'present', version = nextval('versions') WHERE id = $1", key)
                await tx.raw.execute(
                    "INSERT INTO changes_in (kind, resource_id, op, version, generation, changed, resource, actor, at) "
                    "VALUES ('lean', $1, 'updated', 1, 1, '[\"state\"]', $2::jsonb, '{}', now())",
                    key,
                    dumps(dict(row)),
                )
                await tx.raw.execute("DELETE FROM lean_work WHERE key = $1", key)
            done += 1
    rate = keys / (time.perf_counter() - began)
    async with db.acquire() as connection:
        await connection.execute("DROP TABLE lean_work, lean_row")
        await connection.execute("TRUNCATE changes_in")
    return rate


async def current(db: Database, config: str, generation: int) -> int:
    """How many hosts have the config as wanted, at this generation of their host-config or a later one."""
    async with db.acquire() as connection:
        found = await connection.fetchval(
            "SELECT count(*) FROM host_config WHERE config = (SELECT id FROM config WHERE name = $1) "
            "AND observed_generation = generation AND generation >= $2 AND status->>'indicator' = 'idle'",
            config,
            generation,
        )
    return int(found)


async def until_current(db: Database, hosts: int, generation: int, config: str = "bench", pause_s: float = 0.25) -> None:
    while True:
        if await current(db, config, generation) == hosts:
            return
        await asyncio.sleep(pause_s)


async def meanwhile(db: Database, store: Store, hosts: int) -> list[float]:
    """Seconds that a change to one host takes, time and again while one to all is under way."""
    await store.create("config", {"name": "single", "selector": 'name = "bench-1"', "files": [file("0", "single")]}, ADMIN)
    await until_current(db, 1, 1, "single")
    await store.patch("config", "bench", {"files": [file("three")]}, ADMIN)
    took: list[float] = []
    while await current(db, "bench", 3) < hosts:
        began = time.perf_counter()
        await store.patch("config", "single", {"files": [file(str(len(took) + 1), "single")]}, ADMIN)
        await until_current(db, 1, len(took) + 2, "single", 0.02)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.5)
    return took


async def deepest(db: Database, deep: list[int]) -> None:
    """Remember how many keys are queued, once a second."""
    while True:
        async with db.acquire() as connection:
            deep.append(int(await connection.fetchval("SELECT count(*) FROM work WHERE due_at IS NOT NULL")))
        await asyncio.sleep(1)


def peak_mib() -> float:
    """The most that was ever resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_mib() -> float:
    """Resident now."""
    return psutil.Process().memory_info().rss / 2**20


async def measure(url: str, hosts: int) -> None:
    await migrate(url)
    db = await Database.open(url, application="benchmark", pool_size=16)
    async with db.acquire() as connection:
        await connection.execute("TRUNCATE host, config, command, host_config, work, changes_in, notification, cursors CASCADE")
    await populate(db, hosts)
    baseline = await lean(db, min(hosts, 2000))
    with tempfile.TemporaryDirectory() as home:
        secrets = Path(home) / "secrets"
        Authority(secrets).bootstrap()
        store, devices, renderer = Store(db), Devices(), Renderer()
        running = assemble(db, store, renderer, devices, CommandSigner(secrets), Settings(database=url, secrets=secrets))
        helpers = [asyncio.create_task(Relay(db).run()), asyncio.create_task(devices.obey(store))]
        async with started(running) as watch:
            await store.create("config", {"name": "bench", "selector": "labels.country:*", "files": [file("one")]}, ADMIN)
            for n in range(49):
                await store.create("config", {"name": f"other-{n}", "selector": f"labels.line = x{n} AND cpu_cores > 2"}, ADMIN)
            began = time.perf_counter()
            await until_current(db, hosts, 1)
            print(f"first placing on {hosts} hosts     {time.perf_counter() - began:8.1f} s")
            await asyncio.sleep(2)
            cpu, began = time.process_time(), time.perf_counter()
            await store.patch("config", "bench", {"files": [file("two")]}, ADMIN)
            await until_current(db, hosts, 2)
            took = time.perf_counter() - began
            assert not watch.done(), watch.exception()
            spent = time.process_time() - cpu
            print(f"one change to {hosts} hosts        {took:8.1f} s, {spent:.1f} s of CPU here; {devices.commands} commands in all")
            print(f"selectors of 50 configs, 500 hosts {await evaluation(db):8.1f} ms")
            before, deep = memory_mib(), list[int]()
            helpers.append(asyncio.create_task(deepest(db, deep)))
            single = sorted(await meanwhile(db, store, hosts))
            print(f"keys queued meanwhile, at most     {max(deep):8}")
            print(f"memory: {before:.0f} MiB before, {memory_mib():.0f} after, {peak_mib():.0f} at most")
            print(f"meanwhile, a change to one host    {single[len(single) // 2]:8.2f} s, at most {single[-1]:.2f} s ({len(single)} times)")
            print(f"lean loop {baseline:.0f} keys/s, ours {hosts / took:.0f} hosts/s, ratio {hosts / took / baseline:.2f}")
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await renderer.close()
    await db.close()


def file(content: str, name: str = "bench") -> dict[str, str]:
    return {"path": f"/etc/fleet/{name}.conf", "content": content}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--database", help="a URL, to be emptied; else one is made for the run")
    parser.add_argument("--hosts", type=int, default=10_000)
    options = parser.parse_args()
    if options.database:
        asyncio.run(measure(options.database, options.hosts))
        return
    with directory() as home, paper.cluster(home / "postgres") as made:
        asyncio.run(measure(made.url(), options.hosts))


if __name__ == "__main__":
    main()

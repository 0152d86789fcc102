"""Two of each role on one PostgreSQL and one Mosquitto, each with its own certificate; of each, one is killed while there is work.

Everything is a process as `fleetward` starts it; the devices are talkers on the wire. What must be seen: shards shared out, and anew after
the kill; every message committed once and in order; no key in two hands, every command made once; one event stream from either web.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest

from broker.mosquitto import find_mosquitto
from broker.topics import shard_of
from inventory.authority import Authority
from inventory.bootstrap import Wanted, bootstrap
from inventory.db import Database
from inventory.store import Store
from tests.inventory_wire.device import Device, make_devices
from tests.inventory_wire.installation import Installation, installation, new_key, request, until
from tests.system import replicated
from tests.system.talker import Talker

ROLES = ("inventory", "managers", "web")
TRUST = ssl.create_default_context()
"""One for all clients: making one takes longer than what they ask."""
DEVICES = 12
CONFIGS = 3
REBALANCED_S = 12.0
"""docs/operating.md says about 10 s: the lease, and the next step after it."""


@dataclass(slots=True)
class Site:
    """The installation, an observer's connection to its database, and its fleet."""

    place: Installation
    observer: asyncpg.Connection
    talkers: list[Talker]

    def pid(self, name: str) -> int:
        return self.place.processes[name].pid

    def name(self, pid: int) -> str:
        [name] = [name for name, process in self.place.processes.items() if process.pid == pid]
        return name

    def web(self, name: str) -> httpx.AsyncClient:
        """The API of one of the two."""
        token = (self.place.directory / "admin-token").read_text().strip()
        url = self.place.said[name].removeprefix("listening ")
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=30, trust_env=False, verify=TRUST)

    async def count(self, condition: str, *args: Any) -> int:
        return int(await self.observer.fetchval(f"SELECT count(*) FROM {condition}", *args))


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[None]:
    """The first of each role, the fleet connected and talking, and the second of each coming into that."""
    await asyncio.gather(*(site.place.start(role) for role in ROLES))
    async with asyncio.TaskGroup() as tasks:
        fleet = [tasks.create_task(talker.run()) for talker in site.talkers]
        await until(lambda: _is(site.count("host WHERE presence = 'online'"), DEVICES), "the fleet to be online")
        for talker in site.talkers:
            talker.chat(30)
        await asyncio.gather(*(site.place.start(f"{role}.2") for role in ROLES))
        yield
        for task in fleet:
            task.cancel()


async def _is(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)


def certified(place: Installation, device: Device) -> Talker:
    """With a certificate of the installation's CA."""
    key = new_key()
    place.write_identity(device.id, Authority(place.secrets).issue_device(request(key), device.id).pem, key)
    return Talker(device, place.client(device.id))


@pytest.fixture
async def site(inventory_url: str) -> AsyncIterator[Site]:
    """Broker and database run, devices are enrolled; no replica is there yet."""
    if find_mosquitto() is None:
        pytest.skip("no mosquitto on PATH")
    async with installation(inventory_url) as place:
        await bootstrap(Wanted(place.secrets, inventory_url, admin_token_file=place.directory / "admin-token"), datetime.now(UTC))
        await place.start("broker")
        db = await Database.open(inventory_url, application="tests", pool_size=2)
        devices = await make_devices(db, Store(db), Authority(place.secrets), [f"edge-{n}" for n in range(DEVICES)])
        await db.close()
        observer = await asyncpg.connect(inventory_url)
        await observer.execute(replicated.OBSERVER)
        yield Site(place, observer, [certified(place, device) for device in devices])
        await observer.close()


# --- who reads and who asks -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Follower:
    """Reads the events of configs, from each of these web processes for as long as it is there."""

    site: Site
    names: tuple[str, ...]
    positions: list[int] = field(default_factory=list)

    async def run(self) -> None:
        for name in self.names:
            with suppress(httpx.TransportError):  # the process is killed; the next one goes on
                async with self.site.web(name) as client:
                    await self._read(client)

    async def _read(self, client: httpx.AsyncClient) -> None:
        last = {"Last-Event-ID": str(self.positions[-1] if self.positions else 0)}
        async with client.stream("GET", "/events/stream", params={"kind": "config"}, headers=last) as answer:
            assert answer.status_code == 200
            position = 0
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    position = int(line.removeprefix("id: "))
                elif line == "event: change":
                    self.positions.append(position)


@dataclass(slots=True)
class Editor:
    """Somebody who keeps changing the configs, through one web process and the other in turn; `asked`: how often."""

    site: Site
    names: list[str] = field(default_factory=lambda: ["web", "web.2"])
    asked: int = 0

    async def create(self) -> None:
        async with self.site.web("web") as client:
            for n in range(CONFIGS):
                answer = await client.post("/configs", json={"name": f"config-{n}", "selector": "", "files": [_file(n, 0)]})
                assert answer.status_code == 201, answer.text

    async def edit(self) -> None:
        self.asked += 1
        n = self.asked % CONFIGS
        async with self.site.web(self.names[self.asked % len(self.names)]) as client:
            answer = await client.patch(f"/configs/config-{n}", json={"files": [_file(n, self.asked)]})
            assert answer.status_code == 200, answer.text


def _file(n: int, content: int) -> dict[str, str]:
    return {"path": f"/etc/fleet/{n}", "content": f"{content}\n"}


# --- what is killed -------------------------------------------------------------------------------------------------------------


async def kill_manager(site: Site, editor: Editor) -> tuple[int, list[str]]:
    """Kill the managers process that has most keys in its hands, in the midst of writing what it decided; its pid and these keys.

    A lock on what it writes keeps it there. Whoever waits for that lock has the keys leased; both may, if they claimed at one moment."""

    async def stuck() -> dict[int, list[str]]:
        waiting = await site.count("pg_locks JOIN pg_stat_activity USING (pid) WHERE " + _WAITS)
        held = await replicated.in_hand(site.observer, "placement")
        return held if waiting >= len(held) else {}

    async with site.observer.transaction():
        await site.observer.execute("LOCK TABLE host_config IN EXCLUSIVE MODE")
        await editor.edit()
        held = await until(stuck, "a managers process to hold keys")
        pid = max(held, key=lambda pid: len(held[pid]))
        await site.place.kill(site.name(pid))
        # As it died: what it had nothing to write for, it may have ended since the look.
        keys = (await replicated.in_hand(site.observer, "placement")).get(pid, [])
    return pid, keys


_WAITS = "relation = 'host_config'::regclass AND NOT granted AND application_name = 'svc-managers'"


async def kill_reader(site: Site, shard: str) -> str:
    """Kill the Inventory process that reads a shard; the name of the one that is left."""
    victim = site.name(await replicated.holder(site.observer, shard))
    await site.place.kill(victim)
    return "inventory.2" if victim == "inventory" else "inventory"


# --- what is judged -------------------------------------------------------------------------------------------------------------


async def check_streams(site: Site) -> None:
    """Every message of every device was committed once, in order, and acknowledged."""
    for talker in site.talkers:
        host, last = talker.device.id, talker.device.seq
        assert talker.acked == last
        assert replicated.unbroken(await replicated.steps(site.observer, host), last)
        logs = await site.observer.fetch("SELECT message FROM device_log WHERE host = $1 ORDER BY id", host)
        assert [int(row["message"]) for row in logs] == talker.logged
        kernels = [row["kernel"] for row in await site.observer.fetch(_KERNELS, host)]
        assert kernels == sorted(set(kernels)) and kernels[-1] == talker.device.sections["os"]["kernel"]


_KERNELS = "SELECT resource->>'kernel' AS kernel FROM changes WHERE resource_id = $1 AND changed ? 'kernel' ORDER BY position"


async def check_work(site: Site, dead: int, held: list[str]) -> None:
    """No key was in two hands; both processes had some; what the dead one held was taken over when its lease had ended."""
    seen = await replicated.claims(site.observer)
    assert [claim for claim in seen if claim.doubled] == []
    assert {claim.pid for claim in seen} == {dead, *(site.pid(name) for name in site.place.processes if name.startswith("managers"))}
    over = {claim.key.split()[1] for claim in seen if claim.pid_before == dead and claim.pid != dead}
    assert over >= set(held)
    for key in {claim.key for claim in seen}:
        fences = [claim.fence for claim in seen if claim.key == key]
        assert fences == sorted(set(fences))


async def check_commands(site: Site) -> None:
    """One command a host-config and generation, run once; a device never had the same number twice, nor an older config after a newer."""
    rows = await site.observer.fetch("SELECT resource->>'id', (resource->>'generation')::int, state FROM command ORDER BY 1, 2")
    assert {state for *_, state in rows} == {"succeeded"}
    made = [(id, generation) for id, generation, _ in rows]
    assert made == sorted(set(made))
    ran = [(what.id, what.generation) for talker in site.talkers for what in talker.carried_out()]
    assert sorted(ran) == made
    for talker in site.talkers:
        assert len(set(talker.numbers)) == len(talker.numbers)
        for id in {what.id for what in talker.carried_out()}:
            generations = [what.generation for what in talker.carried_out() if what.id == id]
            assert generations == sorted(generations)


async def settled(site: Site) -> bool:
    """Every config as it was asked for last, on every device, and nothing left to do."""
    done = "host_config WHERE observed_generation = generation AND status->>'indicator' = 'idle'"
    busy = "work WHERE lease_until IS NOT NULL OR (due_at < now() + interval '3 s' AND manager <> 'notification')"
    counts = [await site.count(what) for what in (done, busy, "command WHERE finished_at IS NULL", "changes_in")]
    return counts == [DEVICES * CONFIGS, 0, 0, 0]


async def check_stream_of_events(site: Site, followers: list[Follower]) -> None:
    """Each follower saw every event once and in order, the one whose process was killed too."""
    rows = await site.observer.fetch("SELECT position FROM changes WHERE kind = 'config' ORDER BY position")
    wanted = [row["position"] for row in rows]
    for follower in followers:
        await until(partial(_has, follower, len(wanted)), "the events of configs")
        assert follower.positions == wanted


def _has(follower: Follower, events: int) -> bool:
    return len(follower.positions) >= events


@pytest.mark.timeout(300)
async def test_two_of_each_share_the_work_and_one_of_each_may_be_killed(site: Site) -> None:
    """Shards and keys go to those that are left, within their leases, and nothing is lost, doubled or out of order."""
    async with running(site), asyncio.TaskGroup() as tasks:
        followers = [Follower(site, ("web", "web.2")), Follower(site, ("web.2",))]
        following = [tasks.create_task(follower.run()) for follower in followers]
        editor = Editor(site)
        await editor.create()
        dead, held = await kill_manager(site, editor)
        await until(lambda: _is(shards(site), [128, 128]), "the shards to be shared out")
        for talker in site.talkers:
            talker.chat(60)
        first, heard = site.talkers[0], site.talkers[0].acked
        await until(lambda: first.acked > heard, "the messages to flow")
        left = await kill_reader(site, shard_of(site.talkers[0].device.id))
        await site.place.kill("web")
        editor.names = ["web.2"]
        for _ in range(CONFIGS):
            await editor.edit()
        await until(lambda: _is(replicated.shares(site.observer), {site.pid(left): 256}), "the shards to be shared out anew", REBALANCED_S)
        await until(lambda: settled(site), "all configs to be as asked")
        await until(lambda: all(talker.heard for talker in site.talkers), "everything said to be acknowledged")
        await check_stream_of_events(site, followers)
        for task in following:
            task.cancel()
    await check_streams(site)
    await check_work(site, dead, held)
    await check_commands(site)


async def shards(site: Site) -> list[int]:
    return sorted((await replicated.shares(site.observer)).values())

"""The installation that is put under chaos: real processes, each its own, on free ports of the loopback.

PostgreSQL, a broker (embedded or Mosquitto), inventory, managers and web, as `fleetward up` would run them (`fleetward.services` says how);
three real agents with state directories and roots of their own, one behind a cable, one on a small disk; and a dozen simulated ones.
All agents reach the broker through our proxy. Deliberately without `up`'s supervisor: who is started again when is the nemeses' business.
"""

import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from edge_agent import identity
from edge_agent.simulated import control
from edge_agent.simulator import SOCKET
from fleetward.layout import DataDir
from fleetward.services import Table
from fleetward.settings import Up
from inventory.db import Database as Pool
from inventory.store import Store
from tests.chaos import cable as cables
from tests.chaos.cable import Cable
from tests.chaos.database import Database
from tests.chaos.device import LEDGER, PLUGGED
from tests.chaos.disks import Disk, Disks
from tests.chaos.parts import Part, until
from tests.chaos.proxy import Proxy, loopback
from tests.chaos.story import Story
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
KEEPALIVE_S = HEARTBEAT_S = 5
"""The lowest that an agent may have, so that absence shows soon."""
WILL_S = 1.5 * KEEPALIVE_S
LOOK_S = 6.0
"""How often Mosquitto 2.0 looks for clients that are silent (`keepalive.c`), at most."""
SILENCE_S = 3 * HEARTBEAT_S + 5.0
SIMULATED = "simulated"
SERVERS = ("broker", "inventory", "managers", "web")
AGENT_DISK_MB = 6

Json = dict[str, Any]


@dataclass(slots=True)
class Device:
    """A real agent. `ledger`: it runs `tests.chaos.device`, not plain `fleetward-agent run`. `work` holds what the harness itself writes,
    and is never on the device's small disk."""

    name: str
    part: Part
    state: Path
    work: Path
    ledger: bool
    disk: Disk | None = None
    wired: bool = False
    host: str = ""
    plugged: int = 0

    @property
    def file(self) -> Path:
        """Where its config places its file."""
        return self.state / "files" / "wanted"


@dataclass(slots=True)
class Ground:
    """`broker`: `embedded` or `mosquitto`. Everything it makes lies below `home`, which goes at the end unless it is to be kept."""

    broker: str
    story: Story
    seed: int
    simulated: int = 12
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="fleetward-chaos-", dir="/tmp")))
    disks: Disks = field(default_factory=Disks)
    parts: dict[str, Part] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    """Host id → the name by which the story calls it."""
    _cable: Cable | None = None
    _database: Database | None = None
    _table: Table | None = None
    _proxy: Proxy | None = None
    _web: httpx.AsyncClient | None = None
    _pool: Pool | None = None
    _port: int = 0
    """The proxy's, where devices are told to find the broker."""

    # --- what others use ------------------------------------------------------------------------------------------------------

    @property
    def gone_s(self) -> float:
        """After how long, at the latest, the broker takes a client for gone that is silent."""
        return WILL_S + LOOK_S * (self.broker == "mosquitto")

    @property
    def database(self) -> Database:
        assert self._database is not None
        return self._database

    @property
    def proxy(self) -> Proxy:
        assert self._proxy is not None
        return self._proxy

    @property
    def cable(self) -> Cable | None:
        return self._cable

    @property
    def pool(self) -> Pool:
        assert self._pool is not None
        return self._pool

    @property
    def store(self) -> Store:
        return Store(self.pool)

    def part(self, name: str) -> Part:
        """A process by its name: a server's, `postgres`, `simulator`, or a device's."""
        if name == "postgres":
            return self.database.part
        return self.devices[name].part if name in self.devices else self.parts[name]

    def simulated_hosts(self) -> frozenset[str]:
        return frozenset(host for host, name in self.hosts.items() if name == SIMULATED)

    async def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """One request of the API. Raises httpx.HTTPError."""
        assert self._web is not None
        return await self._web.request(method, f"/api/v1/{path}", **request)

    async def items(self, collection: str, filter: str = "") -> list[Json]:
        """A whole list. Raises httpx.HTTPError, also for what is no 2xx."""
        found: list[Json] = []
        token = ""
        while True:
            answer = await self.ask("GET", collection, params={"filter": filter, "page_size": 1000, "page_token": token})
            answer.raise_for_status()
            found += answer.json()["items"]
            token = answer.json()["next_page_token"] or ""
            if not token:
                return found

    async def tell_simulator(self, **request: Any) -> Json:
        """Raises OSError where it does not answer, ValueError where it refuses."""
        said = await asyncio.to_thread(control.tell, self.home / "simulator" / SOCKET, json.dumps(request))
        answer: Json = json.loads(said)
        if not answer.pop("ok"):
            raise ValueError(answer["error"])
        return answer

    # --- starting -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Until every agent is enrolled, online and onboarded."""
        self._lay_out()
        await self._start_servers()
        await self._lay_cable()
        await self._start_devices()
        await self._until_all_online()

    def _lay_out(self) -> None:
        self.home.chmod(0o711)
        (self.home / "log").mkdir()
        (self.home / "simulator").mkdir(mode=0o700)
        data = DataDir(self.home / "data")
        data.make(None)
        mqtt, http = (free_port() for _ in range(2))
        up = Up(data.root, http_port=http, mqtt_port=mqtt, broker=self.broker, advertise=(cables.OUR_ADDRESS,))
        base = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}
        self._database = Database(self.home, self.disks, {"PATH": base.get("PATH", os.defpath), "LC_ALL": "C"})
        self._table = Table(up, data, self._database.url, base)

    async def _start_servers(self) -> None:
        assert self._table is not None
        table = self._table
        await self.database.start()
        self._proxy = Proxy(table.settings.mqtt_port, random.Random(f"{self.seed} proxy"))
        listener = loopback()
        self._port = listener.getsockname()[1]
        await self._proxy.listen(listener)
        environment = table.service_environment() | {"FLEETWARD_MQTT_ADVERTISE": f"localhost:{self._port}"}
        await self._step("bootstrap", table.bootstrap(), environment)
        for service in table.control_plane(lambda: True):
            log = self.home / "log" / f"{service.name}.log"
            self.parts[service.name] = Part(service.name, service.command, environment, log, ready=service.ready)
        await asyncio.gather(*(self.parts[name].start() for name in SERVERS))
        token = table.data.admin_token.read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        self._web = httpx.AsyncClient(base_url=table.settings.url, headers=headers, timeout=10.0, trust_env=False)
        self._pool = await Pool.open(self.database.url, application="chaos", pool_size=4)

    async def _lay_cable(self) -> None:
        """The listener at our end of the cable has the port that devices are told of anyway."""
        if cables.available():
            self._cable = Cable(f"fwchaos-{os.getpid()}")
            self._cable.lay()
            await self.proxy.listen(self._cable.listen(self._port))

    async def _start_devices(self) -> None:
        for number in (1, 2, 3):
            await self._make_device(f"agent-{number}", number)
        token = await self.token(self.simulated, {"group": SIMULATED})
        assert self._table is not None
        where = ("--server", self._table.settings.url, "--token", token, "--state-dir", str(self.home / "simulator"))
        rhythm = ("--keepalive", str(KEEPALIVE_S), "--heartbeat", str(HEARTBEAT_S))
        command = (sys.executable, "-P", "-m", "edge_agent.simulator", "--count", str(self.simulated), *where, *rhythm)
        simulator = Part(
            "simulator", command, self._agents_environment(), self.home / "log" / "simulator.log", ready=lambda said: "enrolled:" in said
        )
        self.parts["simulator"] = simulator
        await simulator.start()

    async def _make_device(self, name: str, number: int) -> None:
        """agent-1 is behind the cable, agent-2 on a small disk, agent-3 is the plain command with real discovery."""
        work, ledger = self.home / f"{name}-work", number != 3
        work.mkdir()
        disk = self.disks.make(self.home / name, AGENT_DISK_MB) if number == 2 else None
        state = self.home / name / "state"
        state.mkdir(mode=0o700, parents=True)
        (state / "files").mkdir()
        (state / identity.SETTINGS_FILE).write_text(
            f'roots = ["{state}/files"]\nkeepalive_s = {KEEPALIVE_S}\nheartbeat_s = {HEARTBEAT_S}\n'
            "discovery_interval_s = 1\ndrift_interval_s = 1\n"
        )
        wired = number == 1 and self._cable is not None
        prefix = self._cable.prefix if wired and self._cable is not None else ()
        run = (sys.executable, "-m", "tests.chaos.device", str(state), str(work), str(self.seed * 10 + number))
        plain = (sys.executable, "-P", "-m", "edge_agent", "run", "--state-dir", str(state))
        log = self.home / "log" / f"{name}.log"
        part = Part(name, run if ledger else plain, self._agents_environment(), log, ready=lambda _: True, prefix=prefix)
        device = self.devices[name] = Device(name, part, state, work, ledger, disk, wired)
        await self.enroll(device)
        part.spawn()

    async def enroll(self, device: Device) -> None:
        """As its owner would, with a new token; again too."""
        assert self._table is not None
        token = await self.token(1, {"group": device.name})
        where = ("--server", self._table.settings.url, "--token", token, "--state-dir", str(device.state))
        step = (
            f"enroll-{device.name}",
            (sys.executable, "-P", "-m", "edge_agent", "enroll", "--no-wait", *where),
            self._agents_environment(),
        )
        try:
            await self._step(*step)
        except RuntimeError:
            if not await self._approved(device):
                raise
            await self._step(*step)
        path = device.state / identity.IDENTITY_FILE
        me = json.loads(path.read_text())
        if device.wired:
            me["broker"]["host"] = cables.OUR_ADDRESS
            path.write_text(json.dumps(me))
        device.host = me["device"]
        self.hosts[device.host] = device.name

    async def _approved(self, device: Device) -> bool:
        """All devices here are one machine: where firmware gives it a serial number, each but the first waits."""
        waiting = await self.items("hosts", f'enrollment.waiting = true AND labels.group = "{device.name}"')
        for host in waiting:
            await self.ask("PATCH", f"hosts/{host['id']}", json={"desired_state": "onboarded", "replaces": None})
        return bool(waiting)

    async def token(self, uses: int, labels: dict[str, str]) -> str:
        answer = await self.ask("POST", "enrollment-tokens", json={"uses": uses, "approve": True, "given_labels": labels})
        answer.raise_for_status()
        return str(answer.json()["token"])

    async def _until_all_online(self) -> None:
        wanted = len(self.devices) + self.simulated
        found: list[Json] = []
        for _ in range(1200):
            found = await self.items("hosts", "presence = online AND current_state = onboarded")
            if len(found) == wanted:
                self.hosts |= {host["id"]: SIMULATED for host in found if host["id"] not in self.hosts}
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{wanted} hosts should be online, {len(found)} are")

    async def _step(self, name: str, command: tuple[str, ...], environment: dict[str, str]) -> None:
        step = Part(name, command, environment, self.home / "log" / f"{name}.log")
        step.spawn()
        await until(lambda: not step.running, 60, name)
        assert step.process is not None
        if step.process.returncode != 0:
            raise RuntimeError(f"{name} failed: {step.last_words()}")

    def _agents_environment(self) -> dict[str, str]:
        assert self._table is not None
        return self._table.base_environment() | {"PYTHONPATH": str(ROOT)}

    async def revive(self) -> list[str]:
        """Start what has ended by itself, as a supervisor would; what that was, and what it said last."""
        ended = [part for part in self._all() if not part.running]
        told = [f"{part.name} ended by itself: {part.last_words()}" for part in ended]
        for part in ended:
            await part.start()
        return told

    # --- ending ---------------------------------------------------------------------------------------------------------------

    async def stop(self, keep: bool = False) -> None:
        """End every process, and take everything away."""
        for part in self._all():
            part.resume()
            await part.stop(part.death)
        if self._pool is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._pool.close()
        if self._web is not None:
            await self._web.aclose()
        if self._proxy is not None:
            await self._proxy.close()
        if self._cable is not None:
            self._cable.remove()
        self.disks.remove()
        if not keep:
            shutil.rmtree(self.home, ignore_errors=True)

    def _all(self) -> Iterator[Part]:
        yield from (device.part for device in self.devices.values())
        yield from self.parts.values()
        if self._database is not None:
            yield from self._database.running


def ledger_of(device: Device) -> Path:
    return device.work / LEDGER


def plugged_of(device: Device) -> Path:
    return device.work / PLUGGED

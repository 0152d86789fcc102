"""A simulated world: devices, a broker, a database, replicas of the server's processes, and one loop that runs them all by one seed.

`run` lets a plan happen, heals everything, and waits until the fleet has come to rest; `checks` watches. The same seed gives the same
trace, byte for byte. What is the product's and what is not is said in docs/simulation.md.
"""

import asyncio
import base64
import contextvars
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path as FilePath
from random import Random
from typing import Any

from broker.messages import ErrorCode
from broker.topics import shard_of
from edge_agent.identity import Identity
from edge_agent.trust import Ring
from inventory.actor import Actor
from inventory.db import SQL, loads
from inventory.errors import Conflict, Invalid, NotFound, Unavailable
from inventory.kinds import BY_NAME
from inventory.store import Store
from tests.simulation.checks import Broken, Checks, ErrorsFail
from tests.simulation.clockwork import BEGINNING, OWNER, Overrun, VirtualLoop
from tests.simulation.database import Moods, Process, Server, SimulatedDatabase
from tests.simulation.device import PUMP, Device, _Executor
from tests.simulation.memory import Memory, Row
from tests.simulation.network import TOPICS, Broker, Path, Weather
from tests.simulation.plan import Event, Plan
from tests.simulation.processes import ROOT, SERVICE_SEAMS, Authority, InventoryProcess, ManagersProcess, ServerProcess
from tests.simulation.seams import Seams, replaced
from tests.simulation.waits import CONVERGE_S, waited_for

ADMIN = Actor.user("admin", "admin")
PATIENCE_S = 900.0
"""After the healing: a command ends 10 minutes after it was made plus its time limit at the latest."""
RESENT_S = 150.0
"""After the healing no command is on its way any more: a device has connected again within 60 s, and a command is sent again after 10."""
RETRY_S = 25.0


@dataclass
class Outcome:
    """`broken`: the first promise that was not kept, or None. `rest_s`: how long after the healing everything was at rest."""

    plan: Plan
    broken: str | None
    trace: list[str]
    rest_s: float = 0.0
    server: Server | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class World:
    """One world, to be run once."""

    def __init__(self, plan: Plan, *, record: bool = False) -> None:
        self.plan = plan
        self.loop = VirtualLoop()
        self.dice = Random(f"world {plan.seed}")
        self.server = Server(self.loop, self.dice)
        self.memory: Memory = self.server.memory
        self.broker = Broker(self.loop, self.dice)
        self.devices: list[Device] = []
        self.processes: dict[tuple[str, int], ServerProcess] = {}
        self.paths: dict[tuple[str, int], Path] = {}
        self.started = 0
        self.scanning = True
        self.lines: list[str] = []
        self.aliases: dict[str, str] = {}
        self.acknowledged: list[tuple[str, str, int]] = []
        self.deleted: set[str] = set()
        self.checks = Checks(self)
        self.healed_at: float | None = None
        hosts = [f"host-{'0' * 24}{n:02}" for n in range(1, plan.shape.devices + 1)]
        shards = tuple(sorted({"00", *(shard_of(host) for host in hosts)}))
        self.seams = Seams(self.loop, self.dice, shards, lambda: self.scanning, self.checks.take)
        self._make_tables(shards)
        self.server.began = self.checks.taken.clear
        self.broker.published = self.checks.published
        if record:
            self.server.record = []
        self._web = SimulatedDatabase(self.server, Process("web"))
        self.store = Store(self._web, self.loop.wall)  # type: ignore[arg-type]
        for n, host in enumerate(hosts, 1):
            self.devices.append(Device(self, f"h{n}", host, _identity(host)))
            self.aliases[host] = f"h{n}"

    # --- talking --------------------------------------------------------------------------------------------------------------

    def trace(self, who: str, what: str) -> None:
        self.lines.append(f"[{self.loop.now:9.3f}] {who:<12} {what}")

    def alias(self, id: str) -> str:
        if id not in self.aliases:
            row = self.memory["host_config"].get(id)
            if row is not None:
                self.aliases[id] = f"{self.alias(row['host'])}/{self.alias(row['config'])}"
            elif (config := self.memory["config"].get(id)) is not None:
                return str(config["name"])
            else:
                self.aliases[id] = f"{id.partition('-')[0]}-{len(self.aliases)}"
        return self.aliases[id]

    # --- the run --------------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """To its end, or to the first promise that is not kept."""
        watch = ErrorsFail(self.checks)
        loggers = [logging.getLogger(name) for name in ("inventory", "managers", "edge_agent", "asyncio")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
            logger.addHandler(watch)
            logger.propagate = False
        asyncio.set_event_loop(self.loop)
        try:
            with replaced(self.seams, SERVICE_SEAMS):
                broken = self._run()
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.removeHandler(watch)
                logger.setLevel(level)
                logger.propagate = True
            asyncio.set_event_loop(None)
            self.loop.close()
        rest_s = self.loop.now - (self.healed_at or self.loop.now)
        return Outcome(self.plan, broken, self.lines, rest_s, self.server)

    def _run(self) -> str | None:
        try:
            self.loop.run_until_complete(self._live())
        except Broken as broken:
            return str(broken)
        except Overrun as overrun:
            return f"it comes to an end: {overrun}"
        finally:
            self._end()
        return None

    def _end(self) -> None:
        """Whatever still runs stops, unheard."""
        self.checks.found.append(Broken("it is over"))  # nothing after this counts
        self.loop.give_more()
        for owner in list(self.loop.tasks_of):
            if isinstance(owner, Process):
                owner.alive = False
            self.loop.end_tasks_of(owner)
        for device in self.devices:
            if device.shell is not None:
                device.shell.alive = False
        left = [task for tasks in self.loop.tasks_of.values() for task in tasks]
        if left:
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    async def _live(self) -> None:
        await self._settle_in()
        self.server.watch.append(self.checks.commit)
        for device in self.devices:
            device.switch_on()
        for role, count in (("inventory", self.plan.shape.inventories), ("managers", self.plan.shape.managers)):
            for n in range(count):
                self._start(role, n)
        self._worsen()
        for event in self.plan.events:
            await self._until(event.at)
            self._do(event)
        await self._until(self.plan.shape.trouble_s)
        self._heal()
        await self._rest()
        self.checks.at_rest()
        self._raise()

    async def _until(self, at: float) -> None:
        while self.loop.now < at - 1e-6:
            await asyncio.sleep(min(1.0, at - self.loop.now))
            self._raise()
            if self.scanning and not self.plan.shape.scans:
                self.scanning = any(row["current_state"] == "discovered" for row in self.memory["host"].rows.values())

    def _raise(self) -> None:
        if self.checks.found:
            raise self.checks.found[0]

    def _do(self, event: Event) -> None:
        self.trace("plan", f"{event.what} {' '.join(str(a) for a in event.args)}")
        getattr(self, event.what)(*event.args)

    async def _rest(self) -> None:
        """Wait for rest that lasts; whatever has halted is retried by its user."""
        assert self.healed_at is not None
        calm = 0
        retried = free = self.healed_at
        while calm < 3:
            await asyncio.sleep(1.0)
            self._raise()
            unrest = self.checks.unrest()
            calm = 0 if unrest else calm + 1
            waited = self.loop.now - self.healed_at
            if waited > RESENT_S and (lost := self.checks.unsent(self.loop.wall() - timedelta(seconds=RESENT_S))):
                self.checks.fail("a command that was lost is sent again", f"{waited:.0f} s after the healing: {lost}")
            if unrest and waited > PATIENCE_S:
                self.checks.fail("desired becomes current", f"{waited:.0f} s after the healing: {unrest}")
            if waited_for(self):
                free = self.loop.now
            if unrest and self.loop.now - free > CONVERGE_S:
                self.checks.fail("all is as it was asked for within 30 s", f"{waited:.0f} s after the healing: {unrest}")
            if self.loop.now - retried > RETRY_S:
                retried = self.loop.now
                self._retry_all()

    # --- the beginning ----------------------------------------------------------------------------------------------------------

    def _make_tables(self, shards: tuple[str, ...]) -> None:
        relay = {"id": 1, "position": 0, "hash": b"", "floor": 0, "idle": False}
        self.memory["relay"].put(1, relay)
        for shard in shards:
            lease = {"shard": shard, "owner": None, "until": None, "fence": 0, "subscribed_since": None}
            self.memory["ingest_lease"].put(shard, lease)
        self.memory.commit()

    async def _settle_in(self) -> None:
        """Hosts as their enrollment leaves them."""
        for n, device in enumerate(self.devices):
            async with self.store.transaction() as w:
                values = {"id": device.host, "name": device.name, "labels": {"group": GROUP_AT_FIRST[n]}, "desired_state": "onboarded"}
                await w.make(BY_NAME["host"], values, Actor.system())
                far = BEGINNING + timedelta(days=300)
                await w.tx.raw.fetchrow(SQL["add_identity"], device.host, device.name, "", "", far, "{}", "tok", BEGINNING)
                await w.tx.raw.execute(SQL["add_stream"], device.host)

    def _start(self, role: str, n: int) -> None:
        if (role, n) in self.processes and self.processes[role, n].alive:
            return
        self.started += 1
        path = self.paths.setdefault((role, n), Path(f"{role}-{n}"))
        kind = InventoryProcess if role == "inventory" else ManagersProcess
        process = kind(self, f"{role}-{n}-{self.started}", path)
        self.processes[role, n] = process
        self.trace(process.name, "starts")
        process.start(process.run)

    def _worsen(self) -> None:
        shape, moods = self.plan.shape, self.server.moods
        self.broker.weather = Weather((0.001, shape.delay_s), shape.drop, shape.double, shape.late)
        moods.slow, moods.cut_before, moods.cut_after = shape.slow, shape.cut_before, shape.cut_after

    def _heal(self) -> None:
        """From now on everything works."""
        self.trace("plan", "everything is healed")
        self.healed_at = self.loop.now
        self.broker.weather = Weather(orderly=True)
        self.seams.refine()
        self.server.moods = Moods(fine=True)
        for path in [*self.paths.values(), *(device.path for device in self.devices)]:
            path.up = path.down = True
            path.cuts, path.lag_s, path.deaf_s = path.cuts + 1, 0.0, 0.0
        for client in self.broker.clients.values():
            client.lag_s = 0.0
        self.server.up = self.broker.alive = True
        for device in self.devices:
            device.disk.full, device.disk.fails_at_commit, device.effects_left = False, None, None
            device.hands.failures.clear()
            device.switch_on()
        for role, n in list(self.processes):
            process = self.processes[role, n]
            process.paused_until = process.pauses_with_keys_s = process.stalls_s = 0.0
            self._start(role, n)
        for n, device in enumerate(self.devices):
            if self.memory["host"].rows[device.host]["desired_state"] != "onboarded":
                self.set_state(n, "onboarded")

    # --- what users do ------------------------------------------------------------------------------------------------------------

    def _ask(self, what: str, act: Callable[[], Awaitable[Any]]) -> None:
        """One request of a user, who may have to hear that the database is away."""

        async def request() -> None:
            try:
                found = await act()
            except (Unavailable, NotFound, Conflict, Invalid) as error:
                self.trace("user", f"{what}: {type(error).__name__}")
                return
            self.trace("user", f"{what}: done")
            if isinstance(found, dict) and found["kind"] in ("config", "host"):
                self.acknowledged.append((found["kind"], found["id"], found["version"]))

        context = contextvars.copy_context()
        context.run(OWNER.set, self._web.process)
        context.run(self.loop.create_task, request())

    def place_config(self, n: int, group: str, paths: tuple[str, ...], priority: int) -> None:
        """Made where there is none of its name, else changed."""
        selector = f'labels.group = "{group}"' if group else ""
        body = {"selector": selector, "priority": priority, "files": [_file(path, n, 0) for path in paths]}

        async def act() -> Any:
            if any(row["name"] == f"c{n}" for row in self.memory["config"].rows.values()):
                return await self.store.patch("config", f"c{n}", body, ADMIN)
            return await self.store.create("config", {"name": f"c{n}", **body}, ADMIN)

        self._ask(f"places c{n}", act)

    def change_config(self, n: int, number: int) -> None:
        async def act() -> Any:
            config = await self.store.get("config", f"c{n}")
            files = [_file(file["path"], n, number) for file in config["files"]]
            return await self.store.patch("config", f"c{n}", {"files": files}, ADMIN)

        self._ask(f"changes c{n}", act)

    def delete_config(self, n: int) -> None:
        async def act() -> Any:
            config = await self.store.get("config", f"c{n}")
            self.deleted.add(config["id"])
            return await self.store.delete("config", config["id"], ADMIN)

        self._ask(f"deletes c{n}", act)

    def label_host(self, n: int, group: str) -> None:
        host = self.devices[n].host
        self._ask(f"labels h{n + 1} {group}", lambda: self.store.patch("host", host, {"labels": {"group": group}}, ADMIN))

    def set_state(self, n: int, state: str) -> None:
        host = self.devices[n].host
        self._ask(f"wants h{n + 1} {state}", lambda: self.store.patch("host", host, {"desired_state": state}, ADMIN))

    def start_pump(self, n: int, timeout_s: int) -> None:
        """A command as a manager would make it, of a verb that must not run twice."""

        async def act() -> None:
            async with self.store.transaction() as w:
                now = self.loop.wall()
                values = {"host": self.devices[n].host, "verb": PUMP, "args": {}, "timeout_s": timeout_s, "due_at": now}
                values |= {"not_after": now + timedelta(minutes=2), "resource": None}
                await w.make(BY_NAME["command"], values, Actor.manager("host"))

        self._ask(f"starts the pump of h{n + 1}", act)

    def _retry_all(self) -> None:
        for row in list(self.memory["host_config"].rows.values()):
            if loads(row["status"])["indicator"] == "error":
                self._ask(f"retries {self.alias(row['id'])}", lambda id=row["id"]: self.store.retry("host-config", id, ADMIN))  # type: ignore[misc]

    # --- what happens on devices ----------------------------------------------------------------------------------------------------

    def edit_by_hand(self, n: int) -> None:
        hands = self.devices[n].hands
        for id in hands.drift(None):
            hands.placed[id] = dict.fromkeys(hands.placed[id], "edited")
        self.devices[n].look()

    def find_facts(self, n: int, section: str, number: int) -> None:
        self.devices[n].find(section, {"name": "linux", "version": str(number), "kernel": "6.1"})

    def crash_device(self, n: int, noticed: bool) -> None:
        self.devices[n].crash("by itself", noticed=noticed)

    def crash_at_commit(self, n: int, after: bool) -> None:
        self.devices[n].disk.fails_at_commit = after

    def crash_in_effects(self, n: int, left: int) -> None:
        self.devices[n].effects_left = left

    def lose_journal(self, n: int, deaf_s: float) -> None:
        """`deaf_s`: for so long nothing reaches it once it is back."""
        self.devices[n].path.deaf_s = deaf_s
        self.devices[n].lose_journal()

    def fill_disk(self, n: int, seconds: float) -> None:
        disk = self.devices[n].disk
        disk.full = True
        self.loop.call_later(seconds, setattr, disk, "full", False)

    def skew_clock(self, n: int, seconds: float) -> None:
        self.devices[n].skew_s = seconds

    def fail_applies(self, n: int, code: str, times: int) -> None:
        for _ in range(times):
            self.devices[n].fail_next(ErrorCode(code))

    # --- what happens elsewhere -------------------------------------------------------------------------------------------------------

    def cut_device(self, n: int, up: bool, down: bool, seconds: float) -> None:
        self.broker.cut(self.devices[n].path, up=up, down=down, seconds=seconds)

    def roam_device(self, n: int, lag_s: float, seconds: float) -> None:
        """Its connection breaks, the next one is to a node of the broker that lags, and the one after that to one that doesn't."""
        device = self.devices[n]
        device.path.lag_s = lag_s
        self.broker.reset(device.host)
        self.loop.call_later(seconds, self._leave_node, device)

    def _leave_node(self, device: Device) -> None:
        device.path.lag_s = 0.0
        if self.healed_at is None:
            self.broker.reset(device.host)

    def cut_process(self, role: str, n: int, up: bool, down: bool, seconds: float) -> None:
        if (role, n) in self.paths:
            self.broker.cut(self.paths[role, n], up=up, down=down, seconds=min(seconds, 25.0))

    def restart_broker(self, seconds: float) -> None:
        self.broker.restart(seconds)

    def replay_messages(self, most: int) -> None:
        self.broker.replay(most)

    def kill_process(self, role: str, n: int, seconds: float) -> None:
        process = self.processes.get((role, n))
        if process is not None and process.alive:
            process.kill()
            self.loop.call_later(seconds, self._start, role, n)

    def stop_process(self, role: str, n: int, seconds: float) -> None:
        process = self.processes.get((role, n))
        if process is not None and process.alive:
            process.stop()
            self.loop.call_later(seconds, self._start, role, n)

    def pause_process(self, role: str, n: int, seconds: float) -> None:
        process = self.processes.get((role, n))
        if process is not None and process.alive:
            if role == "managers":
                process.pauses_with_keys_s = seconds
            else:
                process.paused_until = self.loop.now + seconds

    def stall_managers(self, n: int, seconds: float) -> None:
        """Packets are lost between a replica and the database, for one connection and in the worst moment: between reading and deciding."""
        if (process := self.processes.get(("managers", n))) is not None:
            process.stalls_s = seconds

    def crash_database(self, seconds: float) -> None:
        self.server.crash(seconds)

    # --- what should be -------------------------------------------------------------------------------------------------------------

    def wanted(self, host: Row) -> dict[str, str]:
        """The files that configs want on a host, by path, said once more and simply."""
        group = loads(host["labels"]).get("group")
        fitting = [
            row
            for row in self.memory["config"].rows.values()
            if row["deleted_at"] is None and row["selector"] in ("", f'labels.group = "{group}"')
        ]
        files: dict[str, str] = {}
        for config in sorted(fitting, key=lambda row: (row["priority"], -row["created_at"].timestamp())):
            for file in loads(config["files"]):
                files[file["path"]] = base64.b64encode(file["content"].encode()).decode()
        return files

    def busy(self, device: Device) -> str | None:
        """The command that a device is at, where there is one."""
        executor: object = device.shell._executor if device.shell is not None else None
        return executor.at if isinstance(executor, _Executor) else None


GROUP_AT_FIRST = ("a", "b")


def _identity(host: str) -> Identity:
    return Identity(
        device=host,
        topics=TOPICS,
        ring=Ring(1, (bytes(ROOT.verify_key),)),
        channel_key=Authority().channel_key(host, 1),
        host="broker",
        port=8883,
        server="",
        state_dir=FilePath("."),
    )


def _file(path: str, config: int, number: int) -> dict[str, str]:
    return {"path": path, "content": f"c{config} {number} {path}\n", "mode": "0644"}


def simulate(plan: Plan, *, record: bool = False) -> Outcome:
    """A world of this plan, run."""
    return World(plan, record=record).run()

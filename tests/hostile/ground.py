"""The ground that the hostile broker stands on: the real server's parts on one side, real agents on the other, and only it between them.

The server: a database, `Ingest`, `Dispatcher`, the keys of a bootstrapped installation. The agents: `Runtime` as `fleetward-agent run`
starts it, each in a thread, with its own state directory, SQLite journal, TLS session and config applier, enrolled by the agent's own
code. What discovery finds is invented; everything else is what runs in the field.
"""

import asyncio
import base64
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from broker.messages import ResourceRef, to_json
from broker.topics import DeviceTopic, Topics
from edge_agent import enroll, identity
from edge_agent.appliers.config import digest_of
from edge_agent.runtime import Runtime
from edge_agent.settings import load
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.db import Database, loads
from inventory.inbound import Inbound
from inventory.ingest import Ingest
from inventory.signing import CommandSigner
from inventory.store import Store
from inventory.vault import Vault
from managers.dispatch import Dispatcher
from tests.hostile.mqtt import Carried, HostileBroker
from tests.inventory_wire.device import make_device
from tests.waiting import Deadline

DEADLINE_S = 40.0
START_WITHIN = timedelta(minutes=10)


async def eventually(predicate: Callable[[], Awaitable[Any]], what: str, seconds: float = DEADLINE_S) -> Any:
    """What the predicate gives, once it is true."""
    deadline = Deadline(seconds)
    while True:
        found = await predicate()
        if found:
            return found
        assert not deadline.over(), f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


class Eyes:
    """Discovery that finds little and is quick."""

    @dataclass(frozen=True)
    class Found:
        sections: dict[str, Any]
        errors: dict[str, str] = field(default_factory=dict)

    def scan(self, sections: tuple[str, ...] | None) -> "Eyes.Found":
        return self.Found({name: {"name": "test"} for name in ("os", "time") if sections is None or name in sections})

    def changed(self) -> tuple[str, ...]:
        return ()


@dataclass(slots=True)
class Machine:
    """One device. `channel_key`: what an attacker would give much for."""

    id: str
    channel_key: bytes
    state_dir: Path
    files: Path
    runtime: Runtime
    thread: threading.Thread
    made: int = 0

    @property
    def prefix(self) -> str:
        return Topics().device_prefix(self.id)

    def topic(self, channel: str) -> str:
        return Topics().build(DeviceTopic(self.id, channel))

    @property
    def runs(self) -> list[str]:
        """What `on_change` has noted: the name of each command that took effect, as often as it did."""
        log = self.files / "runs"
        return log.read_text().split() if log.exists() else []

    def stop(self) -> None:
        self.runtime.stop()
        self.thread.join(60)
        assert not self.thread.is_alive(), "the agent did not end"


class Ground:
    """Everything connected; `machines` by name."""

    def __init__(self, directory: Path, db: Database, authority: Authority) -> None:
        self.directory = directory
        self.db, self.store, self.authority = db, Store(db), authority
        self.broker = HostileBroker(authority.directory, self._arrive)
        self.ingest = Ingest(db, Topics(), authority, CommandSigner(authority.directory), self.broker.send)
        self.dispatcher = Dispatcher(self.store, self.broker, CommandSigner(authority.directory), Vault(authority.directory), Topics())
        self.machines: dict[str, Machine] = {}
        self._arrived: asyncio.Queue[Inbound] = asyncio.Queue()

    # --- the server ---

    def _arrive(self, message: Carried) -> None:
        self.arrive(message.topic, message.payload)

    def arrive(self, topic: str, payload: bytes) -> None:
        """A message in a device's name reaches Inventory."""
        parsed = Topics().parse(topic)
        assert isinstance(parsed, DeviceTopic)
        self._arrived.put_nowait(Inbound(parsed.device, parsed.channel, topic, payload, time.monotonic()))

    async def take(self) -> None:
        """Inventory's loop, as `inventory.service` has it."""
        while True:
            batch = [await self._arrived.get()]
            while not self._arrived.empty() and len(batch) < 500:
                batch.append(self._arrived.get_nowait())
            opened = await self.ingest.open(batch)
            if opened:
                await self.ingest.process(opened)

    async def beat(self) -> None:
        while True:
            await self.ingest.flush()
            await asyncio.sleep(0.1)

    async def rows(self, sql: str, *values: Any) -> list[Any]:
        async with self.db.acquire() as connection:
            return list(await connection.fetch(sql, *values))

    async def refused(self, machine: Machine) -> dict[str, int]:
        """What the device has reported as refused, added up."""
        total: dict[str, int] = {}
        for row in await self.rows("SELECT data FROM device_log WHERE host = $1 AND type = 'messages-refused'", machine.id):
            for doubt, n in loads(row["data"]).items():
                total[doubt] = total.get(doubt, 0) + n
        return total

    # --- devices ---

    async def machine(self, name: str) -> Machine:
        """Enroll and start an agent."""
        device = await make_device(self.db, self.store, self.authority, name)
        await self.store.write("host", device.id, {"current_state": "onboarded"}, Actor.manager("host"))
        state_dir, files = self.directory / name, self.directory / f"{name}-files"
        state_dir.mkdir()
        files.mkdir()
        (state_dir / "agent.toml").write_text(f'roots = ["{files}"]\ndrift_interval_s = 1\nlog = "error"\n')
        enroll.enroll(
            state_dir, lambda body: self._enrolled(device.id, body), "token", enroll.Evidence("", "", (), name), "http://127.0.0.1"
        )
        made = Machine(device.id, device.key, state_dir, files, *_started(state_dir, name))
        self.machines[name] = made
        await eventually(lambda: self._reported(made), f"{name} is online and has said everything")
        return made

    async def lose_journal(self, name: str) -> None:
        """The device starts again without its journal, as after a damaged disk."""
        machine = self.machines[name]
        [before] = await self.rows("SELECT epoch FROM device_stream WHERE host = $1", machine.id)
        await asyncio.to_thread(machine.stop)
        for file in machine.state_dir.glob("journal.db*"):
            file.unlink()
        machine.runtime, machine.thread = _started(machine.state_dir, name)

        async def begun() -> bool:
            [now] = await self.rows("SELECT epoch FROM device_stream WHERE host = $1", machine.id)
            return bool(now["epoch"] != before["epoch"]) and await self._reported(machine)

        await eventually(begun, f"{name} begins anew")

    def _enrolled(self, device: str, body: dict[str, Any]) -> enroll.Answered:
        return enroll.Answered(
            200,
            {
                "device": device,
                "prefix": Topics().device_prefix(device),
                "certificate": self.authority.issue_device(body["csr"], device).pem,
                "ca": self.authority.ca_pem,
                "command_root": self.authority.command_root_b64,
                "channel_key": self.authority.channel_key(device, 1).hex(),
                "broker": {"host": "127.0.0.1", "port": self.broker.port},
            },
        )

    async def _reported(self, machine: Machine) -> bool:
        sections = await self.rows("SELECT section FROM host_facts WHERE host = $1", machine.id)
        return len(sections) == 3 and (await self.store.get("host", machine.id))["presence"] == "online"

    # --- commands ---

    async def command(self, machine: Machine, **more: Any) -> str:
        """Make one, as a manager does: a file that says which, and a line in the device's log of what took effect."""
        machine.made += 1
        name = f"n{machine.made}"
        path, content = f"{machine.files}/{name}", name.encode()
        file = {"path": path, "content": base64.b64encode(content).decode(), "mode": "0644", "owner": None, "group": None}
        args = {
            "config": name,
            "digest": digest_of([(path, "0644", None, None, content)]),
            "files": [file],
            "on_change": f"echo {name} >> {machine.files}/runs",
        }
        now = datetime.now(UTC)
        values = {
            "host": machine.id,
            "verb": "config.apply",
            "args": args,
            "resource": to_json(ResourceRef(kind="host-config", id=f"hcfg-{name}", generation=1)),
            "timeout_s": 60,
            "not_after": now + START_WITHIN,
            "due_at": now,
        }
        made = await self.store.make("command", values | more, Actor.manager("config"))
        self.dispatcher.wake()
        return str(made["id"])

    async def ended(self, command: str) -> dict[str, Any]:
        """The command, once it has ended."""

        async def look() -> Any:
            found = await self.store.get("command", command)
            return found if found["finished_at"] is not None else None

        found: dict[str, Any] = await eventually(look, f"{command} ends")
        return found


def _started(state_dir: Path, name: str) -> tuple[Runtime, threading.Thread]:
    """An agent in a thread of its own: SQLite wants its journal opened where it is used."""
    made: queue.SimpleQueue[Runtime] = queue.SimpleQueue()

    def live() -> None:
        runtime = Runtime(identity.load(state_dir), load(state_dir / "agent.toml"), Eyes())
        made.put(runtime)
        runtime.run()

    thread = threading.Thread(target=live, name=f"agent {name}", daemon=True)
    thread.start()
    return made.get(timeout=60), thread


@asynccontextmanager
async def ground(directory: Path, db: Database, authority: Authority) -> AsyncIterator[Ground]:
    """The server's parts run inside; agents are ended with it."""
    made = Ground(directory, db, authority)
    await made.broker.start()
    tasks = [asyncio.create_task(part()) for part in (made.take, made.beat, made.dispatcher.run)]
    try:
        yield made
        assert not any(task.done() for task in tasks), [task.exception() for task in tasks if task.done()]
    finally:
        await asyncio.gather(*(asyncio.to_thread(machine.stop) for machine in made.machines.values()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.broker.stop()

"""A fleet for the managers' tests: the real store, change log and managers, and devices that answer as ingest would write it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from broker.messages import Command, Order, decode, decode_text
from broker.topics import DeviceTopic, Topics
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import Database
from inventory.kinds import BY_NAME
from inventory.resource import Resource, time_text
from inventory.signing import CommandSigner
from inventory.store import ListQuery, Store
from inventory.tables import DeviceIdentity, DeviceStream
from managers.rendering import Renderer
from managers.service import Running, assemble, started
from managers.settings import Settings
from tests.waiting import Deadline

ADMIN = Actor.user("admin", "admin")
PATIENCE_S = 30.0

Answer = Callable[["Fleet", Order], Awaitable[None]]


async def eventually(predicate: Callable[[], Awaitable[Any]], seconds: float = PATIENCE_S) -> Any:
    """What the predicate gives, once it is true."""
    deadline = Deadline(seconds)
    while True:
        found = await predicate()
        if found:
            return found
        assert not deadline.over(), f"not within {seconds} s"
        await asyncio.sleep(0.02)


@dataclass
class FakeWire:
    """Where commands come out. `answer` is what the device does with each; None: it keeps silent."""

    topics: Topics = field(default_factory=Topics)
    connected_since: datetime | None = field(default_factory=lambda: datetime.now(UTC))
    orders: list[Order] = field(default_factory=list)
    answer: Callable[[Order], Awaitable[None]] | None = None
    answering: set["asyncio.Task[None]"] = field(default_factory=set)

    async def send(self, topic: str, payload: bytes, qos: int = 1) -> None:
        parsed = self.topics.parse(topic)
        assert isinstance(parsed, DeviceTopic) and parsed.channel == "down/command"
        message = decode("down/command", payload)
        assert isinstance(message, Command)
        order = decode_text(Order, message.signed)
        assert order.device == parsed.device
        self.orders.append(order)
        if self.answer is not None:
            task = asyncio.ensure_future(self.answer(order))
            self.answering.add(task)
            task.add_done_callback(self.answering.discard)

    def of(self, verb: str, host: str = "") -> list[Order]:
        return [order for order in self.orders if order.verb == verb and host in ("", order.device)]


@dataclass
class Fleet:
    """Everything in one event loop."""

    db: Database
    store: Store
    wire: FakeWire
    secrets: Path
    salts: dict[str, str] = field(default_factory=dict)
    """Of the digests of what each device has, by host-config id."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """What each device has, by host-config id and path."""
    failing: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Errors that devices answer with, by host id."""

    # --- users ---

    async def create(self, kind: str, **body: Any) -> Resource:
        return await self.store.create(kind, body, ADMIN)

    async def patch(self, kind: str, ref: str, **patch: Any) -> Resource:
        return await self.store.patch(kind, ref, patch, ADMIN)

    async def config(self, name: str, selector: str, content: str = "hello\n", path: str = "", **more: Any) -> Resource:
        files = [{"path": path or f"/etc/fleet/{name}", "content": content}]
        return await self.create("config", name=name, selector=selector, **({"files": files} | more))

    # --- devices, as ingest would write what they say ---

    async def host(self, name: str, *, presence: str = "online", onboard: bool = True, **more: Any) -> str:
        """An enrolled host, as its device's first session leaves it."""
        body = {"name": name, "desired_state": "onboarded" if onboard else "registered", **more}
        id = str((await self.store.create("host", body, Actor.system()))["id"])
        now = datetime.now(UTC)
        async with self.db.transaction() as tx:
            await DeviceIdentity.create(
                using_db=tx.client,
                host=id,
                fingerprint=id,
                certificate="",
                certificate_serial="",
                expires_at=now + timedelta(days=365),
                created_at=now,
            )
            await DeviceStream.create(using_db=tx.client, host=id, session="session-1", session_since=now)
        await self.device(id, boot_id="boot-1", agent_version="0.1.0")
        await self.presence(id, presence)
        return id

    async def presence(self, host: str, presence: str) -> None:
        await self.store.write("host", host, {"presence": presence}, Actor.inventory())

    async def device(self, host: str, **values: Any) -> None:
        await self.store.write("host", host, values, Actor.device(host))

    async def component(self, host: str, type: str, key: str, **attributes: Any) -> str:
        return str((await self.store.make("component", _component(host, type, key, attributes), Actor.device(host)))["id"])

    async def facts(self, host: str, disks: Sequence[str]) -> None:
        """The first ones, with disks of these keys, in one transaction."""
        async with self.store.transaction() as w:
            for key in disks:
                await w.make(BY_NAME["component"], _component(host, "disk", key, {}), Actor.device(host))
            await w.tx.raw.execute(
                "INSERT INTO host_facts (host, section, hash, data, updated_at) VALUES ($1, 'cpu', 'sha256:0', '{}', now())", host
            )

    async def report(self, order_or_id: str, host: str, generation: int, state: str, digest: str | None, message: str = "") -> None:
        """`up/status`, one item."""
        said = {"generation": generation, "state": state, "digest": digest, "reason": "", "message": message}
        await self.store.write("host-config", order_or_id, {"reported": said | {"at": time_text(datetime.now(UTC))}}, Actor.device(host))

    async def result(self, order: Order, state: str, error: dict[str, Any] | None = None) -> None:
        """`up/result`, a terminal one."""
        said = {"state": state, "progress": 100, "output": "", "error": error}
        async with self.store.transaction() as w:
            await w.write(BY_NAME["command"], order.id, {"result": said}, Actor.device(order.device))
            await w.write(BY_NAME["command"], order.id, {"state": state, "finished_at": w.at, "sealed": None}, Actor.manager("dispatch"))

    async def obey(self, order: Order) -> None:
        """What an agent does with an order."""
        assert order.resource is not None
        id, generation = order.resource.id, order.resource.generation
        if order.device in self.failing:
            await self.result(order, "failed", self.failing[order.device])
            return
        if order.verb == "config.apply":
            self.salts[id] = order.args.get("salt", "")
            self.files[id] = {file["path"]: base64.b64decode(file["content"]) for file in order.args["files"]}
            await self.report(id, order.device, generation, "present", order.args["digest"])
        else:
            self.files.pop(id, None)
            await self.report(id, order.device, generation, "absent", None)
        await self.result(order, "succeeded")

    # --- looking ---

    async def all(self, kind: str, filter: str = "") -> list[Resource]:
        return (await self.store.list(kind, ListQuery(filter=filter, page_size=1000))).items

    async def host_config(self, host: str, config: str) -> Resource | None:
        found = await self.all("host-config", f'host = "{host}" AND config = "{config}"')
        return found[0] if found else None

    async def settled(self, host: str, config: str) -> Resource:
        """The host-config, once it is as wanted."""

        async def look() -> Resource | None:
            found = await self.host_config(host, config)
            done = found and found["status"]["indicator"] == "idle" and found["observed_generation"] == found["generation"]
            return found if done else None

        found: Resource = await eventually(look)
        return found

    async def quiet(self) -> None:
        """Nothing is due, under way, or on its way from the change log."""

        async def look() -> bool:
            async with self.db.acquire() as connection:
                return bool(
                    await connection.fetchval(
                        "SELECT NOT EXISTS (SELECT 1 FROM changes_in) AND NOT EXISTS (SELECT 1 FROM work WHERE lease_until IS NOT NULL "
                        "OR (due_at <= now() + interval '3 seconds' AND NOT halted AND manager <> 'notification')) "
                        "AND (SELECT position FROM relay) = (SELECT position FROM cursors WHERE name = 'managers')"
                    )
                )

        await eventually(look, 40.0)


def _component(host: str, type: str, key: str, attributes: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {"host": host, "type": type, "key": key, "attributes": attributes, "present": True, "first_seen": now, "last_seen": now}


@asynccontextmanager
async def managed(fleet: Fleet) -> AsyncIterator[Running]:
    """The relay and one process's worth of managers, running."""
    renderer = Renderer()
    settings = Settings(database=fleet.db.url, secrets=fleet.secrets)
    running = assemble(fleet.db, fleet.store, renderer, fleet.wire, CommandSigner(fleet.secrets), settings)
    relay = asyncio.create_task(Relay(fleet.db).run())
    try:
        async with started(running) as watch:
            yield running
            assert not watch.done(), watch.exception()
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        await renderer.close()


def contents(order: Order) -> dict[str, str]:
    """The files of an apply, as text."""
    return {file["path"]: base64.b64decode(file["content"]).decode() for file in order.args["files"]}

"""The server's processes in a simulated world: the product's own services, loops and all, over simulated database and broker.

An `InventoryProcess` is `inventory.service.Service`, a `ManagersProcess` what `managers.service` assembles. Only how they are put together
differs: no TLS, no files, no signals. Either can be killed, stopped for a while, and started again.
"""

import asyncio
import base64
import contextvars
import hashlib
import hmac
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from nacl.signing import SigningKey

from broker.client import SessionDown, SessionUp
from broker.messages import Delegation, KeyList, Mandate, encode_text, now_text
from inventory.ingest import Ingest
from inventory.keychain import Keychain, signed
from inventory.parts import keep
from inventory.secret_files import Fresh
from inventory.service import Service, _release
from inventory.settings import Settings
from inventory.signing import CommandSigner, Delegated
from inventory.store import Store
from managers.rendering import Renderer
from managers.service import assemble, started
from managers.settings import Settings as ManagerSettings
from tests.simulation.clockwork import BEGINNING, OWNER, later
from tests.simulation.database import Process, SimulatedDatabase
from tests.simulation.network import Path, ServiceSession

if TYPE_CHECKING:
    from tests.simulation.world import World

SECRETS = FilePath("secrets")
SETTINGS = Settings(database="postgresql://simulated", secrets=SECRETS, batch_wait_s=0.05, idle_wait_s=0.1, sweep_s=6.0, lease_s=16.0)
MANAGER_SETTINGS = ManagerSettings(database="postgresql://simulated", secrets=SECRETS)

ROOT = SigningKey(b"r" * 32)
MASTER = b"m" * 32
LISTED = KeyList(
    generation=1,
    issued_at=now_text(BEGINNING),
    authorities=("none",),
    command_roots=(base64.b64encode(bytes(ROOT.verify_key)).decode(),),
)
"""What every device trusts from the beginning."""
PARTS = ("relay", "ingest", "heartbeats", "leases", "presence")
"""Of the Inventory service: without publisher, metrics, intents and housekeeping, which touch no device."""


class Signer(CommandSigner):
    """The product's, with keys that are always the same."""

    def __init__(self) -> None:
        key = SigningKey(b"c" * 32)
        mandate = Mandate(
            public_key=base64.b64encode(bytes(key.verify_key)).decode(),
            generation=1,
            not_before=now_text(BEGINNING - timedelta(days=2)),
            not_after=now_text(BEGINNING + timedelta(days=300)),
        )
        text = encode_text(mandate)
        delegation = Delegation(signed=text, signature=base64.b64encode(ROOT.sign(text.encode()).signature).decode())
        self._held = Fresh(lambda: Delegated(key, delegation, 1))


SIGNER = Signer()


class Authority:
    """What ingest needs of `inventory.authority.Authority`."""

    keychain = Keychain((signed(LISTED, [ROOT]),))

    def channel_key(self, host: str, incarnation: int) -> bytes:
        return hmac.new(MASTER, f"{host}\n{incarnation}".encode(), hashlib.sha256).digest()


class ServerProcess(Process):
    """One that runs tasks on the world's loop, all of them its own."""

    def __init__(self, world: "World", name: str, path: Path) -> None:
        super().__init__(name)
        self.world, self.path = world, path
        self.db = SimulatedDatabase(world.server, self)
        self.session: ServiceSession | None = None
        self.main: asyncio.Task[None] | None = None

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        self.main = context.run(self.world.loop.create_task, work())
        self.main.add_done_callback(self._ended)

    def kill(self) -> None:
        """As kill -9 does: nothing that it still wants to do has any effect. The database notices, sooner or later."""
        self.alive = False
        if self.session is not None:
            self.session.vanish()
        later(self.world.dice.choice((0.0, 0.5, 5.0)), self._connections_end)
        self.world.loop.end_tasks_of(self)

    def stop(self) -> None:
        """As SIGTERM does: it gives back what it holds."""
        if self.main is not None:
            self.main.cancel()

    def _connections_end(self) -> None:
        for connection in self.db.own:
            connection.end()

    def over(self) -> None:
        """Its last step is done."""
        self.alive = False
        if self.session is not None:
            self.session.vanish()
        self._connections_end()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.world.checks.broke(f"{self.name} ended", error)


def _broker_session(settings: Any, listener: Callable[[SessionUp | SessionDown], None]) -> ServiceSession:
    """What an Inventory process gets where it asks for a session with the broker."""
    process: ServerProcess = OWNER.get()
    session = ServiceSession(process.world.broker, process, process.path, listener)
    process.session = session
    return session


def _ingest(*args: Any, **more: Any) -> Ingest:
    """The product's ingest, by this world's clock."""
    loop = OWNER.get().world.loop
    return Ingest(*args, **more, clock=loop.wall, mono=loop.time)


SERVICE_SEAMS: Mapping[str, Any] = {
    "Session": _broker_session,
    "Ingest": _ingest,
    "Authority": lambda secrets: Authority(),
    "CommandSigner": lambda secrets: SIGNER,
}
"""Names of `inventory.service` and what stands for them: no TLS, no key files."""


class InventoryProcess(ServerProcess):
    """A replica of the Inventory service."""

    async def run(self) -> None:
        service = Service(SETTINGS, self.db)  # type: ignore[arg-type]
        service.leases._name = self.name
        parts = service.parts()
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in PARTS:
                    tasks.create_task(keep(name, parts[name]), name=name)
        finally:
            if self.alive:
                await _release(service.leases)
            self.over()


class ManagersProcess(ServerProcess):
    """A replica of the managers."""

    async def run(self) -> None:
        wakers: list[Callable[[], None]] = []

        def on_session(event: SessionUp | SessionDown) -> None:
            for wake in wakers if isinstance(event, SessionUp) else ():
                wake()

        session = ServiceSession(self.world.broker, self, self.path, on_session)
        self.session = session
        store = Store(self.db, self.world.loop.wall)  # type: ignore[arg-type]
        running = assemble(self.db, store, Renderer(), session, SIGNER, MANAGER_SETTINGS)  # type: ignore[arg-type]
        self.world.checks.observe(self, running)
        wakers.append(running.dispatcher.wake)
        try:
            async with started(running) as watch:
                await watch
        finally:
            self.over()

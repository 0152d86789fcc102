"""The managers as a process, against a real PostgreSQL and the real embedded broker: it waits, it resumes, it ends."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.acl import Acl
from broker.embedded import EmbeddedBroker
from broker.guard import Rules, Tls
from broker.topics import Topics
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import Database
from inventory.store import Store
from tests.managers.fleet import eventually
from tests.waiting import patience

ROOT = Path(__file__).parents[2]
READY_S = 40.0
END_S = 5.0


class Process:
    """`python -m managers`."""

    def __init__(self, database: str, broker: str, secrets: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "FLEETWARD_DATABASE": database,
            "FLEETWARD_BROKER": broker,
            "FLEETWARD_SECRETS": str(secrets),
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "managers",
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def line(self) -> str:
        assert self.process is not None and self.process.stdout is not None
        async with patience(READY_S):
            return (await self.process.stdout.readline()).decode().strip()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        async with patience(END_S):
            return await self.process.wait()

    async def clean_up(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def embedded(secrets: Path, port: int) -> AsyncIterator[None]:
    rules = Rules.by_certificate(Acl(Topics()), Tls(secrets / "broker.crt", secrets / "broker.key", secrets / "ca.crt"))
    broker = EmbeddedBroker(rules)
    await broker.start("127.0.0.1", port)
    try:
        yield
    finally:
        await broker.stop()


@pytest.fixture
async def process(inventory_url: str, command_secrets: Path, ports: Callable[[], int]) -> AsyncIterator[Process]:
    """Not started yet; its broker's URL has a port that nothing listens at yet."""
    process = Process(inventory_url, f"mqtts://localhost:{ports()}", command_secrets)
    yield process
    await process.clean_up()


def port_of(process: Process) -> int:
    return int(process.environment["FLEETWARD_BROKER"].rsplit(":", 1)[1])


@asynccontextmanager
async def relaying(db: Database) -> AsyncIterator[Store]:
    relay = asyncio.create_task(Relay(db).run())
    try:
        yield Store(db)
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)


async def registered(store: Store, name: str) -> None:
    """A new host is looked at."""
    await store.create("host", {"name": name}, Actor.system())

    async def look() -> bool:
        return bool((await store.get("host", name))["current_state"] == "registered")

    await eventually(look, READY_S)


async def test_it_waits_for_the_broker_works_and_ends(process: Process, db: Database, command_secrets: Path) -> None:
    """Ready once both are there, and no earlier; SIGTERM ends it in time, with nothing held."""
    await process.start()
    async with relaying(db) as store:
        await registered(store, "before-the-broker")
        async with embedded(command_secrets, port_of(process)):
            assert await process.line() == "ready"
            assert await process.end() == 0
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM work WHERE lease_until IS NOT NULL") == 0


async def test_it_survives_the_loss_of_all_its_connections(process: Process, db: Database, command_secrets: Path) -> None:
    """As when PostgreSQL restarts: what is asked for afterwards is done."""
    async with embedded(command_secrets, port_of(process)), relaying(db) as store:
        await process.start()
        assert await process.line() == "ready"
        await registered(store, "one")
        async with db.acquire() as connection:
            ended = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
                "AND (application_name LIKE 'svc-managers%' OR application_name = 'fleetward-listen') AND pid <> pg_backend_pid()"
            )
        assert ended
        await registered(store, "two")
        assert await process.end() == 0


async def test_after_a_kill_another_goes_on(process: Process, db: Database, command_secrets: Path) -> None:
    """What the dead one held comes back when its leases end."""
    async with embedded(command_secrets, port_of(process)), relaying(db) as store:
        await process.start()
        assert await process.line() == "ready"
        assert await process.end(signal.SIGKILL) == -signal.SIGKILL
        await process.start()
        assert await process.line() == "ready"
        await registered(store, "after")


async def test_a_wrong_environment_is_one_line(process: Process) -> None:
    """Exit 2, and what is missing."""
    del process.environment["FLEETWARD_DATABASE"]
    await process.start()
    assert process.process is not None
    async with patience(READY_S):
        assert await process.process.wait() == 2

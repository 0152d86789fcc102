"""What every part's tests share: a real PostgreSQL for the session, an empty database of it for each test, and free ports.

The server is the one that `fleetward up` runs (`fleetward.postgres`), with fsync off, reached by its Unix socket. It is started
through `fleetward/launch.py`, so that the kernel ends it even when the test run is killed.
"""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Thread

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from fleetward import launch, postgres
from inventory import passwords
from inventory.db import Connection, Database, migrate
from inventory.store import Store
from tests.hashing import QUICK
from tests.ports import free_port
from tests.space import place
from tests.waiting import until

# How long an example takes says how busy the machine is, not whether the code is right. And the same ones always, so that a failure is
# never a matter of luck; FLEETWARD_EXAMPLES has others each time.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="FLEETWARD_EXAMPLES" not in os.environ
)
settings.load_profile("any machine")

passwords._hasher = QUICK

pytest_plugins = ["tests.running"]

_LOGGERS = ("asyncpg", "broker", "edge_agent", "fleetward", "inventory", "managers", "web")
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0


@dataclass(slots=True)
class Databases:
    """Makes and drops databases on the session's server, by a connection that it keeps, in a thread of its own: a test's thread may have a
    loop that runs, and a `psql` each time takes longer than the copying."""

    cluster: postgres.Cluster
    _numbers: Iterator[int] = field(default_factory=count)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: Thread = field(init=False)
    _connection: "asyncpg.Connection[asyncpg.Record]" = field(init=False)

    def __post_init__(self) -> None:
        self._thread = Thread(target=self._loop.run_forever, name="databases", daemon=True)
        self._thread.start()
        url = self.cluster.url(postgres.SUPERUSER, postgres.SUPERUSER)
        self._connection = asyncio.run_coroutine_threadsafe(asyncpg.connect(url), self._loop).result(_START_SECONDS)

    def create(self, template: str = "template0") -> str:
        """The name of a new database, a copy of `template`, owned by the role that `url` connects as."""
        name = f"test_{next(self._numbers)}"
        self._do(f'CREATE DATABASE {name} TEMPLATE "{template}" OWNER {postgres.ROLE} STRATEGY file_copy')
        return name

    def drop(self, name: str) -> None:
        """Drop it, whoever is still connected."""
        self._do(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        return self.cluster.url(name)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._connection.close(), self._loop).result(_STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        self._loop.close()

    def _do(self, sql: str) -> None:
        asyncio.run_coroutine_threadsafe(self._connection.execute(sql), self._loop).result(_START_SECONDS)


def _start(cluster: postgres.Cluster, log: Path) -> "subprocess.Popen[bytes]":
    command = launch.through(cluster.command(), user=cluster.owner.user, death=signal.SIGQUIT)
    with log.open("wb") as out:
        return subprocess.Popen(command, cwd="/", stdout=out, stderr=out, start_new_session=True)


@pytest.fixture(autouse=True)
def _logs_are_left_as_they_are() -> Iterator[None]:
    """Whoever hushes a logger of ours for good makes tests fail that come later to the same process and read the log."""
    levels = {each: logging.getLogger(each).level for each in _LOGGERS}
    yield
    assert {each: logging.getLogger(each).level for each in _LOGGERS} == levels


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """The session's PostgreSQL server. For what `postgres_url` does not do: a template of one's own, several databases."""
    home = place("fleetward-tests-")
    log = home / "postgres.log"
    cluster = postgres.prepare(home / "postgres", postgres.throwaway())
    server = _start(cluster, log)
    try:
        until(lambda: server.poll() is not None or cluster.ready(), _START_SECONDS, "the start of PostgreSQL")
        assert server.poll() is None, log.read_text()
        cluster.ensure_database()
        made = Databases(cluster)
        yield made
        made.close()
    finally:
        server.send_signal(signal.SIGQUIT)
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        until(lambda: _removed(home), _STOP_SECONDS, "removing PostgreSQL's files")


def _removed(home: Path) -> bool:
    """Whether nothing is left: a server process on its way out may write a last file meanwhile."""
    shutil.rmtree(home, ignore_errors=True)
    return not home.exists()


@pytest.fixture
def postgres_url(databases: Databases) -> Iterator[str]:
    """The URL of an empty database, for this test alone; dropped afterwards."""
    name = databases.create()
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture(scope="session")
def migrated(databases: Databases) -> str:
    """A database with the product's schema, to copy from: a copy takes a twentieth of the time that migrating does."""
    name = databases.create()
    asyncio.run(migrate(databases.url(name)))
    return name


@pytest.fixture
def inventory_url(databases: Databases, migrated: str) -> Iterator[str]:
    """The URL of a database with the product's schema and nothing in it, for this test alone; dropped afterwards."""
    name = databases.create(migrated)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
async def db(inventory_url: str) -> AsyncIterator[Database]:
    """`inventory_url`, opened."""
    database = await Database.open(inventory_url, application="test", pool_size=10)
    yield database
    await database.close()


@pytest.fixture
def store(db: Database) -> Store:
    return Store(db)


@pytest.fixture
def cut_at_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """The first connection of one's own that is made of `db` is lost before anything is asked of it; it is noted here."""
    connect, cut = db.connect, list[Connection]()

    async def connected() -> Connection:
        connection = await connect()
        if not cut:
            connection.terminate()
            cut.append(connection)
        return connection

    monkeypatch.setattr(db, "connect", connected)
    return cut


@pytest.fixture
def ports() -> Callable[[], int]:
    """A function that gives a free TCP port on the loopback, another one at each call."""
    return free_port

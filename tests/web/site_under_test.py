"""A web process under test: it really listens, on a real database, with a relay at work. Fixtures are in `conftest.py`."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from quart import Quart

from inventory import accounts, vault_keys
from inventory.changes import Relay
from inventory.db import Database
from tests.waiting import Deadline
from web import serving
from web.app import create_app
from web.serving import Address
from web.settings import Settings

T = TypeVar("T")

PASSWORD = "correct horse battery staple"
ROLES = ("viewer", "operator", "admin")
_START_SECONDS = 120.0
_TRUST = ssl.create_default_context()
"""One for all clients: making one reads all the authorities of this machine, which costs more than the requests of most tests."""


@dataclass(frozen=True)
class Site:
    """A web process under test. Bearer tokens are the names of the roles; the user `admin` has PASSWORD."""

    url: str
    database: str
    end: Callable[[], None]
    """Asks it to end, as SIGTERM does."""
    app: Quart
    """For what a test can see of it in no other way."""

    def client(self, role: str | None = "admin", **more: Any) -> httpx.Client:
        headers = {} if role is None else {"Authorization": f"Bearer {role}"}
        usual: dict[str, Any] = {"headers": headers, "trust_env": False, "timeout": 60, "verify": _TRUST}
        return httpx.Client(base_url=self.url, **usual | more)

    def async_client(self, role: str = "admin", **more: Any) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {role}"}
        limits = httpx.Limits(max_connections=None)
        usual: dict[str, Any] = {"trust_env": False, "timeout": 60, "verify": _TRUST, "limits": limits}
        return httpx.AsyncClient(base_url=self.url, headers=headers, **usual | more)


async def people(database: str) -> None:
    """Make the tokens and the user that a `Site` speaks of."""
    db = await Database.open(database, application="test-people", pool_size=1)
    now = datetime.now(UTC)
    for role in ROLES:
        await accounts.put_token(db, role, role, role, now)
    await accounts.add_user(db, "admin", PASSWORD, "admin", now)
    await db.close()


async def vaulted(database: str, secrets: Path) -> None:
    """The first key that secrets of configs lie under, as bootstrap makes it, so that the site takes some."""
    db = await Database.open(database, application="test-vault", pool_size=1)
    await vault_keys.ensure(db, secrets, datetime.now(UTC))
    await db.close()


async def _live(settings: Settings, address: Address, started: "threading.Event", said: list[Site]) -> None:
    loop, stop, app = asyncio.get_running_loop(), asyncio.Event(), create_app(settings)
    db = await Database.open(settings.database, application="test-relay", pool_size=2)
    relay = asyncio.create_task(Relay(db).run())
    bound = serving.listen(address)

    def ready(url: str) -> None:
        said.append(Site(url, settings.database, lambda: _end(loop, stop), app))
        started.set()

    try:
        await serving.serve(app, address, bound, stop, ready)
    finally:
        bound.close()
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        await db.close()


def _end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with suppress(RuntimeError):  # its loop is closed: it has ended already
        loop.call_soon_threadsafe(stop.set)


@contextmanager
def running(database: str, address: Address | None = None, **settings: Any) -> Iterator[Site]:
    """A web process in a thread of its own, so that tests of any kind can talk to it. The database has its `people`."""
    started, said = threading.Event(), list[Site]()
    wanted = replace(Settings(database=database), **settings)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_live(wanted, address or Address("127.0.0.1", 0), started, said))
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="web")
    thread.start()
    try:
        assert started.wait(_START_SECONDS), "the web process did not start"
        assert said, failure
        yield said[0]
    finally:
        for site in said:
            site.end()
        thread.join(_START_SECONDS)
        assert not thread.is_alive(), "the web process did not end"
    assert not failure, failure


def until(found: Callable[[], T], seconds: float = 10.0) -> T:
    """What `found` gives as soon as it is true. Fails after so many seconds."""
    deadline = Deadline(seconds)
    while not (value := found()):
        assert not deadline.over(), "it did not come about in time"
        time.sleep(0.01)
    return value

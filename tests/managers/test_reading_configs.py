"""Configs are kept in memory by version (`inventory.applying.Configs`), by several managers that read them at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from inventory.actor import Actor
from inventory.applying import Configs
from inventory.db import Connection, Database
from inventory.store import Store
from inventory.vault import Vault
from tests.managers.fleet import eventually

ADMIN = Actor.user("admin", "admin")


class Slow:
    """A database whose readers wait, each once it has read, until they are let go."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.readers: list[asyncio.Event] = []

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        async with self._db.acquire() as connection:
            yield connection
        may_go = asyncio.Event()
        self.readers.append(may_go)
        await may_go.wait()


@pytest.fixture
def slow(db: Database) -> Slow:
    return Slow(db)


async def test_who_read_earlier_takes_nothing_from_who_read_later(slow: Slow, store: Store) -> None:
    """Neither a config that was made meanwhile, which would be withdrawn from its hosts, nor what another one has become."""
    configs = Configs(cast(Database, slow), Vault(Path()))
    files = [{"path": "/etc/x", "content": "x"}]
    old = await store.create("config", {"name": "old", "selector": "", "files": files}, ADMIN)

    async def begin() -> "asyncio.Task[dict[str, int]]":
        async def read() -> dict[str, int]:
            return {config.name: config.version for config in (await configs.all()).values()}

        before, task = len(slow.readers), asyncio.create_task(read())

        async def has_read() -> bool:
            return len(slow.readers) > before

        await eventually(has_read)
        return task

    earlier = await begin()
    new = await store.create("config", {"name": "new", "selector": "", "files": files}, ADMIN)
    changed = await store.patch("config", "old", {"priority": 7}, ADMIN)
    there = {"old": changed["version"], "new": new["version"]}
    for_all = await begin()
    slow.readers[1].set()
    assert await for_all == there
    later = await begin()
    slow.readers[0].set()
    assert await earlier == {"old": old["version"]}
    slow.readers[2].set()
    assert await later == there

"""A store on a database of the test's own."""

from collections.abc import AsyncIterator

import pytest

from inventory.actor import Actor
from inventory.db import Database
from inventory.store import Store


@pytest.fixture
async def db(inventory_url: str) -> AsyncIterator[Database]:
    database = await Database.open(inventory_url, application="test", pool_size=10)
    yield database
    await database.close()


@pytest.fixture
def store(db: Database) -> Store:
    return Store(db)


@pytest.fixture
def admin() -> Actor:
    return Actor.user("admin", "admin", "127.0.0.1")

"""A database of the test's own with the product's schema, and a store on it."""

from collections.abc import AsyncIterator

import pytest

from inventory.db import Database
from inventory.store import Store


@pytest.fixture
async def db(inventory_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(inventory_url, application="tests", pool_size=4)
    yield opened
    await opened.close()


@pytest.fixture
def store(db: Database) -> Store:
    return Store(db)

"""A database, a store, and an authority that has been through bootstrap."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from inventory.authority import Authority
from inventory.db import Database
from inventory.store import Store


@pytest.fixture
async def db(inventory_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(inventory_url, application="tests", pool_size=8)
    yield opened
    await opened.close()


@pytest.fixture
def store(db: Database) -> Store:
    return Store(db)


@pytest.fixture(scope="session")
def secrets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A secrets directory after bootstrap; tests only read it."""
    directory = tmp_path_factory.mktemp("authority") / "secrets"
    Authority(directory).bootstrap()
    return directory


@pytest.fixture
def authority(secrets_dir: Path) -> Authority:
    return Authority(secrets_dir)


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)

"""An authority that has been through bootstrap, and a database for a file's tests.

These tests share one database a file and empty it after each test: copying one takes five times as long, and there are many of them.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from inventory.authority import Authority

EMPTY = """
DO $$
DECLARE tables text;
BEGIN
    SELECT string_agg(quote_ident(tablename), ', ') INTO tables FROM pg_tables
    WHERE schemaname = 'public' AND tablename NOT IN ('relay', 'ingest_lease', 'tortoise_migrations') AND tablename !~ '^changes_[0-9]+$';
    EXECUTE 'TRUNCATE ' || tables || ' RESTART IDENTITY CASCADE';
END $$;
UPDATE relay SET position = 0, hash = '\\x', floor = 0, idle = false;
UPDATE ingest_lease SET owner = NULL, until = NULL, fence = 0, subscribed_since = NULL;
ALTER SEQUENCE versions RESTART;
"""
"""What a migrated database is brought back to."""


@pytest.fixture(scope="module")
def shared_url(databases: Any, migrated: str) -> Iterator[str]:
    """A migrated database of the file's own."""
    name = databases.create(migrated)
    yield str(databases.url(name))
    databases.drop(name)


@pytest.fixture
async def inventory_url(shared_url: str) -> AsyncIterator[str]:
    """The URL of a database with the product's schema and nothing in it."""
    yield shared_url
    connection = await asyncpg.connect(shared_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.execute(EMPTY)
    await connection.close()


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

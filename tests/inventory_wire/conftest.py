"""An authority that has been through bootstrap."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from inventory.authority import Authority


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

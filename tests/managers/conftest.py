"""Fixtures of the managers' tests: a fleet on a database of the test's own, and keys to sign commands with."""

from pathlib import Path

import pytest

from inventory.authority import Authority
from inventory.db import Database
from inventory.store import Store
from tests.managers.fleet import FakeWire, Fleet


@pytest.fixture(scope="session")
def command_secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A secrets directory, as bootstrap leaves it."""
    directory = tmp_path_factory.mktemp("managers") / "secrets"
    Authority(directory).bootstrap()
    return directory


@pytest.fixture
def fleet(db: Database, command_secrets: Path) -> Fleet:
    """No hosts yet; its devices obey."""
    fleet = Fleet(db, Store(db), FakeWire(), command_secrets)
    fleet.wire.answer = fleet.obey
    return fleet

"""Fixtures of the managers' tests: a fleet on a database of the test's own, and keys to sign commands with."""

from pathlib import Path

import pytest

from inventory.authority import Authority
from inventory.db import Database
from inventory.store import Store
from managers import rendering
from tests.managers.fleet import FakeWire, Fleet


@pytest.fixture(scope="session")
def command_secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A secrets directory, as bootstrap leaves it."""
    directory = tmp_path_factory.mktemp("managers") / "secrets"
    Authority(directory).bootstrap()
    return directory


@pytest.fixture(autouse=True)
def _slow_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a template takes says how busy the machine is: only the test of the limit has the product's."""
    monkeypatch.setattr(rendering, "LIMIT_S", 20.0)


@pytest.fixture
def fleet(db: Database, command_secrets: Path) -> Fleet:
    """No hosts yet; its devices obey."""
    fleet = Fleet(db, Store(db), FakeWire(), command_secrets)
    fleet.wire.answer = fleet.obey
    return fleet

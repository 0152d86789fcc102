"""`ups`: starts `fleetward up` with stand-ins on a data directory of its own."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.up.runs import Ups


@pytest.fixture
def ups(ports: Callable[[], int]) -> Iterator[Ups]:
    """Starts `up`s on a fresh data directory, one that the database's user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="fleetward-up-", dir="/tmp"))
    directory.chmod(0o711)
    every = Ups(directory, ports)
    try:
        yield every
    finally:
        every.clean_up()

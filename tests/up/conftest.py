"""`ups`: starts `fleetward up` with stand-ins on a data directory of its own."""

from collections.abc import Callable, Iterator

import pytest

from tests.space import place
from tests.up.runs import Ups


@pytest.fixture
def ups(ports: Callable[[], int]) -> Iterator[Ups]:
    """Starts `up`s on a fresh data directory, one that the database's user can reach."""
    every = Ups(place("fleetward-up-"), ports)
    try:
        yield every
    finally:
        every.clean_up()

"""What the tests of the simulation share: a process without the remains of other tests."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def swept() -> None:
    """A world breaks when asyncio logs a task whose error nobody has asked for, which it does when the task is collected: another test's
    would be a failure of whichever world happens to run then."""
    gc.collect()

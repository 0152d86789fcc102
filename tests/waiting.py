"""Waiting in tests: for a predicate, with a deadline; never for a fixed time."""

import time
from collections.abc import Callable


def until(predicate: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a predicate; fail with `what` when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)

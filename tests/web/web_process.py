"""`python -m web` as a child process, for tests and benchmarks."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def process(database: str, *arguments: str, **environment: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL that it says it listens on, and the process."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}
    child = subprocess.Popen(
        [sys.executable, "-m", "web", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=mine | {"FLEETWARD_DATABASE": database} | environment,
    )
    try:
        assert child.stdout is not None
        said = child.stdout.readline()
        assert said.startswith("listening "), said
        yield said.split()[1], child
    finally:
        child.kill()
        child.wait()

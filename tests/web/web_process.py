"""`python -m web` as a child process, for tests and benchmarks."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def process(
    database: str, *arguments: str, stderr: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL that it says it listens on, and the process. `stderr`: where its log goes; without it, to ours."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}
    with contextlib.ExitStack() as files:
        child = subprocess.Popen(
            [sys.executable, "-m", "web", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=None if stderr is None else files.enter_context(stderr.open("wb")),
            text=True,
            env=mine | {"FLEETWARD_DATABASE": database} | dict(environment or {}),
        )
    try:
        assert child.stdout is not None
        said = child.stdout.readline()
        assert said.startswith("listening "), said
        yield said.split()[1], child
    finally:
        child.kill()
        child.wait()

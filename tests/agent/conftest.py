"""Fixtures of the agent's tests: a fleet to enroll with, and real agents as processes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetward import launch
from tests.agent.fleet import Fleet, eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A broker and a server; ended with the test."""
    fleet = Fleet(tmp_path / "fleet")
    fleet.start()
    try:
        yield fleet
    finally:
        fleet.stop()


class AgentProcess:
    """`fleetward-agent run` on a state directory of its own."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.device = ""
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "edge_agent", *words, "--state-dir", str(self.state_dir)]

    def enroll(self, fleet: Fleet) -> str:
        done = subprocess.run(
            self.command("enroll", "--server", fleet.url, "--token", "good-token"), cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        self.device = done.stdout.strip()
        return self.device

    def start(self, *prefix: str) -> None:
        """`prefix`: a program that becomes the agent, such as `unshare`."""
        with (self.state_dir / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(launch.through([*prefix, *self.command("run")]), cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    @property
    def log(self) -> str:
        return (self.state_dir / "agent.log").read_text()


@pytest.fixture
def new_agent(tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    """Makes agents whose files may be placed below `tmp_path / 'files'` (or as `settings` says)."""
    made: list[AgentProcess] = []

    def make(settings: str = "") -> AgentProcess:
        state_dir = tmp_path / f"agent-{len(made)}"
        state_dir.mkdir()
        text = settings or f'roots = ["{tmp_path}/files"]\ndrift_interval_s = 1\ndiscovery_interval_s = 1\n'
        (state_dir / "agent.toml").write_text(text)
        made.append(AgentProcess(state_dir))
        return made[-1]

    yield make
    for agent in made:
        if agent.process is not None and agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()


__all__ = ["AgentProcess", "eventually"]

"""A real API (web, inventory and broker on a database of their own), and `fleet`, which runs commands against it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fleetward import launch
from fleetward.cli.entry import cli
from fleetward.client import Client
from fleetward.supervisor import said_ready
from tests.waiting import until


@dataclass(frozen=True, slots=True)
class Api:
    """A running API: its address, the administrator's token, and what it stands on."""

    url: str
    token: str
    database: str
    secrets: Path

    def client(self) -> Client:
        return Client(self.url, self.token)


@pytest.fixture(scope="session")
def api(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for all tests here; they tell their resources apart by name."""
    directory = tmp_path_factory.mktemp("api")
    (directory / "secrets").mkdir(mode=0o700)
    name = databases.create()
    environment = os.environ | {
        "FLEETWARD_DATABASE": databases.url(name),
        "FLEETWARD_SECRETS": str(directory / "secrets"),
        "FLEETWARD_MQTT_ADVERTISE": "broker.example:8883",
        "PYTHONUNBUFFERED": "1",
    }
    bootstrap = [sys.executable, "-m", "inventory", "bootstrap", "--admin-token-file", str(directory / "admin-token")]
    subprocess.run(bootstrap, env=environment, check=True, capture_output=True)
    with ExitStack() as running:
        broker = ["--port", "0", "--secrets", str(directory / "secrets"), "--data", str(directory)]
        address = running.enter_context(service("broker", broker, directory, environment))
        running.enter_context(service("inventory", ["--broker", address], directory, environment))
        url = running.enter_context(service("web", ["--port", "0"], directory, environment))
        yield Api(url, (directory / "admin-token").read_text().strip(), databases.url(name), directory / "secrets")
    databases.drop(name)


@contextmanager
def service(name: str, arguments: list[str], directory: Path, environment: dict[str, str]) -> Iterator[str]:
    """A service that runs, and the address it listens on, if it does; ended afterwards."""
    out, err = directory / f"{name}.out", directory / f"{name}.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        command = launch.through([sys.executable, "-m", name, *arguments])
        running = subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr)
    try:
        until(lambda: running.poll() is not None or said_ready(out.read_text()), 30, f"{name} did not start")
        assert running.poll() is None, err.read_text()
        yield out.read_text().split()[-1]
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


Fleet = Callable[..., Result]


@pytest.fixture
def fleet(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Runs a `fleetward` command against the API; its result has `exit_code`, `stdout` and `stderr`."""
    for name in [name for name in os.environ if name.startswith("FLEETWARD_")]:
        monkeypatch.delenv(name)
    environment = {
        "FLEETWARD_SERVER": api.url,
        "FLEETWARD_TOKEN": api.token,
        "FLEETWARD_DATA_DIR": str(tmp_path / "nothing-here"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "NO_COLOR": "1",
    }

    def run(*arguments: str, **more: Any) -> Result:
        result = CliRunner(env=environment | more.pop("env", {})).invoke(cli, list(arguments), **more)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run

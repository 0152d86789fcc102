"""One real installation for the whole session: `fleetward up` on free ports, spoken to as its users do."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleetward import launch
from tests.space import place
from tests.waiting import Deadline

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
_TRUST = ssl.create_default_context()
"""One for all requests: making one reads all the authorities of this machine, at each look of those who wait for something."""


def until(predicate: Callable[[], Any], seconds: float, what: str) -> Any:
    """The predicate's first true value. Fails, saying what was waited for, when the time is up."""
    deadline = Deadline(seconds)
    while True:
        value = predicate()
        if value:
            return value
        if deadline.over():
            pytest.fail(f"waited {seconds:.0f} s for {what}; last seen: {value!r}")
        time.sleep(0.05)


@dataclass(slots=True)
class Installation:
    """A running `fleetward up`, and the ways into it."""

    data: Path
    http: int
    mqtt: int
    extra: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> float:
        """Start it and wait until it says ready; how long that took, in seconds."""
        began = time.monotonic()
        log = (self.data.parent / "up.log").open("ab")
        ports = ("--http-port", str(self.http), "--mqtt-port", str(self.mqtt))
        command = [sys.executable, "-m", "fleetward", "up", "--data-dir", str(self.data), *ports, *self.extra]
        command = launch.through(command, death=signal.SIGTERM)  # it ends with a test run that is killed
        seen = log.tell()
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.data.parent, start_new_session=True)
        until(lambda: b"ready: " in self.output()[seen:] or self.process.poll() is not None, READY_SECONDS, "ready")  # type: ignore[union-attr]
        assert self.process.poll() is None, self.output().decode()
        return time.monotonic() - began

    def output(self) -> bytes:
        return (self.data.parent / "up.log").read_bytes()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            until(lambda: self.process.poll() is not None, STOP_SECONDS, "the end of it")  # type: ignore[union-attr]

    def pid(self, service: str) -> int:
        return int((self.data / "run" / f"{service}.pid").read_text().split()[0])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def call(self, method: str, path: str, timeout: float = 30.0, **more: Any) -> httpx.Response:
        token = (self.data / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, self.url + path, headers=headers, timeout=timeout, trust_env=False, verify=_TRUST, **more)

    def get(self, path: str, **params: Any) -> Any:
        response = self.call("GET", f"/api/v1/{path}", params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def items(self, collection: str, filter: str = "", **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(collection, filter=filter, page_size=1000, **params)["items"]
        return found

    def fleetward(self, *args: str, input: str = "", expect: int | None = 0) -> str:
        """Run the command; its standard output."""
        environment = {**os.environ, "FLEETWARD_DATA_DIR": str(self.data), "NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "fleetward", *args],
            input=input,
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> str:
        """`fleetward apply -f -`; JSON is YAML."""
        return self.fleetward("apply", "-f", "-", input="\n---\n".join(json.dumps(d) for d in documents))


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """The session's installation, with this machine's own agent."""
    with one_more() as made:
        yield made


@contextmanager
def one_more(*flags: str) -> Iterator[Installation]:
    """An installation that runs, `up` with these flags; its files go with it."""
    from tests.ports import free_port

    home = place("fleetward-system-")
    made = Installation(home / "data", free_port(), free_port(), flags)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def host(installation: Installation) -> dict[str, Any]:
    """This machine as a host, once it is online and has said what it is."""

    def there() -> Any:
        hosts = installation.items("hosts", "presence = online")
        return hosts[0] if hosts and hosts[0]["cpu_cores"] and hosts[0]["current_state"] == "onboarded" else None

    found: dict[str, Any] = until(there, 60, "this machine to be online and known")
    return found

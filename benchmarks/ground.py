"""What the benchmarks stand on: a whole installation of real processes, in a directory of its own, ended with everything it started.

`installation` is `fleetward up` as a user runs it (PostgreSQL, broker over TLS, inventory, managers, web), on ports chosen by the system.
It measures nothing: that is `benchmarks.meters`. Devices come from `benchmarks.fleet`.
"""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx

from fleetward import postgres
from fleetward.layout import DataDir
from inventory.db import Database

ROOT = Path(__file__).parents[1]
START_S = 120.0
STOP_S = 30.0
CONTROL_PLANE = ("inventory", "managers", "web")
"""What the idle fleet's target counts: neither broker nor PostgreSQL."""


class Failed(Exception):
    """The benchmark can't go on; the text says what was missing, and where to look."""


@dataclass(frozen=True, slots=True)
class Installation:
    """One that runs. `url`: of the web process. `database`: PostgreSQL's URL."""

    data: DataDir
    url: str
    database: str
    host: str
    broker_port: int

    @property
    def token(self) -> str:
        return self.data.admin_token.read_text().strip()

    def pid(self, name: str) -> int:
        """Of a service by its name in `run/`."""
        return int(self.data.pid_file(name).read_text().split()[0])

    def api(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        trusted = ssl.create_default_context(cafile=str(self.data.secrets / "ca.crt"))
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60, trust_env=False, verify=trusted)

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.database)

    async def open_database(self) -> Database:
        return await Database.open(self.database, application="benchmark", pool_size=4)


@contextmanager
def installation(broker: str = "mosquitto", *, host: str = "127.0.0.1", agent: bool = False) -> Iterator[Installation]:
    """A new one on an empty database; `agent`: with this machine's own. Raises Failed when it does not start."""
    with directory() as home:
        data = DataDir(home / "data")
        http, mqtt = free_port(), free_port()
        command = [sys.executable, "-m", "fleetward", "up", "--data-dir", str(data.root), "--broker", broker]
        command += ["--host", host, "--http-port", str(http), "--mqtt-port", str(mqtt), *(() if agent else ("--no-agent",))]
        with (home / "up.log").open("w") as log:
            child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            until(lambda: data.server_json.exists() or child.poll() is not None, START_S, "fleetward up")
            if child.poll() is not None:
                raise Failed(f"fleetward up ended: {(home / 'up.log').read_text()[-2000:]}")
            served = json.loads(data.server_json.read_text())
            yield Installation(data, served["url"], database_url(data), host, mqtt)
        finally:
            end(child)


@contextmanager
def directory() -> Iterator[Path]:
    """Where PostgreSQL's own user can get to. From here on SIGTERM ends what was started, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="fleetward-bench-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def database_url(data: DataDir) -> str:
    return postgres.prepare(data.postgres, postgres.production(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))).url()


def end(child: "subprocess.Popen[bytes]") -> None:
    """Ask it, and after a while make it."""
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(predicate: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait for it; how many seconds it took. Raises Failed, naming `what`."""
    began = time.monotonic()
    while not predicate():
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
    return time.monotonic() - began

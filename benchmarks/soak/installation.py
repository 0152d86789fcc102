"""The installation that a soak watches: `fleetward up` with simulated devices, as a process, and the ways into it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.simulated.control import tell

START_S = 180.0
STOP_S = 30.0
ROLES = ("postgres", "broker", "inventory", "managers", "web", "simulator")


@dataclass(slots=True)
class Installation:
    data: Path
    broker: str
    devices: int
    http: int
    process: "subprocess.Popen[bytes]"

    @classmethod
    def start(cls, data: Path, broker: str, devices: int) -> "Installation":
        """Raises RuntimeError, with its last words, when it does not become ready."""
        data.parent.mkdir(parents=True, exist_ok=True)
        http, mqtt = _free_port(), _free_port()
        command = [sys.executable, "-m", "fleetward", "up", "--data-dir", str(data), "--http-port", str(http), "--mqtt-port", str(mqtt)]
        command += ["--broker", broker, "--no-agent", "--simulate", str(devices)]
        output = data.with_suffix(".out")
        with output.open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
        it = cls(data, broker, devices, http, process)
        deadline = time.monotonic() + START_S
        while b"ready: " not in output.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                it.stop()
                raise RuntimeError(f"the installation did not start: {output.read_text()[-400:]}")
            time.sleep(0.2)
        return it

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOP_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def token(self) -> str:
        return (self.data / "admin-token").read_text().strip()

    @property
    def password(self) -> str:
        """The first administrator's, as `up` said it."""
        said = self.data.with_suffix(".out").read_text()
        return said[said.index("sign-in: admin ") + len("sign-in: admin ") :].split()[0]

    @property
    def mqtt(self) -> tuple[str, int]:
        host, _, port = json.loads((self.data / "server.json").read_text())["mqtt"].removeprefix("mqtts://").rpartition(":")
        return host, int(port)

    def pid(self, role: str) -> int:
        return int((self.data / "run" / f"{role}.pid").read_text().split()[0])

    def database(self) -> str:
        """The URL that its services were given; in their environment, not in any file."""
        environment = Path(f"/proc/{self.pid('inventory')}/environ").read_bytes().split(b"\0")
        return next(entry for entry in environment if entry.startswith(b"FLEETWARD_DATABASE=")).decode().partition("=")[2]

    def tell(self, **request: Any) -> Any:
        """One order to the simulator; its answer. Raises RuntimeError where it is refused."""
        answer = json.loads(tell(self.data / "simulator" / "control.sock", json.dumps(request)))
        if not answer["ok"]:
            raise RuntimeError(f"the simulator refused {request}: {answer['error']}")
        return answer

    def integration(self, name: str) -> Path:
        """An integration that may write without signing; the directory of its certificate."""
        out = self.data / "integrations" / name
        command = [sys.executable, "-m", "fleetward", "integration", "create", name, "--write-unsigned", "--out", str(out)]
        environment = {**os.environ, "FLEETWARD_DATA_DIR": str(self.data)}
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=60)
        return out


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

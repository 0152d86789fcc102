"""Runs `fleetward up` with stand-ins for the services and a real PostgreSQL, and ends whatever is left of it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import until


@dataclass(slots=True)
class Run:
    """One `fleetward up`; its output goes to files, which the properties read."""

    data: Path
    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    @property
    def lines(self) -> list[str]:
        return self.out.read_text().splitlines()

    @property
    def complaints(self) -> list[str]:
        return self.err.read_text().splitlines()

    def until_ready(self) -> "Run":
        until(lambda: any(line.startswith("sign-in") for line in self.lines) or self.process.poll() is not None, 60, "not ready")
        assert self.process.poll() is None, self.complaints
        return self

    def pid(self, name: str) -> int:
        return int((self.data / "run" / f"{name}.pid").read_text())

    def children(self) -> dict[str, int]:
        """Who runs now, by name."""
        return {path.stem: int(path.read_text()) for path in (self.data / "run").glob("*.pid") if path.stem != "supervisor"}

    def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(100)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass(slots=True)
class Ups:
    """Starts `up`s on one data directory."""

    data: Path
    ports: Callable[[], int]
    settings: dict[str, Any] = field(default_factory=dict)
    started: list[Run] = field(default_factory=list)

    def start(self, environment: dict[str, str] | None = None, **settings: Any) -> Run:
        """With stand-ins for the services."""
        asked = self._settled() | settings
        script = str(Path(__file__).with_name("run_up.py"))
        return self._run([sys.executable, script, json.dumps(asked)], os.environ | (environment or {}), Path(str(asked["data_dir"])))

    def start_real(self, *flags: str) -> Run:
        """The command itself, with the services themselves."""
        ports = ("--http-port", str(self._settled()["http_port"]), "--mqtt-port", str(self.settings["mqtt_port"]))
        return self._run([sys.executable, "-m", "fleetward", "up", *ports, *flags], self.environment(), self.data / "d")

    def environment(self) -> dict[str, str]:
        """For commands that are to find this installation."""
        return os.environ | {"FLEETWARD_DATA_DIR": str(self.data / "d")}

    def _settled(self) -> dict[str, Any]:
        if not self.settings:
            self.settings = {"data_dir": str(self.data / "d"), "http_port": self.ports(), "mqtt_port": self.ports()}
        return self.settings

    def _run(self, command: list[str], environment: Mapping[str, str], data: Path) -> Run:
        number = len(self.started)
        out, err = self.data / f"out-{number}", self.data / f"err-{number}"
        with out.open("wb") as to, err.open("wb") as complaints:
            process = subprocess.Popen(command, stdout=to, stderr=complaints, env=environment)
        run = Run(data, process, out, err)
        self.started.append(run)
        return run

    def clean_up(self) -> None:
        for run in self.started:
            left = psutil.Process(run.process.pid).children(recursive=True) if run.process.poll() is None else []
            run.process.kill()
            run.process.wait()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, 10)
        shutil.rmtree(self.data)

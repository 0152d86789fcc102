"""A measured row of design.md section 8: printed, and handed on to `benchmarks.run`, which makes the table of docs/benchmarks.md.

Nothing is judged beyond "met" or "missed" as the row's own target says, and nothing exits with an error for being slow.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

RESULTS = "FLEETWARD_BENCH_RESULTS"
"""Where a run of all scripts wants the rows, as lines of JSON; each script alone only prints."""
MEASURED_WITH = ("paho-mqtt", "aiomqtt", "amqtt", "tortoise-orm", "asyncpg", "quart", "hypercorn")


@dataclass(frozen=True, slots=True)
class Row:
    """`what`: the row's words. `ours`, `beside` (the raw limit or the peer, measured in this run unless it says otherwise) and `ratio`
    with their units; `target` as the design says it; `met`: whether this run reached it."""

    what: str
    target: str
    ours: str
    beside: str
    ratio: str
    met: bool

    def lines(self) -> Iterable[str]:
        yield f"== {self.what}"
        yield f"   ours    {self.ours}"
        yield f"   beside  {self.beside}"
        yield f"   ratio   {self.ratio}"
        yield f"   target  {self.target}: {'met' if self.met else 'MISSED'}"


def say(row: Row) -> None:
    print("\n".join(row.lines()), flush=True)
    if path := os.environ.get(RESULTS):
        with Path(path).open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows the script's own docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def machine() -> str:
    """Where the numbers come from, in a line."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {_system()}; Python {platform.python_version()}"


def versions() -> str:
    found = [f"{name} {version(name)}" for name in MEASURED_WITH]
    return ", ".join([_first(["git", "describe", "--always", "--dirty"], "commit "), *found, _mosquitto()])


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _system() -> str:
    return f"{platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}, kernel {platform.release()}"


def _mosquitto() -> str:
    from broker.mosquitto import find_mosquitto

    binary = find_mosquitto()
    return _first([binary, "-h"]) if binary else "no mosquitto"


def _first(command: list[str], before: str = "") -> str:
    """The first line that a program says."""
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return before + (said.splitlines() or ["unknown"])[0].strip()

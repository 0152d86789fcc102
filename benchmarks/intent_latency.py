"""From the return of a PATCH to the start of its work on the device: `python -m benchmarks.intent_latency [--changes 200]`.

Each change is a PATCH of a config's content, on an installation with this machine's own agent and nothing else to do. Measured: how long
the PATCH took; from its return to the start of the command, to the file on the device, and to current = desired. The start is the file's
moment less the command's run, by what the device reports of it: its clock is set by the server's checkpoint and may be some milliseconds
off, but not between two of its own times. Beside them stands what the same machine takes for the bare work: a write with fsync and rename,
an HTTP read.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx

from benchmarks.ground import Failed, installation
from benchmarks.meters import Load, quantile
from benchmarks.report import Row, arguments, say

P50_MS, P99_MS = 25.0, 100.0
NAME = "benchmark-latency"
LIMIT_S = 30.0
WARM_UP = 5


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds, of each change."""

    patched: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    placed: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)


def measure(broker: str, changes: int) -> Row:
    with installation(broker, agent=True) as ground, ground.api() as api:
        times = changed(api, ground.data.agent / "files" / "benchmark", changes)
        names = ("postgres", "broker", "inventory", "managers", "web", "agent")
        memory = Load({name: ground.pid(name) for name in names}).memory()
    print("   memory, MiB PSS: " + ", ".join(f"{name} {mib:.0f}" for name, mib in memory.items()))
    for label, values in (
        ("PATCH", times.patched),
        ("PATCH returned → command started", times.started),
        ("PATCH returned → file on the device", times.placed),
        ("PATCH returned → current = desired", times.settled),
        ("beside: the file written bare, with fsync", times.bare),
        ("beside: one GET", times.read),
    ):
        print(f"   {label:42} {_line(values)}   ({len(values)} times)", flush=True)
    p50, p99 = quantile(times.started, 0.5), quantile(times.started, 0.99)
    return Row(
        what=f"intent (PATCH returns) → agent starts, quiet fleet ({broker})",
        target=f"p50 {P50_MS:.0f} ms, p99 {P99_MS:.0f} ms",
        ours=f"{_line(times.started)} (to the file on disk {_line(times.placed)})",
        beside=f"one GET: {_line(times.read)}; EIM polls every 10–60 s; Salt test.ping p50 135 ms at 3 minions (published)",
        ratio=f"{p50 / quantile(times.read, 0.5):.1f} GETs at p50",
        met=p50 <= P50_MS and p99 <= P99_MS,
    )


def _line(values: Sequence[float]) -> str:
    return f"p50 {quantile(values, 0.5):.1f} ms, p99 {quantile(values, 0.99):.1f} ms"


def changed(api: httpx.Client, path: Path, changes: int) -> Times:
    times = Times()
    body = {"name": NAME, "selector": "", "files": [{"path": str(path), "content": "start\n"}]}
    api.post("/configs", json=body).raise_for_status()
    wait_for(path, "start\n")
    settle(api)
    for number in range(changes + WARM_UP):
        content = f"{number} {time.time_ns()}\n"
        began = time.perf_counter()
        api.patch(f"/configs/{NAME}", json={"files": [{"path": str(path), "content": content}]}).raise_for_status()
        returned = time.perf_counter()
        wait_for(path, content)
        seen = time.perf_counter()
        settle(api)
        settled = time.perf_counter()
        if number < WARM_UP:
            continue
        times.patched.append((returned - began) * 1000)
        times.placed.append((seen - returned) * 1000)
        times.started.append((seen - returned) * 1000 - run_ms(api))
        times.settled.append((settled - returned) * 1000)
        times.bare.append(timed_write(path.with_name("bare"), content))
        began = time.perf_counter()
        api.get(f"/configs/{NAME}").raise_for_status()
        times.read.append((time.perf_counter() - began) * 1000)
    return times


def wait_for(path: Path, content: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not (path.exists() and path.read_text() == content):
        if time.monotonic() > deadline:
            raise Failed(f"{path} did not come within {LIMIT_S:.0f} s")
        time.sleep(0.0005)


def settle(api: httpx.Client) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        items = api.get("/host-configs", params={"filter": f'config = "{NAME}"'}).json()["items"]
        if items and all(i["status"]["reason"] == "Reconciled" and i["observed_generation"] == i["generation"] for i in items):
            return
        if time.monotonic() > deadline:
            raise Failed(f"not settled within {LIMIT_S:.0f} s: {items}")


def run_ms(api: httpx.Client) -> float:
    """How long the newest command ran on the device."""
    newest = api.get("/commands", params={"order_by": "created_at desc", "page_size": 1}).raise_for_status().json()["items"][0]
    began, ended = (datetime.fromisoformat(newest["result"][name]) for name in ("started_at", "finished_at"))
    return (ended - began).total_seconds() * 1000


def timed_write(path: Path, content: str) -> float:
    began = time.perf_counter()
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    options = parser.parse_args()
    say(measure(options.broker, options.changes))


if __name__ == "__main__":
    main()

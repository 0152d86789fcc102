"""From an intent to the file on the device, over a running `fleetward up` with its own agent.

Each change is a PATCH of a config's content. Printed: how long the PATCH took, from its return to the file on the device, and to
current = desired; beside them what the same machine takes for the bare work (a write with fsync and rename, an HTTP read), and the
memory of each process.

    python benchmarks/intent_latency.py [--changes 200] [--data-dir D]
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import httpx
import psutil


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("FLEETWARD_DATA_DIR", "/var/lib/fleetward")))
    options = parser.parse_args()
    url = json.loads((options.data_dir / "server.json").read_text())["url"]
    token = (options.data_dir / "admin-token").read_text().strip()
    with httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30) as api:
        measure(api, options.data_dir / "agent" / "files" / "benchmark", options.changes)
    memory(options.data_dir)


def measure(api: httpx.Client, path: Path, changes: int) -> None:
    name = "benchmark-latency"
    body = {"name": name, "selector": "", "files": [{"path": str(path), "content": "start\n"}]}
    if api.post("/configs", json=body).status_code == 409:
        api.patch(f"/configs/{name}", json={"files": body["files"]}).raise_for_status()
    wait_for(path, "start\n")
    settle(api, name)
    patched, placed, settled, bare, read = [], [], [], [], []
    for number in range(changes):
        content = f"{number} {time.time_ns()}\n"
        began = time.perf_counter()
        api.patch(f"/configs/{name}", json={"files": [{"path": str(path), "content": content}]}).raise_for_status()
        returned = time.perf_counter()
        wait_for(path, content)
        seen = time.perf_counter()
        settle(api, name)
        patched.append(returned - began)
        placed.append(seen - returned)
        settled.append(time.perf_counter() - returned)
        bare.append(timed_write(path.with_name("bare"), content))
        began = time.perf_counter()
        api.get(f"/configs/{name}").raise_for_status()
        read.append(time.perf_counter() - began)
    for label, values in (
        ("PATCH", patched),
        ("PATCH returned -> file on the device", placed),
        ("PATCH returned -> current = desired", settled),
        ("beside: the file written bare, with fsync", bare),
        ("beside: one GET", read),
    ):
        cuts = statistics.quantiles(values, n=100)
        print(f"{label:45} p50 {cuts[49] * 1000:7.1f} ms   p99 {cuts[98] * 1000:7.1f} ms   ({len(values)} times)")
    print(f"ratio to the bare write, at p50: {statistics.median(placed) / statistics.median(bare):.1f}")
    api.delete(f"/configs/{name}").raise_for_status()


def wait_for(path: Path, content: str) -> None:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text() == content):
        if time.monotonic() > deadline:
            raise SystemExit(f"{path} did not come within 30 s")
        time.sleep(0.0005)


def settle(api: httpx.Client, name: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        items = api.get("/host-configs", params={"filter": f'config = "{name}"'}).json()["items"]
        if items and all(i["status"]["reason"] == "Reconciled" and i["observed_generation"] == i["generation"] for i in items):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"not settled within 30 s: {items}")


def timed_write(path: Path, content: str) -> float:
    began = time.perf_counter()
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return time.perf_counter() - began


def memory(data_dir: Path) -> None:
    for file in sorted((data_dir / "run").glob("*.pid")):
        process = psutil.Process(int(file.read_text().split()[0]))
        whole = [process, *process.children(recursive=True)] if file.stem == "postgres" else [process]
        pss = sum(each.memory_full_info().pss for each in whole)
        print(f"memory, PSS: {file.stem:12} {pss / 2**20:6.1f} MiB")


if __name__ == "__main__":
    main()

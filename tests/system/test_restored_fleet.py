"""A backup made under a live fleet and put back days later, so to speak: what was asked since is undone, and nothing stale runs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Installation, one_more, until

COUNT = 3
BILLION = 1_000_000_000


@pytest.fixture
def own() -> Iterator[Installation]:
    """An installation of this test's own, without this machine's agent."""
    with one_more("--no-agent") as made:
        yield made


@pytest.fixture
def devices(own: Installation, tmp_path: Path) -> Iterator[Path]:
    """Simulated devices that outlive the server's stop; the directory of their simulator."""
    directory = tmp_path / "simulator"
    directory.mkdir()
    token = own.fleetward("token", "create", "--uses", str(COUNT), "--approve").strip()
    command = [sys.executable, "-m", "edge_agent.simulator", "--count", str(COUNT), "--server", own.url, "--token", token]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--state-dir", str(directory)], stdout=log, stderr=log)
    try:
        until(lambda: len(own.items("hosts", "presence = online AND current_state = onboarded")) == COUNT, 60, "the devices")
        yield directory
    finally:
        process.terminate()
        process.wait(60)


def shown(directory: Path) -> list[dict[str, Any]]:
    """What is on each device, as the simulator says."""
    command = [sys.executable, "-m", "edge_agent.simulator", "--state-dir", str(directory), "--tell", '{"op": "show", "device": "all"}']
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return found


def config(name: str, content: str) -> dict[str, Any]:
    return {"kind": "config", "name": name, "selector": "", "files": [{"path": f"/etc/fleetward.d/{name}", "content": content}]}


def settled(there: Installation, *names: str) -> bool:
    """Whether every device has these configs as wanted, and no other."""
    placed = there.items("host-configs")
    known = {item["id"]: item["name"] for item in there.items("configs")}
    current = [known.get(item["config"]) for item in placed if item["status"]["indicator"] == "idle" and item["current_state"] == "present"]
    return len(placed) == len(current) == COUNT * len(names) and set(current) == set(names)


@pytest.mark.timeout(300)
def test_a_fleet_converges_to_the_backup(own: Installation, devices: Path, tmp_path: Path) -> None:
    """Changed configs go back, new ones vanish from the devices, later discoveries arrive again, readers ahead are told `gone`."""
    own.apply(config("kept", "one\n"), config("deleted", "x\n"))
    until(lambda: settled(own, "kept", "deleted"), 40, "the first configs")
    file = tmp_path / "fleet.backup"
    own.fleetward("backup", str(file))
    digests = {item["digest"] for item in own.items("host-configs", 'config = "kept"')}

    own.apply(config("kept", "two\n"), config("new", "y\n"))
    own.fleetward("delete", "config", "deleted")
    until(lambda: settled(own, "kept", "new"), 40, "the changes since the backup")
    first = shown(devices)[0]["device"]
    tell = {"op": "add-disk", "device": first}
    command = [sys.executable, "-m", "edge_agent.simulator", "--state-dir", str(devices), "--tell", json.dumps(tell)]
    disk = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)["results"][0]["key"]
    until(lambda: own.items("components", f'key = "{disk}"'), 20, "the new disk")
    ahead = own.get("events")["next"]

    own.fleetward("restore", str(file), expect=2)  # it runs
    own.stop()
    own.fleetward("restore", str(file), expect=2)  # it holds an installation
    damaged = tmp_path / "damaged.backup"
    damaged.write_bytes(file.read_bytes()[:-40])
    own.fleetward("restore", str(damaged), "--force", expect=2)
    own.fleetward("restore", str(file), "--force")
    own.start()

    assert own.call("GET", "/api/v1/events", params={"after": ahead}).status_code == 410
    until(lambda: settled(own, "kept", "deleted"), 60, "the fleet to be as in the backup")
    assert {item["digest"] for item in own.items("host-configs", 'config = "kept"')} == digests
    wanted = {item["id"] for item in own.items("host-configs")}
    until(lambda: {id for each in shown(devices) for id in each["configs"]} == wanted, 60, "the new config's files to be gone")
    until(lambda: own.items("components", f'key = "{disk}"'), 60, "the disk to be reported again")
    until(lambda: all(each["unacked"] == 0 for each in shown(devices)), 30, "everything to be acknowledged")
    assert max(item["version"] for item in own.items("host-configs")) > BILLION

"""The three flows on a real installation: intent to file, policy from above, discovery from below (design.md section 1)."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.conftest import Installation, until


def host_configs(installation: Installation, name: str) -> list[dict[str, Any]]:
    return installation.items("host-configs", f'config = "{name}"')


def settled(installation: Installation, name: str) -> Any:
    """The config's only host-config, once it is as wanted."""
    found = host_configs(installation, name)
    return found[0] if found and found[0]["status"]["reason"] == "Reconciled" and found[0]["current_state"] == "present" else None


def commands(installation: Installation, resource: str) -> list[dict[str, Any]]:
    return installation.items("commands", f'resource.id = "{resource}"', order_by="created_at")


@pytest.fixture
def files(installation: Installation, host: dict[str, Any]) -> Path:
    """Where the local agent may place files. The configs of these tests are for this host alone, by a label."""
    installation.fleetward("label", "host", host["name"], "local=yes")
    return installation.data / "agent" / "files"


def config(name: str, path: Path, content: str = "hello\n", **more: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "selector": "labels.local = yes", "files": [{"path": str(path), "content": content}], **more}


def test_this_machine_is_what_the_system_says(host: dict[str, Any], installation: Installation) -> None:
    """Cores, memory, disks and NICs are those that /proc and /sys show."""
    assert host["cpu_threads"] == os.cpu_count()
    assert host["cpu_cores"] == psutil.cpu_count(logical=False)
    total = next(int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert host["memory_bytes"] == total
    for kind, where in (("disk", "/sys/block"), ("nic", "/sys/class/net")):
        real = {path.name for path in Path(where).iterdir() if (path / "device").exists()}
        until(partial(_shown, installation, host["id"], kind, real), 30, f"{real} to be known")


def _shown(installation: Installation, host: str, kind: str, names: set[str]) -> bool:
    """Whether these are what there is of a kind of component. Facts that are long come in several messages."""
    found = installation.items("components", f'host = "{host}" AND type = {kind} AND present = true')
    return {component["attributes"]["name"] for component in found} == names


def test_an_intent_becomes_a_file(installation: Installation, files: Path, host: dict[str, Any]) -> None:
    """Applied, it is on the device, desired = current; applied again or scanned again, no command is sent."""
    path = files / "intent" / "motd"
    assert "motd" in installation.apply(config("motd", path, on_change=f"echo ran >> {files}/ran"))
    done = until(lambda: settled(installation, "motd"), 15, "the file to be reported")
    assert path.read_text() == "hello\n"
    assert (files / "ran").read_text() == "ran\n"
    assert done["desired_state"] == done["current_state"] == "present"
    assert done["observed_generation"] == done["generation"]
    assert len(commands(installation, done["id"])) == 1
    assert "unchanged" in installation.apply(config("motd", path, on_change=f"echo ran >> {files}/ran"))
    installation.apply({"kind": "config", "name": "motd", "title": "Message of the day"})
    assert len(commands(installation, done["id"])) == 1
    assert "as it was asked for" in installation.fleetward("explain", "config", "motd")


def test_drift_is_seen_and_put_right(installation: Installation, files: Path) -> None:
    """Edited by hand, the file comes back, and the log says that it had drifted."""
    path = files / "drift"
    installation.apply(config("drift", path))
    done = until(lambda: settled(installation, "drift"), 15, "the file")
    path.write_text("edited by hand\n")
    until(lambda: path.read_text() == "hello\n", 30, "the file to be put right")
    until(lambda: settled(installation, "drift"), 15, "it to be reported")
    seen = installation.get(f"host-configs/{done['id']}/changes")["items"]
    assert any((change["resource"] or {}).get("current_state") == "drifted" for change in seen)


@pytest.fixture
def read_only(files: Path) -> Iterator[Path]:
    """A read-only mount below the agent's roots."""
    where = files / "mounted"
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "fleetward-test", str(where)], check=True)
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)  # the agent may just be looking at it


def test_a_recoverable_error_is_retried_and_succeeds(installation: Installation, read_only: Path) -> None:
    """A read-only mount: tried again, with its reason shown, until it is writable."""
    installation.apply(config("patient", read_only / "file"))

    def waiting() -> Any:
        found = host_configs(installation, "patient")
        return found[0] if found and found[0]["status"]["reason"] in ("Retrying", "ReadOnly") else None

    item = until(waiting, 20, "a retry to be announced")
    assert item["status"]["indicator"] == "error" and not item["status"]["halted"]
    said = installation.fleetward("explain", "host-config", item["id"])
    assert "ReadOnly" in said or "read-only" in said.lower()
    subprocess.run(["mount", "-o", "remount,rw", str(read_only)], check=True)
    until(lambda: settled(installation, "patient"), 60, "the retry to succeed")
    assert (read_only / "file").read_text() == "hello\n"
    installation.fleetward("delete", "config", "patient")
    until(lambda: not host_configs(installation, "patient"), 20, "the file to be taken back")


def test_an_unrecoverable_error_halts_until_somebody_steps_in(installation: Installation, files: Path) -> None:
    """Outside the roots: halted with its reason after one try; `retry` tries once more; an edit goes on."""
    outside = Path("/etc/fleetward-test-outside")
    installation.apply(config("outside", outside))

    def halted(tries: int) -> Any:
        found = host_configs(installation, "outside")
        if not found or not found[0]["status"]["halted"]:
            return None
        return found[0] if len(commands(installation, found[0]["id"])) == tries else None

    item = until(lambda: halted(1), 20, "it to halt")
    assert item["status"]["reason"] in ("Halted", "PathOutsideRoots")
    causes = installation.get(f"host-configs/{item['id']}/explain")
    assert "PathOutsideRoots" in json.dumps(causes)
    installation.fleetward("retry", "host-config", item["id"])
    until(lambda: halted(2), 20, "it to halt again")
    assert not outside.exists()
    installation.apply(config("outside", files / "inside"))
    until(lambda: settled(installation, "outside"), 20, "the edit to be brought about")
    assert (files / "inside").read_text() == "hello\n"


def test_leaving_the_selector_undoes(installation: Installation, files: Path, host: dict[str, Any]) -> None:
    """A file that was there before is restored, with its content and mode, and the host-config goes."""
    path = files / "kept"
    files.mkdir(parents=True, exist_ok=True)
    path.write_text("the owner's\n")
    path.chmod(0o600)
    installation.fleetward("label", "host", host["name"], "wants=kept")
    installation.apply(config("kept", path, selector="labels.wants = kept"))
    until(lambda: settled(installation, "kept"), 15, "the file")
    assert path.read_text() == "hello\n"
    installation.fleetward("label", "host", host["name"], "wants-")
    until(lambda: not host_configs(installation, "kept"), 20, "the host-config to go")
    assert path.read_text() == "the owner's\n" and path.stat().st_mode & 0o777 == 0o600


def test_templates_and_priorities(installation: Installation, files: Path, host: dict[str, Any]) -> None:
    """A template sees host and labels; of two configs with one path the higher priority wins, and the loser shows it."""
    path = files / "shared"
    low = {"path": str(path), "content": "low"}
    other = {"path": str(files / "own"), "template": "{{ host.name }}/{{ labels.role }}"}
    installation.fleetward("label", "host", host["name"], "role=press")
    installation.apply({"kind": "config", "name": "low", "selector": "labels.local = yes", "priority": 1, "files": [low, other]})
    installation.apply(config("high", path, "high", priority=2))
    until(lambda: settled(installation, "high") and settled(installation, "low"), 20, "both")
    until(lambda: path.read_text() == "high", 10, "the winner's content")
    assert (files / "own").read_text() == f"{host['name']}/press"
    [loser] = host_configs(installation, "low")
    assert [entry["path"] for entry in loser["shadowed"]] == [str(path)]
    installation.fleetward("delete", "config", "high")
    until(lambda: path.read_text() == "low", 20, "the loser to take over")


def said(log: Path, word: str) -> bool:
    return word in log.read_text()


def test_each_process_says_its_vitals_when_asked(installation: Installation) -> None:
    """SIGUSR1, which ends a process that does not expect it, is answered by all four with a line in the log."""
    for role in ("broker", "inventory", "managers", "web"):
        log, pid = installation.data / "log" / f"{role}.log", installation.pid(role)
        os.kill(pid, signal.SIGUSR1)
        until(partial(said, log, "vitals"), 5, f"{role}'s vitals")
        assert installation.pid(role) == pid

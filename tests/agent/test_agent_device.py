"""Whole agents, as processes, against Mosquitto: from enrollment to files on disk, through cuts, kills and full disks."""

import base64
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.messages import CommandState, ResourceRef
from edge_agent import identity, runtime
from edge_agent.appliers.config import digest_of
from edge_agent.settings import Settings
from tests.agent.conftest import ROOT, AgentProcess
from tests.agent.fleet import Fleet, eventually
from tests.agent.rig import Server

NewAgent = Callable[..., AgentProcess]


def config(path: Path, content: str, on_change: Any = None) -> dict[str, Any]:
    raw = content.encode()
    files = [{"path": str(path), "content": base64.b64encode(raw).decode(), "mode": "0644", "owner": None, "group": None}]
    return {"config": "motd", "digest": digest_of([(str(path), "0644", None, None, raw)]), "files": files, "on_change": on_change}


def online(fleet: Fleet, agent: AgentProcess, *prefix: str) -> None:
    device = agent.enroll(fleet)
    agent.start(*prefix)
    eventually(lambda: _all_told(fleet.server(device)), "online with all sections")


def _all_told(server: Server) -> bool:
    """Each section as the last manifest has it: what changes while the first look is being sent comes behind."""
    return server.online and len(server.sections) == 16 and server.lacking() == ()


def final(fleet: Fleet, agent: AgentProcess, command: str) -> Any:
    return eventually(lambda: fleet.server(agent.device).final(command), f"{command} ends")


def resource(id: str = "hcfg-1", generation: int = 1) -> ResourceRef:
    return ResourceRef(kind="host-config", id=id, generation=generation)


def test_an_enrolled_agent_reports_this_machine(fleet: Fleet, new_agent: NewAgent) -> None:
    """Presence, all sections with their hashes, a heartbeat-ready session; SIGTERM ends it with a goodbye."""
    agent = new_agent()
    online(fleet, agent)
    server = fleet.server(agent.device)
    assert server.poisoned == []
    assert agent.stop() == 0
    eventually(lambda: not server.online, "offline by its own word")
    assert server.presences[-1].online is False


def test_the_state_directory_holds_what_the_contract_says(fleet: Fleet, new_agent: NewAgent) -> None:
    """Key for its owner alone, identity with its members, a default agent.toml."""
    agent = new_agent()
    (agent.state_dir / "agent.toml").unlink()
    agent.enroll(fleet)
    names = {path.name for path in agent.state_dir.iterdir()}
    assert {"device.key", "device.crt", "ca.crt", "identity.json", "agent.toml"} <= names
    assert stat.S_IMODE((agent.state_dir / "device.key").stat().st_mode) == 0o600
    identity = json.loads((agent.state_dir / "identity.json").read_text())
    assert set(identity) == {"device", "prefix", "command_root", "channel_key", "broker", "server"}
    assert "roots" in (agent.state_dir / "agent.toml").read_text()


def test_intent_to_file_and_drift_back(fleet: Fleet, new_agent: NewAgent, tmp_path: Path) -> None:
    """A command places the file; an edit by hand is reported within seconds; the same command again puts it right."""
    agent = new_agent()
    online(fleet, agent)
    path = tmp_path / "files" / "etc" / "motd"
    fleet.order(agent.device, "cmd-1", args=config(path, "hello\n", f"echo changed >> {tmp_path}/log"), resource=resource())
    assert final(fleet, agent, "cmd-1").state is CommandState.SUCCEEDED
    server = fleet.server(agent.device)
    assert path.read_text() == "hello\n" and server.items["hcfg-1"].state == "present"
    path.write_text("edited\n")
    drifted = eventually(lambda: server.items["hcfg-1"].state == "drifted" and server.items["hcfg-1"], "drift is seen")
    assert str(path) in drifted.message and drifted.reason == "Drifted"
    fleet.order(agent.device, "cmd-2", args=config(path, "hello\n", f"echo changed >> {tmp_path}/log"), resource=resource())
    assert final(fleet, agent, "cmd-2").state is CommandState.SUCCEEDED
    eventually(lambda: server.items["hcfg-1"].state == "present", "put right")
    assert path.read_text() == "hello\n"
    assert (tmp_path / "log").read_text() == "changed\nchanged\n"
    fleet.order(agent.device, "cmd-3", "config.remove", args={"config": "motd"}, resource=resource(generation=2))
    final(fleet, agent, "cmd-3")
    eventually(lambda: "hcfg-1" not in server.items and not path.exists(), "taken back")


def test_a_path_outside_the_roots_fails_with_the_contracts_code(fleet: Fleet, new_agent: NewAgent) -> None:
    """Not recoverable, and the text names the roots."""
    agent = new_agent()
    online(fleet, agent)
    fleet.order(agent.device, "cmd-1", args=config(Path("/etc/motd.fleetward-test"), "x"), resource=resource())
    result = final(fleet, agent, "cmd-1")
    assert (result.state, result.error.code, result.error.recoverable) == (CommandState.FAILED, "PathOutsideRoots", False)


def test_a_maintenance_lock_vetoes_at_once(fleet: Fleet, new_agent: NewAgent, tmp_path: Path) -> None:
    """Saved while the agent runs, it is reported within seconds and refuses what comes; doctor shows it; taken away, work goes on."""
    agent = new_agent()
    online(fleet, agent)
    settings_file = agent.state_dir / "agent.toml"
    text = settings_file.read_text()
    known = fleet.server(agent.device).sections["agent"]
    path = tmp_path / "files" / "motd"
    settings_file.write_text(text + 'maintenance = "rewiring; Ana"\n')
    fleet.order(agent.device, "cmd-1", args=config(path, "hello\n"), resource=resource())
    result = final(fleet, agent, "cmd-1")
    assert (result.state, result.error.code, result.error.recoverable) == (CommandState.REJECTED, "PolicyRefused", False)
    assert "rewiring; Ana" in result.error.message and not path.exists()
    eventually(lambda: fleet.server(agent.device).sections["agent"] != known, "the lock is reported")
    said = subprocess.run(agent.command("doctor"), cwd=ROOT, capture_output=True, text=True)
    assert "LOCKED for maintenance: rewiring; Ana" in said.stdout
    settings_file.write_text(text)
    eventually(lambda: fleet.server(agent.device).sections["agent"] == known, "so is that it has been taken away")
    fleet.order(agent.device, "cmd-2", args=config(path, "hello\n"), resource=resource())
    assert final(fleet, agent, "cmd-2").state is CommandState.SUCCEEDED


def test_nothing_is_lost_when_broker_and_agent_are_killed(fleet: Fleet, new_agent: NewAgent, tmp_path: Path) -> None:
    """The broker forgets everything, the agent dies in a command: it comes back by itself, runs it again, and the server hears of it."""
    agent = new_agent()
    online(fleet, agent)
    hook = f"echo run >> {tmp_path}/runs; test $(wc -l < {tmp_path}/runs) -gt 1 || sleep 60"
    fleet.order(agent.device, "cmd-1", args=config(tmp_path / "files" / "f", "x", hook), resource=resource())
    eventually(lambda: (tmp_path / "runs").exists() and (tmp_path / "runs").read_text() == "run\n", "on_change runs")
    agent.kill()
    fleet.broker.kill()
    agent.start()
    eventually(lambda: (tmp_path / "runs").read_text() == "run\nrun\n", "it runs again, though there is no broker")
    fleet.broker.start()
    result = final(fleet, agent, "cmd-1")
    assert result.state is CommandState.SUCCEEDED
    assert fleet.server(agent.device).poisoned == []


def test_while_the_server_is_silent_the_agent_keeps_and_repeats(fleet: Fleet, new_agent: NewAgent) -> None:
    """No acknowledgement: the facts are sent again after a restart of the agent, with the numbers that they had."""
    fleet.silent = {"up/facts"}
    agent = new_agent()
    device = agent.enroll(fleet)
    agent.start()
    eventually(lambda: fleet.server(device).online, "online")
    agent.kill()
    fleet.silent = set()
    agent.start()
    eventually(lambda: len(fleet.server(device).sections) == 16, "facts arrive")
    assert fleet.server(device).poisoned == []


def test_a_stranger_on_the_state_directory_is_refused(fleet: Fleet, new_agent: NewAgent) -> None:
    """Two agents on one journal would give one number twice."""
    agent = new_agent()
    online(fleet, agent)
    done = subprocess.run(agent.command("run"), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "another agent runs" in done.stderr


def test_a_state_directory_that_fills_up_is_said_and_healed(
    fleet: Fleet, new_agent: NewAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal can't be written: the agent goes on, says so, fails commands recoverably; with room again all is well."""
    monkeypatch.setattr(runtime, "MEND_S", 0.5)
    agent = new_agent()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(agent.state_dir)], check=True)
    device = agent.enroll(fleet)
    started: list[runtime.Runtime] = []

    def run() -> None:
        started.append(runtime.Runtime(identity.load(agent.state_dir), Settings(roots=(tmp_path / "files",))))
        started[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        server = fleet.server(device)
        eventually(lambda: server.online and len(server.sections) == 16, "online")
        with pytest.raises(OSError), (agent.state_dir / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        for n in range(40):
            fleet.order(device, f"cmd-{n}", "facts.refresh", args={"sections": ["cpu"]})
        eventually(lambda: any(log.type == "journal-failed" for log in server.logs.values()), "it says so")
        fleet.order(device, "cmd-x", args=config(tmp_path / "files" / "f", "x"), resource=resource())
        result = final(fleet, agent, "cmd-x")
        assert result.error is not None and result.error.code == "NoSpace" and result.error.recoverable
        (agent.state_dir / "filler").unlink()
        eventually(lambda: any(log.type == "journal-mended" for log in server.logs.values()), "it heals by itself")
        fleet.order(device, "cmd-y", args=config(tmp_path / "files" / "f", "x"), resource=resource())
        assert final(fleet, agent, "cmd-y").state is CommandState.SUCCEEDED
    finally:
        started[0].stop()
        thread.join(10)
        subprocess.run(["umount", "-l", str(agent.state_dir)], check=True)


def test_a_wrong_local_clock_neither_blocks_nor_revives(fleet: Fleet, new_agent: NewAgent, tmp_path: Path) -> None:
    """The server lives a day ahead of the agent's clock: its commands start; what it lets lapse does not."""
    fleet.skew_s = 86000.0
    agent = new_agent()
    online(fleet, agent)
    fleet.order(agent.device, "cmd-1", args=config(tmp_path / "files" / "f", "x"), resource=resource())
    assert final(fleet, agent, "cmd-1").state is CommandState.SUCCEEDED
    order = fleet.server(agent.device).authority.order("cmd-2", fleet.fence(), at=fleet.now() - 7200)
    fleet.send_order(agent.device, order)
    fleet.order(agent.device, "cmd-3", args=config(tmp_path / "files" / "f", "y"), resource=resource())
    final(fleet, agent, "cmd-3")
    assert [state for state in fleet.server(agent.device).states("cmd-2") if state in ("accepted", "running", "succeeded")] == []


def test_a_change_of_the_machine_is_reported_within_seconds(fleet: Fleet, new_agent: NewAgent) -> None:
    """Another host name, in a namespace of the agent's own: seen by watching, and only its section is sent."""
    agent = new_agent()
    online(fleet, agent, "unshare", "--uts")
    server = fleet.server(agent.device)
    before = dict(server.sections)
    assert agent.process is not None
    subprocess.run(["nsenter", "--target", str(agent.process.pid), "--uts", "hostname", "renamed"], check=True)
    eventually(lambda: server.sections["network"] != before["network"], "the change is reported")
    assert {name for name in before if server.sections[name] != before[name]} == {"network"}


def test_importing_the_agent_loads_nothing_of_the_server() -> None:
    """Neither packages of the server nor X.509 code, whatever parents' __init__ import; `run`'s own modules included."""
    script = """
import sys
import edge_agent, edge_agent.__main__, edge_agent.runtime, edge_agent.doctor, edge_agent.install
forbidden = {"quart", "tortoise", "asyncpg", "aiomqtt", "amqtt", "cryptography", "inventory", "managers", "web", "fleetward"}
print(",".join(sorted(forbidden & {name.split(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == ""

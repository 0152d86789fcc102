"""The simulator: many real decisions over invented hosts, changeable while it runs, resuming after a restart."""

import json
import select
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.messages import CommandState, ResourceRef
from edge_agent import enroll, identity
from edge_agent.enroll import Answered, Evidence
from edge_agent.simulated import fleet as simulated
from edge_agent.simulated.control import OPERATIONS, tell
from edge_agent.simulated.enrollment import Enrolled
from edge_agent.simulated.hardware import Hardware
from tests.agent.conftest import ROOT
from tests.agent.fleet import Fleet, eventually
from tests.agent.test_agent_device import config
from tests.waiting import until

COUNT = 12


class Simulator:
    def __init__(self, fleet: Fleet, state: Path) -> None:
        self.fleet = fleet
        self.state = state
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--count", str(COUNT), "--server", self.fleet.url, "--token", "good-token", "--state-dir", str(self.state), "--seed", "7"]
        self.process = subprocess.Popen([sys.executable, "-m", "edge_agent.simulator", *words], cwd=ROOT, stdout=subprocess.DEVNULL)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def tell(self, **request: Any) -> Any:
        answer = json.loads(tell(self.state / "control.sock", json.dumps(request)))
        assert answer["ok"], answer
        return answer

    def device(self, index: int) -> str:
        return str(self.tell(op="show", device=index)["results"][0]["device"])

    def all_in(self) -> bool:
        servers = list(self.fleet.devices.values())
        return len(servers) == COUNT and all(s.online and len(s.sections) == 15 and not s.lacking() for s in servers)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One for all tests here; each leaves every device online."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    fleet.start()
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def simulator(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(fleet, tmp_path_factory.mktemp("simulator"))
    simulator.start()
    eventually(simulator.all_in, "all online")
    yield simulator
    if simulator.process is not None and simulator.process.poll() is None:
        simulator.process.kill()
        simulator.process.wait()


def test_a_fleet_lives_through_changes_commands_and_a_restart(simulator: Simulator, fleet: Fleet) -> None:
    """Disks come and go, configs are applied and drift, devices vanish, reboot and resume with the same identities."""
    one, two = simulator.device(1), simulator.device(2)
    before = dict(fleet.server(one).sections)
    simulator.tell(op="add-disk", device=1)
    eventually(lambda: fleet.server(one).sections["storage"] != before["storage"], "a new disk")
    simulator.tell(op="remove-nic", device=one)
    eventually(lambda: fleet.server(one).sections["network"] != before["network"], "a NIC gone")

    resource = ResourceRef(kind="host-config", id="hcfg-1", generation=1)
    simulator.tell(op="fail", device=2, code="ReadOnly", times=1)
    fleet.order(two, "cmd-1", args=config(Path("/etc/motd"), "x"), resource=resource)
    result = eventually(lambda: fleet.server(two).final("cmd-1"), "it fails as told")
    assert result.error is not None and result.error.code == "ReadOnly"
    fleet.order(two, "cmd-2", args=config(Path("/etc/motd"), "x"), resource=resource)
    eventually(lambda: fleet.server(two).final("cmd-2"), "then it works")
    assert fleet.server(two).items["hcfg-1"].state == "present"
    assert fleet.server(two).final("cmd-2").state is CommandState.SUCCEEDED  # type: ignore[union-attr]
    simulator.tell(op="drift", device=2)
    eventually(lambda: fleet.server(two).items["hcfg-1"].state == "drifted", "drift")

    simulator.tell(op="offline", device=[1, 2])
    eventually(lambda: not fleet.server(one).online and not fleet.server(two).online, "their Wills")
    simulator.tell(op="online", device=[1, 2])
    boots = {presence.boot_id for presence in fleet.server(one).presences}
    simulator.tell(op="reboot", device=1)
    eventually(lambda: fleet.server(one).online and fleet.server(one).presences[-1].boot_id not in boots, "another boot")

    assert simulator.stop() == 0
    eventually(lambda: not any(s.online for s in fleet.devices.values()), "goodbye of all")
    requests = len(fleet.requests)
    simulator.start()
    eventually(lambda: all(s.online for s in fleet.devices.values()), "back again")
    assert len(fleet.requests) == requests and simulator.device(1) == one


def test_a_wrong_request_is_answered_with_what_is_wrong(simulator: Simulator) -> None:
    """The control socket never dies of its input."""
    path = simulator.state / "control.sock"
    for request, why in (
        ("nonsense", ""),
        ('{"op": "fly", "device": 1}', "op"),
        ('{"op": "show", "device": 99}', "device"),
        ("[]", "object"),
    ):
        answer = json.loads(tell(path, request))
        assert answer["ok"] is False and why in answer["error"]
    assert simulator.tell(op="stats")["connected"] == COUNT


def test_a_broker_restart_brings_all_back(simulator: Simulator, fleet: Fleet) -> None:
    """Each with a session of its own, by itself."""
    sessions = {device: server.session for device, server in fleet.devices.items()}
    fleet.broker.kill()
    fleet.broker.start()
    eventually(lambda: all(s.online and s.session != sessions[d] for d, s in fleet.devices.items()), "all reconnected", 30)


def test_hardware_follows_from_seed_and_number_alone() -> None:
    """The same device after a restart; another one for another seed; no key twice in a fleet."""
    assert Hardware(1, 5).sections() == Hardware(1, 5).sections() != Hardware(2, 5).sections()
    keys = [each["key"] for n in range(300) for each in (*Hardware(1, n).disks(), *Hardware(1, n).nics())]
    assert len(set(keys)) == len(keys)
    assert len({Hardware(1, n).sections()["cpu"]["model"] for n in range(50)}) > 3


def test_every_operation_is_documented() -> None:
    """docs/agent.md lists what the control socket understands."""
    text = (ROOT / "docs" / "agent.md").read_text()
    for operation in OPERATIONS:
        assert f"`{operation}`" in text, operation


def test_a_signal_that_nobody_has_answered_yet_does_not_wait() -> None:
    """Its handler runs in the thread that would have to answer; of very many a few are enough."""
    fleet = simulated.Fleet(1)
    for _ in range(10_000):
        fleet.stop()
    fleet.run()


class Reset:
    """A TLS context whose connections the broker resets before TLS begins: it listens, and is killed with them in its queue."""

    def __init__(self, context: ssl.SSLContext, broker: socket.socket) -> None:
        self._context, self._broker = context, broker

    def wrap_socket(self, sock: socket.socket, **how: Any) -> ssl.SSLSocket:
        accepted, _ = self._broker.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        arrived = select.poll()
        arrived.register(sock, select.POLLHUP)
        assert arrived.poll(10_000)
        return self._context.wrap_socket(sock, **how)


def test_a_connection_that_is_reset_before_tls_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device tries again later, and the others go on."""
    offline, evidence = Fleet(tmp_path / "fleet"), Evidence("SN1", "uuid-1", (), "box")
    state = tmp_path / "state"
    enroll.enroll(state, lambda body: Answered(*offline.enroll(body)), "good-token", evidence, "http://127.0.0.1:1")
    pem = tmp_path / "0.pem"
    pem.write_bytes((state / "device.key").read_bytes() + (state / "device.crt").read_bytes())
    fleet, made = simulated.Fleet(1), simulated.Fleet._tls
    with socket.create_server(("127.0.0.1", 0)) as broker:
        monkeypatch.setattr(simulated.Fleet, "_tls", lambda self, member: Reset(made(self, member), broker))
        me = replace(identity.load(state), host="127.0.0.1", port=broker.getsockname()[1])
        fleet.arrive(Enrolled(0, me, pem))

        def failed() -> bool:
            fleet.turn()
            return any(member.state.link.failures for member in fleet.members.values())

        until(failed, 10, "the device has noticed")
    fleet.stop()
    fleet.run()

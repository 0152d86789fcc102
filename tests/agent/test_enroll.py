"""Enrollment: the key survives what the network does, the answer is checked, and each failure is one line that says why."""

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent import enroll, identity
from edge_agent.enroll import Answered, EnrollFailed, Evidence, Unreachable, asker
from edge_agent.session import tls_context
from tests.agent.conftest import ROOT, AgentProcess
from tests.agent.fleet import Ca, Fleet, _handler

EVIDENCE = Evidence("SN1", "uuid-1", ("02:00:00:00:00:01",), "box")


@pytest.fixture
def offline(tmp_path: Path) -> Fleet:
    """A fleet of which only the answers are used; nothing runs."""
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def https(offline: Fleet, tmp_path: Path) -> Iterator[str]:
    """The enrollment endpoint over TLS, with a certificate by the fleet's CA, which it shows."""
    certificate, key = offline.ca.issue(tmp_path, "web", "web", server=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(offline))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def direct(fleet: Fleet) -> enroll.Ask:
    return lambda body: Answered(*fleet.enroll(body))


def run(fleet: Fleet, state: Path, token: str = "good-token", **changes: Any) -> str:
    def ask(body: dict[str, Any]) -> Answered:
        status, answer = fleet.enroll(body)
        return Answered(status, answer | changes if status == 200 else answer)

    return enroll.enroll(state, ask, token, EVIDENCE, "http://127.0.0.1:1")


def test_a_lost_answer_burns_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """The key is on disk before the request, so the next attempt asks with the same one and gets the same answer."""
    fleet.lose_answers = 2
    state, ask = tmp_path / "state", asker(fleet.url, None)
    for _ in range(2):
        with pytest.raises(EnrollFailed, match="can't be reached"):
            enroll.enroll(state, ask, "good-token", EVIDENCE, fleet.url)
        assert not (state / "identity.json").exists()
    device = enroll.enroll(state, ask, "good-token", EVIDENCE, fleet.url)
    assert list(fleet.devices) == [device] and len(fleet.requests) == 3
    keys = {x509.load_pem_x509_csr(r["csr"].encode()).public_key().public_numbers() for r in fleet.requests}  # type: ignore[union-attr]
    assert len(keys) == 1


def test_it_sends_what_the_contract_says(offline: Fleet, tmp_path: Path) -> None:
    """Token, a CSR for a P-256 key, evidence and version."""
    run(offline, tmp_path / "state")
    (request,) = offline.requests
    assert set(request) == {"token", "csr", "evidence", "agent_version"}
    assert request["evidence"] == {"serial": "SN1", "uuid": "uuid-1", "macs": ["02:00:00:00:00:01"], "hostname": "box"}
    public = x509.load_pem_x509_csr(request["csr"].encode()).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1"


def test_it_waits_for_approval(offline: Fleet, tmp_path: Path) -> None:
    """202 means asking again after retry_after seconds, until a person has approved."""
    offline.approve = False
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        offline.approve = len(waits) == 3

    enroll.enroll(tmp_path / "state", direct(offline), "good-token", EVIDENCE, "http://127.0.0.1:1", wait=wait)
    assert waits == [1.0, 1.0, 1.0]
    assert len(offline.devices) == 1


def test_it_says_what_a_person_compares(offline: Fleet, tmp_path: Path) -> None:
    """The host that waits, and the key's fingerprint as the server shows it, once; nothing of the token."""
    offline.approve = False
    said: list[str] = []

    def wait(seconds: float) -> None:
        offline.approve = len(offline.requests) == 2

    enroll.enroll(tmp_path / "state", direct(offline), "good-token", EVIDENCE, "http://127.0.0.1:1", wait=wait, say=said.append)
    key = enroll.load_or_make_key(tmp_path / "state" / "device.key").public_key()
    [line] = said
    assert "waiting for approval as req-" in line and enroll.fingerprint(key) in line and "good-token" not in line


def test_what_passes_does_not_end_the_waiting(offline: Fleet, tmp_path: Path) -> None:
    """Once it waits: a server that is restarted, or has too much to do. Before that, and where it is refused, it says so at once."""
    answers: list[int | Exception] = [Unreachable("gone"), 202, Unreachable("gone"), 503, 429, 202, 200]

    def ask(body: dict[str, Any]) -> Answered:
        match answers.pop(0):
            case 200:
                return Answered(*offline.enroll(body))
            case int(status):
                return Answered(status, {"request": "host-1", "retry_after": 1})
            case error:
                raise error

    def run_once(wait: Any = lambda _: None) -> str:
        return enroll.enroll(tmp_path / "state", ask, "good-token", EVIDENCE, "http://127.0.0.1:1", wait=wait)

    with pytest.raises(Unreachable):
        run_once()
    assert run_once().startswith("host-") and answers == []
    answers += [202, 403]
    with pytest.raises(EnrollFailed, match=r"refused \(403\)"):
        run_once()


def test_it_need_not_wait(fleet: Fleet, new_agent: Any) -> None:
    """With --no-wait: exit 3, one line, nothing on standard output; the same command goes on later."""
    fleet.approve = False
    agent: AgentProcess = new_agent()
    command = agent.command("enroll", "--server", fleet.url, "--token", "good-token", "--no-wait")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1) and "waiting for approval" in done.stderr
    fleet.approve = True
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.startswith("host-")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"certificate": Ca().pem}, "can't be used"),
        ({"device": "host-other"}, "prefix"),
        ({"channel_key": "00"}, "channel_key"),
        ({"command_root": "!"}, "command_root"),
        ({"broker": {"host": "x"}}, "broker.port"),
        ({"ca": "nonsense"}, "can't be used"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(offline: Fleet, tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    """Nothing of it is stored, and the text names the member."""
    with pytest.raises(EnrollFailed, match=why):
        run(offline, tmp_path / "state", **changes)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["device.key"]


def test_a_certificate_for_another_key_is_refused(offline: Fleet, tmp_path: Path) -> None:
    """Whoever answers must have signed our key."""
    run(offline, tmp_path / "one")
    other = next(iter(offline.answers.values()))["certificate"]
    with pytest.raises(EnrollFailed, match="another key"):
        run(offline, tmp_path / "two", certificate=other)


def test_plain_http_is_for_loopback_only() -> None:
    """The token and the channel key must not cross a network in the clear."""
    for server in ("http://fleet.example", "http://192.0.2.1:8080", "ftp://127.0.0.1", "fleet.example"):
        with pytest.raises(EnrollFailed):
            asker(server, None)
    asker("http://127.0.0.1:8080", None)
    asker("http://[::1]:8080", None)
    asker("http://localhost:8080", None)


def test_the_pinned_ca_is_trusted_and_no_other(https: str, offline: Fleet, tmp_path: Path) -> None:
    """With the right fingerprint it works; without, or with another, nothing is sent."""
    for fingerprint, why in ((None, "not trusted"), ("00" * 32, "does not show the CA")):
        with pytest.raises(EnrollFailed, match=why):
            enroll.enroll(tmp_path / "state", asker(https, fingerprint), "good-token", EVIDENCE, https)
    assert offline.requests == []
    colons = ":".join(offline.ca.fingerprint.upper()[n : n + 2] for n in range(0, 64, 2))
    for fingerprint in (offline.ca.fingerprint, colons):
        assert enroll.enroll(tmp_path / "state", asker(https, fingerprint), "good-token", EVIDENCE, https).startswith("host-")


def test_over_plain_http_the_answer_must_bring_the_pinned_ca(fleet: Fleet, tmp_path: Path) -> None:
    """There is no TLS to see it by: with another CA in the answer nothing is stored."""
    with pytest.raises(EnrollFailed, match="does not have the CA"):
        enroll.enroll(tmp_path / "state", asker(fleet.url, "00" * 32), "good-token", EVIDENCE, fleet.url)
    assert not (tmp_path / "state" / "identity.json").exists()
    assert enroll.enroll(tmp_path / "state", asker(fleet.url, fleet.ca.fingerprint), "good-token", EVIDENCE, fleet.url).startswith("host-")


def test_a_server_or_a_fingerprint_that_is_none_is_said() -> None:
    """Before anything is asked of anybody."""
    for server in ("http://127.0.0.1:many", "http://[::1", "https://fleet.example:99999"):
        with pytest.raises(EnrollFailed, match="is no server"):
            asker(server, None)
    with pytest.raises(EnrollFailed, match="64 hex digits"):
        asker("https://fleet.example", "00")


def test_the_broker_may_be_elsewhere_than_the_server_says(offline: Fleet, tmp_path: Path) -> None:
    """As on the server's own machine, which may not know the name that it is advertised by."""
    enroll.enroll(tmp_path, direct(offline), "good-token", EVIDENCE, "http://127.0.0.1:1", broker=identity.address("[::1]:1883"))
    found = identity.load(tmp_path)
    assert (found.host, found.port) == ("::1", 1883)
    for text in ("localhost", "localhost:", ":1883", "localhost:many", "user@localhost:1883", "[::1:1883", "localhost:1883/x"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            identity.address(text)


def test_the_command_says_in_one_line_why_it_failed(fleet: Fleet, new_agent: Any, tmp_path: Path) -> None:
    """A bad token, no server: not 0, nothing on stdout, one line on stderr."""
    agent: AgentProcess = new_agent()
    for server, token, why in ((fleet.url, "bad-token", "403"), ("http://127.0.0.1:1", "good-token", "can't be reached")):
        done = subprocess.run(agent.command("enroll", "--server", server, "--token", token), cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr and done.stderr.count("\n") == 1 and token not in done.stderr


def test_the_token_may_stand_in_the_environment(fleet: Fleet, new_agent: Any) -> None:
    """A command line is seen in every process list; without either, the usage says so."""
    agent: AgentProcess = new_agent()
    command = agent.command("enroll", "--server", fleet.url)
    environment = os.environ | {"FLEETWARD_ENROLLMENT_TOKEN": "good-token"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("host-"), done.stderr
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).returncode == 2


def test_run_without_enrollment_says_what_to_do(tmp_path: Path) -> None:
    """Exit 2, and the command to run."""
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent", "run", "--state-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "fleetward-agent enroll" in done.stderr


def test_a_damaged_identity_names_the_file(offline: Fleet, tmp_path: Path) -> None:
    """What was stored is checked as the answer was."""
    run(offline, tmp_path)
    path = tmp_path / "identity.json"
    path.write_text(path.read_text().replace("command_root", "command_toor"))
    with pytest.raises(identity.NotEnrolled, match=r"identity\.json.*command_root"):
        identity.load(tmp_path)
    (tmp_path / "device.crt").unlink()
    path.write_text(path.read_text().replace("command_toor", "command_root"))
    with pytest.raises(identity.NotEnrolled, match=r"device\.crt"):
        identity.load(tmp_path)


@pytest.mark.parametrize("file", ["device.key", "device.crt", "ca.crt"])
def test_a_damaged_key_or_certificate_is_named(offline: Fleet, tmp_path: Path, file: str) -> None:
    """OpenSSL says the same of all of them; we say which one it is, and what to do."""
    run(offline, tmp_path)
    me = identity.load(tmp_path)
    tls_context(me)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match=rf"{file} can't be used.*enroll again"):
        tls_context(me)


def test_doctor_says_what_is_wrong(fleet: Fleet, new_agent: Any) -> None:
    """All good when it is; a dead broker is named."""
    agent: AgentProcess = new_agent()
    agent.enroll(fleet)
    good = subprocess.run(agent.command("doctor"), cwd=ROOT, capture_output=True, text=True)
    assert good.returncode == 0 and good.stdout.count("ok  ") == 6, good.stdout
    fleet.broker.stop()
    bad = subprocess.run(agent.command("doctor"), cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 1 and "FAIL broker: OSError: 127.0.0.1:" in bad.stdout and "can't be reached: Connection refused" in bad.stdout

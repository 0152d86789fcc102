"""X.509 on the device: what is asked for, what is taken, and that a crash at any point leaves a key with its certificate."""

import fcntl
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from broker.messages import (
    CertificateAnswer,
    CertificateRequest,
    Denial,
    Keys,
    decode,
    encode,
    from_json,
)
from edge_agent import atomic, certificates, doctor, enroll, identity, trust
from edge_agent.certificates import RenewalError
from edge_agent.enroll import Answered, Evidence
from edge_agent.keeper import Keeper
from edge_agent.session import tls_context
from edge_agent.signals import Appeal, CertificateJob, Input, Inspect, Inspected, Install, Prepare, Prepared, RenewalFailed, Renewed
from edge_agent.simulated.certificates import Clerk, Errand
from edge_agent.trust import Ring
from inventory.certificates import proves
from tests.agent.conftest import ROOT
from tests.agent.fleet import Ca, Fleet, eventually


@pytest.fixture
def offline(tmp_path: Path) -> Fleet:
    """A fleet of which only the answers are used; nothing runs."""
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def state(offline: Fleet, tmp_path: Path) -> Path:
    """An enrolled device's state directory."""
    evidence = Evidence("SN1", "uuid-1", (), "box")
    enroll.enroll(tmp_path / "state", lambda body: Answered(*offline.enroll(body)), "good-token", evidence, "http://127.0.0.1:1")
    return tmp_path / "state"


def asked(state: Path) -> CertificateRequest:
    return from_json(CertificateRequest, certificates.prepare(state)["request"])


def certified(fleet: Fleet, request: CertificateRequest, name: str) -> str:
    return fleet.ca.sign(x509.load_pem_x509_csr(request.csr.encode()).public_key(), name)


def fits(state: Path) -> str:
    """The serial number of a certificate that its key and CA fit to."""
    me = identity.load(state)
    tls_context(me)
    return str(certificates.inspect(state)["held"]["serial"])


def test_what_is_asked_for(offline: Fleet, state: Path) -> None:
    """A new key's request, the certificate that it replaces, and a proof by that one's key; again the same key."""
    request = asked(state)
    present = x509.load_pem_x509_certificate((state / "device.crt").read_bytes())
    assert request.replaces == f"{present.serial_number:x}"
    csr = x509.load_pem_x509_csr(request.csr.encode())
    assert csr.is_signature_valid and csr.public_key() != present.public_key()
    assert proves((state / "device.crt").read_text(), request.proof, request.csr)
    assert x509.load_pem_x509_csr(asked(state).csr.encode()).public_key() == csr.public_key()
    assert (state / "device.key.next").stat().st_mode & 0o777 == 0o600


def test_the_next_certificate_comes_with_its_key(offline: Fleet, state: Path) -> None:
    """Both are in their places, nothing is left beside them, and TLS takes them."""
    before, key = fits(state), (state / "device.key").read_bytes()
    device = identity.load(state).device
    certificates.install(state, certified(offline, asked(state), device))
    assert fits(state) != before and (state / "device.key").read_bytes() != key
    assert not list(state.glob("*.next")) + list(state.glob("*.tmp"))


@pytest.mark.parametrize("fault", ["another key", "another device", "another CA", "nonsense", "nothing asked"])
def test_what_does_not_fit_is_refused(offline: Fleet, state: Path, fault: str) -> None:
    """And nothing has changed: the present one goes on, the next key waits."""
    before, device = fits(state), identity.load(state).device
    request = asked(state)
    made: dict[str, Callable[[], str]] = {
        "another key": lambda: offline.ca.sign(certificates.new_key().public_key(), device),
        "another device": lambda: certified(offline, request, "host-other"),
        "another CA": lambda: Ca().sign(x509.load_pem_x509_csr(request.csr.encode()).public_key(), device),
        "nonsense": lambda: "-----BEGIN CERTIFICATE-----\nMIH=\n-----END CERTIFICATE-----\n",
        "nothing asked": lambda: certified(offline, request, device),
    }
    certificate = made[fault]()
    if fault == "nothing asked":
        (state / "device.key.next").unlink()
    with pytest.raises(RenewalError):
        certificates.install(state, certificate)
    assert fits(state) == before and not (state / "device.crt.next").exists()


class PowerLoss(BaseException):
    """The machine stops here."""


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """`left`: so many syncs, renames and removals go through, then the power does."""
    left = {"left": 10**9}

    def guarded(real: Any) -> Any:
        def act(*args: Any, **kwargs: Any) -> Any:
            left["left"] -= 1
            if left["left"] < 0:
                raise PowerLoss
            return real(*args, **kwargs)

        return act

    monkeypatch.setattr(os, "fsync", guarded(os.fsync))
    monkeypatch.setattr(Path, "replace", guarded(Path.replace))
    monkeypatch.setattr(Path, "unlink", guarded(Path.unlink))
    yield left


def test_a_crash_at_any_point_leaves_a_key_with_its_certificate(offline: Fleet, state: Path, tmp_path: Path, power: dict[str, int]) -> None:
    """Before each sync and rename of a whole renewal: the next start has the one before or the one after, and goes on from there."""
    device, outcomes = identity.load(state).device, []
    before, over = fits(state), False
    for point in range(40):
        here = tmp_path / f"crash-{point}"
        shutil.copytree(state, here)
        power["left"] = point
        try:
            certificates.install(here, certified(offline, asked(here), device))
            over = True
        except PowerLoss:
            over = False
        power["left"] = 10**9
        identity.settle(here)
        outcomes.append(fits(here) != before)
        certificates.install(here, certified(offline, asked(here), device))
        assert fits(here) != before
        if over:
            break
    assert over and outcomes == sorted(outcomes) and set(outcomes) == {False, True}


def test_an_exchange_that_could_not_be_told_of_is_told_of(offline: Fleet, state: Path, tmp_path: Path, power: dict[str, int]) -> None:
    """A job that is ended, at any point, leaves the agent asking again, and it gets the same answer: that is in its place then."""
    certificate, over, point = certified(offline, asked(state), identity.load(state).device), False, 0
    while not over:
        here = Path(shutil.copytree(state, tmp_path / f"ended-{point}"))
        power["left"], point = point, point + 1
        try:
            certificates.install(here, certificate)
            over = True
        except PowerLoss:
            pass  # the agent goes on
        power["left"] = 10**9
        certificates.install(here, certificate)
        assert fits(here) and (here / "device.crt").read_text() == certificate
    assert point > 4


def test_a_crash_amid_adopting_keys_is_put_right(state: Path, tmp_path: Path, power: dict[str, int]) -> None:
    """What is trusted and the file that TLS reads go together after the next start."""
    other = Ca().pem
    ring = Ring(5, (b"n" * 32,), ((state / "ca.crt").read_text(), other))
    over, found = False, None
    for point in range(20):
        here = tmp_path / f"crash-{point}"
        shutil.copytree(state, here)
        power["left"] = point
        try:
            identity.adopt(here, ring)
            over = True
        except PowerLoss:
            over = False
        power["left"] = 10**9
        identity.settle(here)
        found = identity.load(here).ring
        assert (found.generation == 5) == (other in (here / "ca.crt").read_text())
        if over:
            break
    assert over and found == ring


def test_one_at_a_time_puts_files_in_their_places(offline: Fleet, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent adopts other CAs while a job of its exchanges the certificate, or TLS reads it: none moves away what another is about to.
    Nor does one that comes later go back to earlier ones."""
    certificate = certified(offline, asked(state), identity.load(state).device)
    (state / "device.crt.next").write_text(certificate)
    ring, free = Ring(5, (b"n" * 32,), ((state / "ca.crt").read_text(), Ca().pem)), list[bool]()

    def look(*_: object) -> None:
        with (state / "identity.json").open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free.append(False)
            else:
                free.append(True)

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "sync_directory", look)
        identity.adopt(state, ring)
        patched.setattr(ssl.SSLContext, "load_cert_chain", look)
        tls_context(identity.load(state))
    assert free == [False] * 5
    look()
    assert free[-1]
    assert (state / "device.crt").read_text() == certificate and identity.load(state).ring == ring
    fits(state)
    identity.adopt(state, replace(ring, generation=4))
    assert identity.load(state).ring == ring


def test_trust_that_can_t_be_read_is_as_none(state: Path) -> None:
    """What enrollment said counts; the server sends the lists again."""
    before = identity.load(state).ring
    (state / "trust.json").write_text("{")
    identity.settle(state)
    assert identity.load(state).ring == before


def test_enrolling_anew_forgets_what_was_adopted(offline: Fleet, state: Path) -> None:
    """Another installation's lists have nothing to do with it, nor has a key that a certificate was asked for."""
    identity.adopt(state, Ring(50, (b"n" * 32,), ((state / "ca.crt").read_text(),)))
    asked(state)
    ask = lambda body: Answered(*offline.enroll(body))  # noqa: E731
    enroll.enroll(state, ask, "good-token", Evidence("SN1", "uuid-1", (), "box"), "http://127.0.0.1:1")
    assert identity.load(state).ring.generation == 0 and not (state / "device.key.next").exists()
    fits(state)


def test_an_answer_of_a_newer_server_names_all_roots(state: Path) -> None:
    """And the number of its list; an older server's names one."""
    values = json.loads((state / "identity.json").read_text())
    more = {"command_roots": [values["command_root"], "bm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm4="], "keys": 3}
    found = identity.parse(values | more, state).ring
    assert found.generation == 3 and found.roots[1] == b"n" * 32 and found.roots[0] == identity.load(state).ring.roots[0]
    for wrong in ({"keys": "3"}, {"command_roots": "x"}, {"command_roots": [7]}):
        with pytest.raises(ValueError):
            identity.parse(values | wrong, state)


# --- over HTTP --------------------------------------------------------------------------------------------------------------------


class Server:
    """What `POST /api/v1/renew` does, with one device's keys."""

    def __init__(self, fleet: Fleet, state: Path) -> None:
        self.me = identity.load(state)
        self.fleet, self.authority = fleet, fleet.devices[self.me.device].authority
        self.keys = Keys(lists=())
        self.changes: dict[str, Any] = {}
        self.status = 200

    def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        topic = self.authority.topic("up/csr")
        request = decode("up/csr", body["request"].encode(), topic=topic, key=self.authority.channel_key)
        assert isinstance(request, CertificateRequest) and (path, body["device"]) == ("/api/v1/renew", self.me.device)
        answer = CertificateAnswer(replaces=request.replaces, certificate=certified(self.fleet, request, self.me.device))
        answer = CertificateAnswer(**{**{n: getattr(answer, n) for n in ("replaces", "certificate", "reason", "message")}, **self.changes})
        sealed = encode(answer, sent_at="2026-11-22T18:00:00.000Z", topic=self.authority.topic("down/certificate"), key=self.key)
        keys = encode(self.keys, sent_at="2026-11-22T18:00:00.000Z")
        return self.status, {"answer": sealed.decode(), "keys": keys.decode(), "detail": "no"}

    @property
    def key(self) -> bytes:
        return self.authority.channel_key


def test_the_server_is_asked_over_http(offline: Fleet, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificate and keys come together; who answers is known by MAC and signature, whatever TLS says."""
    server = Server(offline, state)
    root = server.authority.root
    server.keys = server.authority.keys(6, [root], ca=(state / "ca.crt").read_text())
    monkeypatch.setattr(certificates, "poster", lambda url: server.post)
    before = fits(state)
    said = certificates.readmit(state)
    assert fits(state) != before and said["ring"]["generation"] == 6
    assert identity.load(state).ring.generation == 6


@pytest.mark.parametrize(
    ("change", "why", "denied"),
    [
        (lambda s: s.changes.update(certificate=None, reason=Denial.LAPSED, message="it lapsed"), "it lapsed", True),
        (lambda s: s.changes.update(replaces="00"), "gave no certificate", False),
        (lambda s: setattr(s, "keys", s.authority.keys(6, [])), "not to be believed", False),
        (lambda s: setattr(type(s), "key", b"x" * 32), "not to be believed", False),
        (lambda s: setattr(s, "status", 403), "refused", True),
        (lambda s: setattr(s, "status", 503), "refused", False),
    ],
    ids=["denied", "another answer", "forged keys", "forged answer", "forbidden", "not now"],
)
def test_an_answer_over_http_that_is_none(
    offline: Fleet, state: Path, monkeypatch: pytest.MonkeyPatch, change: Any, why: str, denied: bool
) -> None:
    """Nothing is installed or adopted, and it is said why."""
    monkeypatch.setattr(Server, "key", Server.key)
    server = Server(offline, state)
    change(server)
    monkeypatch.setattr(certificates, "poster", lambda url: server.post)
    before = fits(state)
    with pytest.raises(RenewalError, match=why) as refused:
        certificates.readmit(state)
    assert refused.value.denied == denied
    assert fits(state) == before and not (state / "trust.json").exists()


def test_no_server_is_said(state: Path) -> None:
    """With its address."""
    with pytest.raises(RenewalError, match=r"http://127\.0\.0\.1:1 can't be reached"):
        certificates.readmit(state)


# --- the process ------------------------------------------------------------------------------------------------------------------


def test_the_keeper_runs_jobs_in_processes_of_their_own(offline: Fleet, state: Path) -> None:
    """Each answered in its turn; what fails is said; no X.509 code is in this process on that account."""
    said: list[Input] = []
    keeper = Keeper(state, said.append)
    keeper.do(Inspect())
    keeper.do(Prepare())
    keeper.do(Appeal())
    keeper.do(Install("nonsense"))
    eventually(lambda: len(said) == 4, "four answers")
    inspected, prepared, appealed, refused = said
    assert isinstance(inspected, Inspected) and inspected.held.issuer == trust.fingerprint(offline.ca.pem)
    assert isinstance(prepared, Prepared)
    assert isinstance(appealed, RenewalFailed) and "can't be reached" in appealed.message and not appealed.denied
    assert isinstance(refused, RenewalFailed) and "can't be used" in refused.message
    keeper.do(Install(certified(offline, prepared.request, identity.load(state).device)))
    eventually(lambda: len(said) == 5, "the fifth")
    assert isinstance(said[4], Renewed) and said[4].held != inspected.held


def test_simulated_devices_renew_by_one_clerk(offline: Fleet, state: Path, tmp_path: Path) -> None:
    """Key and certificate of each stand in one file, which is exchanged whole."""
    me = identity.load(state)
    pem = tmp_path / "000001.pem"
    pem.write_bytes((state / "device.key").read_bytes() + (state / "device.crt").read_bytes())
    before, clerk, said = pem.read_bytes(), Clerk(), list[Input]()

    def do(job: CertificateJob) -> Input:
        count = len(said)
        clerk.take(Errand(job, me, pem, me.ring, said.append))
        eventually(lambda: len(said) > count, f"an answer to {job}")
        return said[-1]

    inspected, prepared, again = do(Inspect()), do(Prepare()), do(Prepare())
    assert isinstance(inspected, Inspected) and isinstance(prepared, Prepared) and isinstance(again, Prepared)
    keys = {x509.load_pem_x509_csr(each.request.csr.encode()).public_key().public_numbers() for each in (prepared, again)}  # type: ignore[union-attr]
    assert len(keys) == 1
    assert isinstance(do(Install("nonsense")), RenewalFailed) and pem.read_bytes() == before
    renewed = do(Install(certified(offline, prepared.request, me.device)))
    assert isinstance(renewed, Renewed) and renewed.held.serial != inspected.held.serial
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(pem)


def test_a_damaged_certificate_is_named(state: Path) -> None:
    """By the process as by whoever reads what it says."""
    (state / "device.crt").write_text("nonsense")
    command = [sys.executable, "-m", "edge_agent.certificates", "inspect", "--state-dir", str(state)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "can't be read" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(("days", "good", "words"), [(0, True, "in 29 days"), (31, False, "grace period")])
def test_doctor_says_how_long_it_lasts(state: Path, days: int, good: bool, words: str) -> None:
    """And what becomes of one that has ended."""
    found = certificates.summary(state, datetime.now(UTC) + timedelta(days=days))
    assert found[0] is good and words in found[1]


def test_doctor_shows_it(state: Path) -> None:
    """In its line about the certificate."""
    found = {finding.what: finding for finding in doctor.examine(state)}
    assert found["certificate"].good and "renews itself" in found["certificate"].detail

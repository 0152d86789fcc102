"""Rotation of the CA and the command root: what each step leaves, that a kill at any point is put right, and that devices can follow."""

import base64
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from nacl.signing import SigningKey

from broker.messages import Keys, decode_text
from edge_agent import trust
from edge_agent.trust import Ring, Untrusted
from inventory import rotation
from inventory.authority import Authority
from inventory.certificates import alternative_names
from inventory.keychain import Keychain, Phase
from inventory.secret_files import AuthorityError, Fresh
from inventory.signing import CommandSigner

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
STEPS = (rotation.begin, rotation.advance, rotation.advance)


@pytest.fixture
def made(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "secrets", lambda: NOW)
    authority.bootstrap(["fleet.example"])
    return authority


def ring_of(chain: Keychain) -> Ring:
    """What a device trusts that enrolled now."""
    return Ring(chain.generation, tuple(base64.b64decode(root) for root in chain.latest.command_roots))


def phase(authority: Authority) -> Phase:
    return authority.keychain.phase


def issuers(authority: Authority) -> dict[str, str]:
    """By whom the certificates of servers and services are."""
    certificates = {path.stem: x509.load_pem_x509_certificate(path.read_bytes()) for path in authority.directory.glob("*.crt")}
    return {name: each.issuer.rfc4514_string() for name, each in certificates.items() if name != "ca"}


def test_a_rotation_is_three_steps(made: Authority) -> None:
    """Announced, taken over, alone: who is trusted, who issues and delegates, and which keys are there."""
    old_ca, old_root = made.ca_fingerprint, made.command_root_b64
    signer = CommandSigner(made.directory)
    rotation.begin(made)
    assert phase(made) is Phase.ANNOUNCED
    assert (made.ca_fingerprint, made.command_root_b64, signer.generation) == (old_ca, old_root, 1)
    assert len(x509.load_pem_x509_certificates(made.ca_pem.encode())) == 2
    rotation.advance(made)
    assert phase(made) is Phase.TAKEN_OVER
    assert old_ca != made.ca_fingerprint and old_root != made.command_root_b64
    assert signer.generation == 2 and len(made.introduction()["command_roots"]) == 2
    rotation.advance(made)
    assert phase(made) is Phase.RESTING and made.keychain.generation == 4
    assert len(x509.load_pem_x509_certificates(made.ca_pem.encode())) == 1
    assert not list(made.directory.glob("*-second.key")) + list(made.directory.glob("*-next.key"))


def test_one_ca_issues_everything_at_any_moment(made: Authority) -> None:
    """Services' and servers' certificates change over together, with the names and keys that they had."""
    names = alternative_names(x509.load_pem_x509_certificate((made.directory / "broker.crt").read_bytes()))
    key = (made.directory / "broker.key").read_bytes()
    for step in STEPS:
        step(made)
        assert set(issuers(made).values()) == {made.issuer.certificate.subject.rfc4514_string()}
    found = x509.load_pem_x509_certificate((made.directory / "broker.crt").read_bytes())
    assert alternative_names(found) == names and "fleet.example" in names
    assert (made.directory / "broker.key").read_bytes() == key


@pytest.mark.parametrize("part", rotation.PARTS)
def test_either_can_be_rotated_alone(made: Authority, part: str) -> None:
    """The other one stays what it is."""
    before = (made.ca_fingerprint, made.command_root_b64)
    rotation.begin(made, (part,))
    for _ in range(2):
        rotation.advance(made)
    after = (made.ca_fingerprint, made.command_root_b64)
    assert [a != b for a, b in zip(before, after, strict=True)] == [part == "ca", part == "command-root"]
    CommandSigner(made.directory)


def test_one_rotation_at_a_time(made: Authority) -> None:
    """None is begun amid another, and none is advanced where there is none."""
    with pytest.raises(AuthorityError, match="no rotation is under way"):
        rotation.advance(made)
    rotation.begin(made)
    with pytest.raises(AuthorityError, match="a rotation is under way"):
        rotation.begin(made)


def test_a_start_amid_a_rotation_changes_nothing(made: Authority) -> None:
    """Bootstrap finds all as it should be, in every phase."""
    for step in STEPS:
        step(made)
        before = {path.name: path.read_bytes() for path in made.directory.iterdir()}
        Authority(made.directory, lambda: NOW).bootstrap(["fleet.example"])
        assert {path.name: path.read_bytes() for path in made.directory.iterdir()} == before


def test_a_device_follows_from_whichever_list_it_has(made: Authority) -> None:
    """Step by step or over all of them at once, the root that it began with gone since; each list is signed by those trusted before it."""
    rings = [ring_of(made.keychain)]
    for step in STEPS * 2:
        step(made)
        rings.append(ring_of(made.keychain))
    for ring in rings[:-1]:
        assert trust.follow(ring, made.keychain.message).roots == rings[-1].roots
    assert trust.follow(rings[-1], made.keychain.message) is rings[-1]
    assert rings[0].roots != rings[3].roots != rings[-1].roots


def test_nobody_else_makes_a_list(made: Authority, tmp_path: Path) -> None:
    """Lists of another installation, of a root that has been dropped, or changed by one byte: none is believed, and nothing is adopted."""
    ring = ring_of(made.keychain)
    other = Authority(tmp_path / "other", lambda: NOW)
    other.bootstrap()
    rotation.begin(other)
    with pytest.raises(Untrusted, match="no root that is trusted here"):
        trust.follow(ring, other.keychain.message)
    thief = (made.directory / "command-root.key").read_bytes()
    for step in STEPS:
        step(made)
    now = ring_of(made.keychain)
    forged = made.keychain.extended(made.keychain.latest, [SigningKey(base64.b64decode(thief))])
    with pytest.raises(Untrusted):
        trust.follow(now, forged.message)
    last = made.keychain.lists[-1]
    flipped = type(last)(signed=last.signed.replace('"generation":4', '"generation":5'), signatures=last.signatures)
    with pytest.raises(Untrusted):
        trust.follow(now, Keys(lists=(flipped,)))


def test_an_old_list_takes_nothing_back(made: Authority) -> None:
    """A broker that replays what was announced once."""
    rotation.begin(made)
    announced = made.keychain.message
    for _ in range(2):
        rotation.advance(made)
    now = trust.follow(ring_of(made.keychain), made.keychain.message)
    assert trust.follow(now, announced) is now


@pytest.mark.parametrize("step", range(3))
def test_a_kill_at_any_point_is_put_right_by_the_next_start(tmp_path: Path, step: int) -> None:
    """kill -9 before each sync of a step: then it has happened whole, or not at all, and everything fits together."""
    outcomes = set()
    for point in range(0, 40, 3):
        authority = Authority(tmp_path / f"secrets-{point}", lambda: NOW)
        authority.bootstrap()
        for earlier in STEPS[:step]:
            earlier(authority)
        before = authority.keychain.generation
        killed = _killed(authority.directory, STEPS[step].__name__, point)
        Authority(authority.directory, lambda: NOW).bootstrap()
        _check_whole(authority)
        outcomes.add(authority.keychain.generation - before)
        if not killed:
            break
    assert outcomes == {0, 1}


def _killed(directory: Path, step: str, point: int) -> bool:
    """Do a step in a process that is killed at its `point`-th sync; whether it came to that."""
    script = (
        "import os, signal, pathlib, datetime\n"
        "from inventory import authority as a, rotation\n"
        "real, count = os.fsync, 0\n"
        "def fsync(handle):\n"
        "    global count\n"
        f"    count += 1\n    if count > {point}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(handle)\n"
        "os.fsync = fsync\n"
        f"now = datetime.datetime.fromisoformat({NOW.isoformat()!r})\n"
        f"rotation.{step}(a.Authority(pathlib.Path({str(directory)!r}), lambda: now))\n"
    )
    return subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL


def _check_whole(authority: Authority) -> None:
    latest = authority.keychain.latest
    assert "".join(latest.authorities) == authority.ca_pem
    assert set(issuers(authority).values()) == {authority.issuer.certificate.subject.rfc4514_string()}
    delegation = CommandSigner(authority.directory).sign("x").delegation
    assert trust._good(base64.b64decode(latest.command_roots[0]), delegation.signed, delegation.signature)
    assert not [path.name for path in authority.directory.iterdir() if path.name.endswith((".partial", "-next.key", "-moving.key"))]
    assert (authority.directory / "ca-second.key").exists() == (len(latest.authorities) == 2)


def test_when_the_ca_took_over(made: Authority) -> None:
    """At the second step, and for as long as it issues; a rotation of the root alone changes nothing."""
    hours = iter(range(1, 1000))
    made._clock = lambda: NOW + timedelta(seconds=next(hours))
    moments = [made.keychain.took_over]
    rotation.begin(made, ("command-root",))
    for step in (rotation.advance, rotation.advance, rotation.begin, rotation.advance, rotation.advance):
        step(made)
        moments.append(made.keychain.took_over)
    assert moments[:4] == [None] * 4
    assert moments[4] is not None and moments[4] == moments[5]


def test_a_lost_second_key_is_said(made: Authority) -> None:
    """The next step could not be signed by everybody who has to: nothing is done."""
    rotation.begin(made)
    (made.directory / "ca-second.key").unlink()
    with pytest.raises(AuthorityError, match="restore both from the same backup"):
        rotation.advance(made)


def test_after_a_restore_devices_listen_again(made: Authority) -> None:
    """The lists of a backup are older than what devices have seen since: the restored server's number is above it."""
    rotation.begin(made, ("ca",))
    ahead = Ring(made.keychain.generation + 100, ring_of(made.keychain).roots)
    made.delegate_anew()
    followed = trust.follow(ahead, made.keychain.message)
    assert followed.generation > ahead.generation and len(followed.authorities) == 2
    assert phase(made) is Phase.ANNOUNCED, "it stands where the backup stood"
    rotation.advance(made)
    assert phase(made) is Phase.TAKEN_OVER


def test_services_certificates_renew_under_running_services(made: Authority) -> None:
    """Thirty days before their end, with the names that they had; at other times nothing is touched."""
    before = {path.name: path.read_bytes() for path in made.directory.iterdir()}
    Authority(made.directory, lambda: NOW + timedelta(days=300)).renew()
    assert {path.name: path.read_bytes() for path in made.directory.iterdir()} == before
    Authority(made.directory, lambda: NOW + timedelta(days=340)).renew()
    changed = {path.name for path in made.directory.iterdir() if before[path.name] != path.read_bytes()}
    assert {"svc-inventory.crt", "svc-managers.crt", "svc-web.crt", "broker.crt", "web.crt", "delegation.json"} <= changed
    found = x509.load_pem_x509_certificate((made.directory / "web.crt").read_bytes())
    assert "fleet.example" in alternative_names(found)


def test_the_secrets_of_a_replica_are_left_alone(made: Authority, tmp_path: Path) -> None:
    """Where the root's key is not, nothing is renewed: it would be another installation's."""
    made.equip("svc-inventory.2", tmp_path / "replica")
    before = {path.name: path.read_bytes() for path in (tmp_path / "replica").iterdir()}
    Authority(tmp_path / "replica", lambda: NOW + timedelta(days=364)).renew()
    assert {path.name: path.read_bytes() for path in (tmp_path / "replica").iterdir()} == before


def test_what_is_read_anew_survives_half_an_exchange(tmp_path: Path) -> None:
    """Of two files that belong together one is new: the value before them stays until both are."""
    one, two = tmp_path / "one", tmp_path / "two"

    def load() -> str:
        if one.read_text() != two.read_text():
            raise AuthorityError("they don't belong together")
        return one.read_text()

    def put(path: Path, text: str) -> None:
        path.with_suffix(".new").write_text(text)
        os.replace(path.with_suffix(".new"), path)

    put(one, "a")
    put(two, "a")
    fresh = Fresh(load, one, two)
    assert fresh.get() == "a"
    put(one, "b")
    assert fresh.get() == "a"
    put(two, "b")
    assert fresh.get() == "b"


def test_a_list_says_what_it_is(made: Authority) -> None:
    """Its text is what the contract says, with a time."""
    listed = decode_text(type(made.keychain.latest), made.keychain.lists[0].signed)
    assert (listed.generation, listed.issued_at) == (1, "2026-11-22T18:00:00.000Z")

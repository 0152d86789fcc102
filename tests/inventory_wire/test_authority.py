"""The installation's keys: what is made, how it is dated, that a kill at any point is put right, that two installations share nothing."""

import base64
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from broker.messages import Mandate, Moment, decode_text, now_text
from inventory import authority as module
from inventory.authority import Authority
from inventory.certificates import requested_key
from inventory.errors import Invalid
from inventory.keychain import key_id
from inventory.secret_files import AuthorityError, write_secret
from inventory.signing import CommandSigner

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
FILES = {
    "vault.key",
    "vault.pub",
    "ca.crt", "ca.key", "ca.crl", "command-root.key", "command.key", "delegation.json", "keys.json", "channel-master.key", "session.key",
    "audit.key",
    "svc-inventory.crt", "svc-inventory.key", "svc-managers.crt", "svc-managers.key", "svc-web.crt", "svc-web.key",
    "svc-broker.crt", "svc-broker.key", "broker.crt", "broker.key", "web.crt", "web.key",
}  # fmt: skip


def csr(name: str = "whatever", key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """A certificate request as the agent makes it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def certificate(directory: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / f"{name}.crt").read_bytes())


def attribute(found: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    return str(found.subject.get_attributes_for_oid(oid)[0].value)


@pytest.fixture
def made(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "secrets", lambda: NOW)
    authority.bootstrap()
    return authority


def test_it_makes_every_file_for_its_owner_alone(made: Authority) -> None:
    """All files are there, 0600 in a directory of 0700, and nothing half-written beside them."""
    there = {path.name for path in made.directory.iterdir()} - {".lock"}
    assert there == FILES
    assert stat.S_IMODE(made.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE((made.directory / name).stat().st_mode) for name in FILES} == {0o600}


def test_certificates_are_dated_and_named_as_the_contract_says(made: Authority) -> None:
    """Back-dated 48 h, devices 30 days, services a year, subject CN and OU by class, all issued by the CA."""
    issued = made.issue_device(csr("root"), "host-01")
    device = x509.load_pem_x509_certificate(issued.pem.encode())
    assert (attribute(device, NameOID.COMMON_NAME), attribute(device, NameOID.ORGANIZATIONAL_UNIT_NAME)) == ("host-01", "device")
    assert device.not_valid_before_utc == NOW - timedelta(hours=48)
    assert device.not_valid_after_utc == issued.expires_at == NOW + timedelta(days=30)
    assert issued.serial == f"{device.serial_number:x}"
    service = certificate(made.directory, "svc-managers")
    assert (attribute(service, NameOID.COMMON_NAME), attribute(service, NameOID.ORGANIZATIONAL_UNIT_NAME)) == ("svc-managers", "service")
    assert service.not_valid_after_utc == NOW + timedelta(days=365)
    for found in (device, service):
        found.verify_directly_issued_by(certificate(made.directory, "ca"))
        assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(("scoped", "unit"), [(False, "integration"), (True, "integration-scoped")])
def test_an_integration_has_a_class_of_its_own(made: Authority, scoped: bool, unit: str) -> None:
    """What a certificate is for stands in its OU, and not in the request."""
    issued = made.issue_integration(requested_key(csr("svc-inventory")), "press-data", scoped=scoped)
    found = x509.load_pem_x509_certificate(issued.pem.encode())
    assert (attribute(found, NameOID.COMMON_NAME), attribute(found, NameOID.ORGANIZATIONAL_UNIT_NAME)) == ("press-data", unit)


def test_server_certificates_name_where_they_are_reached(made: Authority) -> None:
    """Local names always; a name that is advertised later makes a new certificate for the same key, and is kept by the next run."""
    first = certificate(made.directory, "broker")
    made.bootstrap(["Fleet.Example.com", "2001:DB8::1"])
    second = certificate(made.directory, "broker")
    names = second.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "fleet.example.com"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"127.0.0.1", "::1", "2001:db8::1"} == {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}
    assert first.serial_number != second.serial_number
    assert first.public_key() == second.public_key()
    made.bootstrap(["Fleet.Example.com", "2001:DB8::1"])
    assert certificate(made.directory, "broker") == second


def test_a_name_that_can_not_be_one_is_refused(made: Authority) -> None:
    """`--advertise` is a user's input."""
    with pytest.raises(AuthorityError, match="can't be advertised"):
        made.bootstrap(["no name/at all"])


def test_a_second_run_changes_nothing(made: Authority) -> None:
    """Bootstrap is idempotent, byte for byte."""
    before = {name: (made.directory / name).read_bytes() for name in FILES}
    Authority(made.directory, lambda: NOW + timedelta(days=300)).bootstrap()
    assert {name: (made.directory / name).read_bytes() for name in FILES} == before


def test_what_nears_its_end_is_renewed_with_the_same_keys(made: Authority) -> None:
    """Services' certificates and the delegation; the delegation's generation rises, so that the older one can be voided."""
    before = {name: (made.directory / name).read_bytes() for name in FILES}
    Authority(made.directory, lambda: NOW + timedelta(days=340)).bootstrap()
    changed = {name for name in FILES if (made.directory / name).read_bytes() != before[name]}
    services = {f"svc-{name}.crt" for name in ("inventory", "managers", "web", "broker")}
    assert changed == services | {"broker.crt", "web.crt", "delegation.json"}
    assert CommandSigner(made.directory).generation == 2


def test_a_delegation_of_another_key_is_made_again(made: Authority) -> None:
    """After a kill between the two files, or when the command key has been replaced."""
    (made.directory / "command.key").unlink()
    made.bootstrap()
    assert CommandSigner(made.directory).generation == 2


def test_a_lost_key_is_never_replaced(made: Authority) -> None:
    """A new CA key beside the old certificate would lock the fleet out: it says to restore a backup instead."""
    kept = (made.directory / "ca.key").read_bytes()
    (made.directory / "ca.key").unlink()
    with pytest.raises(AuthorityError, match=r"ca\.key is gone.*backup"):
        made.bootstrap()
    (made.directory / "ca.key").write_bytes(kept)
    (made.directory / "command-root.key").unlink()
    with pytest.raises(AuthorityError, match=r"command-root\.key is gone.*backup"):
        made.bootstrap()


@pytest.mark.parametrize("name", ["ca.key", "command.key", "delegation.json", "channel-master.key"])
def test_a_damaged_file_is_named(made: Authority, name: str) -> None:
    """The message says which file, and what to do."""
    (made.directory / name).write_text("{}")
    found = Authority(made.directory)
    with pytest.raises(AuthorityError, match=name):
        found.bootstrap()
        found.channel_key("host-01", 1)


def test_a_ca_key_of_another_installation_is_refused(made: Authority, tmp_path: Path) -> None:
    """Files of two backups mixed up: what it would issue, nobody would believe."""
    other = Authority(tmp_path / "other")
    other.bootstrap()
    (made.directory / "ca.key").write_bytes((other.directory / "ca.key").read_bytes())
    with pytest.raises(AuthorityError, match=r"ca\.crt was not made with ca\.key"):
        Authority(made.directory).bootstrap()


@pytest.mark.parametrize("point", range(0, 17, 2))
def test_a_kill_after_any_file_is_put_right_by_the_next_run(tmp_path: Path, point: int) -> None:
    """kill -9 in the middle of writing each file; the next run completes what there is, and all of it fits together."""
    script = (
        "import os, signal, pathlib\n"
        "from inventory import authority as a\n"
        "real, count = os.fsync, 0\n"
        "def fsync(handle):\n"
        "    global count\n"
        f"    count += 1\n    if count > {2 * point}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(handle)\n"
        "os.fsync = fsync\n"
        f"a.Authority(pathlib.Path({str(tmp_path / 'secrets')!r})).bootstrap()\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(module.__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    assert {path.name for path in authority.directory.iterdir()} - {".lock"} == FILES
    CommandSigner(authority.directory)
    certificate(authority.directory, "web").verify_directly_issued_by(certificate(authority.directory, "ca"))


def test_two_installations_share_nothing(tmp_path: Path) -> None:
    """No file of one equals that of another, nor do the CAs' names or the channel keys of one device."""
    one, two = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    one.bootstrap()
    two.bootstrap()
    assert all((one.directory / name).read_bytes() != (two.directory / name).read_bytes() for name in FILES)
    assert certificate(one.directory, "ca").subject != certificate(two.directory, "ca").subject
    assert one.channel_key("host-01", 1) != two.channel_key("host-01", 1)
    assert one.command_root_b64 != two.command_root_b64


def test_channel_keys_differ_by_device_and_incarnation(made: Authority) -> None:
    """32 bytes, the same each time, of no use to another device or after enrolling anew."""
    keys = [made.channel_key("host-01", 1), made.channel_key("host-02", 1), made.channel_key("host-01", 2)]
    assert len(set(keys)) == 3
    assert {len(key) for key in keys} == {32}
    assert Authority(made.directory).channel_key("host-01", 1) == keys[0]


def test_a_command_verifies_from_the_root_down(made: Authority) -> None:
    """A device that knows the root's public key alone can check delegation, key id and signature."""
    signer = CommandSigner(made.directory)
    signed = signer.sign('{"id":"cmd-1"}')
    root = VerifyKey(base64.b64decode(made.command_root_b64))
    root.verify(signed.delegation.signed.encode(), base64.b64decode(signed.delegation.signature))
    mandate = decode_text(Mandate, signed.delegation.signed)
    public = base64.b64decode(mandate.public_key)
    assert key_id(public) == signed.key
    VerifyKey(public).verify(b'{"id":"cmd-1"}', base64.b64decode(signed.signature))
    with pytest.raises(BadSignatureError):
        VerifyKey(public).verify(b'{"id":"cmd-2"}', base64.b64decode(signed.signature))


def test_a_checkpoint_tells_nonce_time_and_generation(made: Authority) -> None:
    """What a device takes its trusted time from."""
    moment = Moment(nonce="n-1", time=now_text(NOW), generation=0, fence=7, device="host-1", epoch="e", seq=3, awaiting=("cmd-1",))
    text, _ = CommandSigner(made.directory).checkpoint(moment)
    assert decode_text(Moment, text) == replace(moment, generation=1)


def test_a_rotated_command_key_signs_from_the_next_signature_on(made: Authority) -> None:
    """In a process that runs: another key, under a delegation by the same root that voids the one before."""
    signer = CommandSigner(made.directory)
    before = signer.sign("x")
    assert made.rotate_command_key() == 2
    after = signer.sign("x")
    assert after.key != before.key and signer.generation == 2
    root = VerifyKey(base64.b64decode(made.command_root_b64))
    root.verify(after.delegation.signed.encode(), base64.b64decode(after.delegation.signature))
    mandate = decode_text(Mandate, after.delegation.signed)
    VerifyKey(base64.b64decode(mandate.public_key)).verify(b"x", base64.b64decode(after.signature))
    made.bootstrap()
    assert CommandSigner(made.directory).sign("x").key == after.key, "the next start keeps it"


@pytest.mark.parametrize("files", [("command.key",), ("delegation.json",), ()], ids=["key alone", "delegation alone", "gone"])
def test_a_signer_goes_on_while_its_files_do_not_fit(made: Authority, tmp_path: Path, files: tuple[str, ...]) -> None:
    """Copied to a replica in any order, or taken away: the pair read last goes on, and the whole pair is taken when it is there."""
    copy = tmp_path / "replica"
    made.equip("svc-managers.2", copy)
    signer = CommandSigner(copy)
    before = signer.sign("x").key
    made.rotate_command_key()
    for name in files:
        write_secret(copy / name, (made.directory / name).read_bytes())
    if not files:
        (copy / "delegation.json").unlink()
    assert signer.sign("x").key == before
    made.equip("svc-managers.2", copy)
    assert signer.sign("x").key == CommandSigner(made.directory).sign("x").key != before


def test_a_rotation_that_is_killed_between_its_files_is_finished_by_bootstrap(made: Authority) -> None:
    """The new key is there, its delegation is not: the next start certifies it, above the one before."""
    write_secret(made.directory / "command.key", base64.b64encode(b"n" * 32))
    with pytest.raises(AuthorityError, match="fleetward migrate"):
        CommandSigner(made.directory)
    made.bootstrap()
    assert CommandSigner(made.directory).generation == 2


def _rsa_csr() -> str:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _p384_csr() -> str:
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _tampered_csr() -> str:
    der = bytearray(x509.load_pem_x509_csr(csr("hostname-aaaa").encode()).public_bytes(serialization.Encoding.DER))
    at = der.index(b"hostname-aaaa")
    der[at] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    "bad", [lambda: "", lambda: "nonsense", lambda: "ü" * 10, lambda: "x" * 20_000, _rsa_csr, _p384_csr, _tampered_csr],
    ids=["empty", "no PEM", "no ASCII", "too long", "RSA", "P-384", "signature of another"],
)  # fmt: skip
def test_a_request_that_proves_no_p256_key_is_refused(made: Authority, bad: Callable[[], str]) -> None:
    """Whoever asks has to hold the private key; the problem names the member."""
    with pytest.raises(Invalid) as refused:
        made.issue_device(bad(), "host-01")
    assert refused.value.errors[0].pointer == "/csr"


def test_partial_files_of_a_killed_run_are_cleared(made: Authority) -> None:
    """They hold keys, and would lie about for ever."""
    leftover = made.directory / "ca.key.0000.partial"
    leftover.write_text("half a key")
    os.chmod(leftover, 0o600)
    made.bootstrap()
    assert not leftover.exists()

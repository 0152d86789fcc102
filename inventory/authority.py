"""The installation's keys: the CA, the command root with the key it delegates to, and what the devices' channel keys are made of.

`Authority` is the only reader of the CA's key and of the channel master key; `bootstrap` makes whatever is missing in the secrets
directory and renews what nears its end. `CommandSigner` needs the delegated command key alone, so that the managers can sign commands
without being able to enroll anybody. Each file appears whole (written aside, synced, renamed) with mode 0600; a key is written before
its certificate, and a certificate that does not fit its key is made again, so that a kill at any point is put right by the next run.
A key that is gone while something made with it is still there is never replaced: that is a backup's task, and says so.

Called by `inventory bootstrap`, by enrollment in the web process, and by the services. Source: design.md section 4, contract.md section 2.
"""

import base64
import binascii
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from broker.acl import REPLICAS
from broker.messages import ContractError, Delegation, Mandate, Moment, decode_text, encode_text, now_text
from inventory import certificates
from inventory.certificates import BACK_DATED, Issued, Issuer

DEVICE_LIFETIME = timedelta(days=30)
SERVICE_LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
"""A service's certificate, or the delegation, with less than this left is renewed at bootstrap."""

SERVICES = ("svc-inventory", "svc-managers", "svc-web")
SERVERS = ("broker", "web")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

NEEDS = {
    "svc-inventory": ("ca.crt", "channel-master.key", "command.key", "delegation.json"),
    "svc-managers": ("ca.crt", "command.key", "delegation.json"),
    "svc-web": ("ca.crt", "ca.key", "channel-master.key", "command-root.key", "session.key", "web.crt", "web.key"),
}
"""What of the secrets each role reads, beside its own certificate."""

RESTORED = 1_000_000_000
"""What a restore adds to the delegation's generation: more than there can have been since the backup."""

Clock = Callable[[], datetime]


def utcnow() -> datetime:
    return datetime.now(UTC)


class AuthorityError(Exception):
    """The secrets directory can't be used; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A text's signature (base64, Ed25519), the id of the key that made it, and why that key may."""

    signature: str
    key: str
    delegation: Delegation


class CommandSigner:
    """Signs commands and checkpoints with the delegated command key. Reads `command.key` and `delegation.json` once."""

    def __init__(self, secrets_dir: Path) -> None:
        self._key = SigningKey(_read_raw_key(secrets_dir / "command.key"))
        self.delegation, mandate = _read_delegation(secrets_dir / "delegation.json")
        self.generation = mandate.generation
        """Of the delegation; a checkpoint tells it, and so voids older ones."""
        public = bytes(self._key.verify_key)
        if mandate.public_key != _b64(public):
            raise AuthorityError(f"{secrets_dir}: command.key and delegation.json don't belong together: run `fleetward migrate`")
        self.key = key_id(public)

    def sign(self, text: str) -> Signed:
        """Over the exact UTF-8 bytes of `text`."""
        return Signed(_b64(self._key.sign(text.encode()).signature), self.key, self.delegation)

    def checkpoint(self, nonce: str, now: datetime, fence: int) -> tuple[str, Signed]:
        """The text of a checkpoint, and its signature. `fence`: the highest number given to the device."""
        text = encode_text(Moment(nonce=nonce, time=now_text(now), generation=self.generation, fence=fence))
        return text, self.sign(text)


class Authority:
    """Everything in the secrets directory. `clock` gives the time that certificates are dated with."""

    def __init__(self, secrets_dir: Path, clock: Clock = utcnow) -> None:
        self.directory = Path(secrets_dir)
        self._clock = clock

    @cached_property
    def ca_pem(self) -> str:
        return self._path("ca.crt").read_text()

    @cached_property
    def ca_fingerprint(self) -> str:
        """Hex SHA-256 of the CA's certificate (DER), what `enroll --ca-fingerprint` compares with."""
        return self._issuer.certificate.fingerprint(hashes.SHA256()).hex()

    @cached_property
    def command_root_b64(self) -> str:
        """The command root's public key: 32 bytes in base64, given to each device once, at enrollment."""
        return _b64(bytes(SigningKey(_read_raw_key(self._path("command-root.key"))).verify_key))

    def channel_key(self, host: str, incarnation: int) -> bytes:
        """32 bytes that only this device and Inventory know; another incarnation (a later enrollment) has another."""
        return hmac.new(self._channel_master, f"{host}\n{incarnation}".encode(), hashlib.sha256).digest()

    def issue_device(self, csr_pem: str, host: str) -> Issued:
        """Raises Invalid (`/csr`)."""
        return self._issue_client(csr_pem, host, "device", DEVICE_LIFETIME)

    def issue_integration(self, csr_pem: str, name: str, *, scoped: bool = False) -> Issued:
        """Raises Invalid (`/csr`)."""
        return self._issue_client(csr_pem, name, "integration-scoped" if scoped else "integration", SERVICE_LIFETIME)

    def bootstrap(self, advertised: Iterable[str] = ()) -> None:
        """Make what is missing, renew what nears its end or has another name now. Idempotent, one at a time. Raises AuthorityError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        with _alone(self._path(".lock")):
            self._clear_partials()
            self._ensure_ca()
            self._ensure_raw("channel-master.key")
            self._ensure_raw("session.key")
            self._ensure_command_keys()
            for name in service_certificates():
                if name in SERVICES or self._path(f"{name}.key").exists():
                    self._ensure_leaf(name, self._service_certificate(name), frozenset())
            names = _server_names(advertised)
            for name in SERVERS:
                self._ensure_leaf(name, self._server_certificate(names), frozenset(names))

    def equip(self, name: str, out: Path | None = None) -> list[Path]:
        """The certificate of a service or of one of its replicas (`svc-inventory.2`), renewed when it nears its end; with `out`, that
        directory with all that this role needs and nothing more. The files. Raises AuthorityError."""
        role = name.partition(".")[0]
        if name not in service_certificates():
            names = f"{', '.join(SERVICES)}, each with .2 to .{REPLICAS} for further replicas"
            raise AuthorityError(f"{name!r} is no service of this installation: there are {names}")
        with _alone(self._path(".lock")):
            self._ensure_leaf(name, self._service_certificate(name), frozenset())
        found = [self._path(file) for file in (f"{name}.crt", f"{name}.key", *NEEDS[role])]
        if out is None or out.resolve() == self.directory.resolve():
            return found[:2]
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in found:
            write_secret(out / path.name, path.read_bytes())
        return [out / path.name for path in found]

    def delegate_anew(self) -> None:
        """After a restore: a delegation above any that devices may have seen since the backup, which voids what was signed before."""
        with _alone(self._path(".lock")):
            root = SigningKey(_read_raw_key(self._path("command-root.key")))
            public = bytes(SigningKey(_read_raw_key(self._path("command.key"))).verify_key)
            _, mandate = _read_delegation(self._path("delegation.json"))
            write_secret(self._path("delegation.json"), self._delegation(root, public, mandate.generation + RESTORED))

    # --- parts ----------------------------------------------------------------------------------------------------------------

    @cached_property
    def _channel_master(self) -> bytes:
        return _read_raw_key(self._path("channel-master.key"))

    @cached_property
    def _issuer(self) -> Issuer:
        return Issuer(x509.load_pem_x509_certificate(self._path("ca.crt").read_bytes()), self._read_key("ca.key"))

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _issue_client(self, csr_pem: str, name: str, unit: str, lifetime: timedelta) -> Issued:
        return certificates.client(self._issuer, certificates.requested_key(csr_pem), name, unit, self._clock(), lifetime)

    def _service_certificate(self, name: str) -> Callable[[certificates.Key], Issued]:
        return lambda key: certificates.client(self._issuer, key.public_key(), name, "service", self._clock(), SERVICE_LIFETIME)

    def _server_certificate(self, names: list[str]) -> Callable[[certificates.Key], Issued]:
        return lambda key: certificates.server(self._issuer, key.public_key(), names, self._clock(), SERVICE_LIFETIME)

    def _read_key(self, name: str) -> certificates.Key:
        try:
            return certificates.read_key(self._path(name).read_bytes())
        except ValueError as error:
            raise AuthorityError(f"{self._path(name)} is damaged ({error}): restore it from a backup") from None

    def _clear_partials(self) -> None:
        for partial in self.directory.glob("*.partial"):
            partial.unlink()

    def _ensure_ca(self) -> None:
        if not self._path("ca.key").exists():
            self._refuse_orphans("ca.key", "ca.crt")
            write_secret(self._path("ca.key"), certificates.key_pem(certificates.new_key()))
        if not self._path("ca.crt").exists():
            name = f"{certificates.ORGANIZATION} CA {secrets.token_hex(4)}"
            made = certificates.self_signed(self._read_key("ca.key"), name, self._clock())
            write_secret(self._path("ca.crt"), certificates.certificate_pem(made).encode())
        if self._issuer.certificate.public_key() != self._issuer.key.public_key():
            raise AuthorityError(f"{self.directory}: ca.crt was not made with ca.key: restore both from the same backup")

    def _ensure_raw(self, name: str) -> None:
        if not self._path(name).exists():
            write_secret(self._path(name), _b64(secrets.token_bytes(32)).encode() + b"\n")

    def _ensure_command_keys(self) -> None:
        if not self._path("command-root.key").exists():
            self._refuse_orphans("command-root.key", "delegation.json")
        self._ensure_raw("command-root.key")
        self._ensure_raw("command.key")
        root = SigningKey(_read_raw_key(self._path("command-root.key")))
        public = bytes(SigningKey(_read_raw_key(self._path("command.key"))).verify_key)
        generation = self._delegated_generation(root.verify_key, public)
        if generation is not None:
            write_secret(self._path("delegation.json"), self._delegation(root, public, generation))

    def _delegated_generation(self, root: VerifyKey, public: bytes) -> int | None:
        """The generation of the delegation to make; None where the one there is will do."""
        if not self._path("delegation.json").exists():
            return 1
        delegation, mandate = _read_delegation(self._path("delegation.json"))
        _verify_delegation(root, delegation)
        lasts = datetime.fromisoformat(mandate.not_after) - self._clock() > RENEW_BEFORE
        return None if lasts and mandate.public_key == _b64(public) else mandate.generation + 1

    def _delegation(self, root: SigningKey, public: bytes, generation: int) -> bytes:
        now = self._clock()
        mandate = Mandate(
            public_key=_b64(public),
            generation=generation,
            not_before=now_text(now - BACK_DATED),
            not_after=now_text(now + SERVICE_LIFETIME),
        )
        signed = encode_text(mandate)
        delegation = Delegation(signed=signed, signature=_b64(root.sign(signed.encode()).signature))
        return encode_text(delegation).encode() + b"\n"

    def _ensure_leaf(self, name: str, issue: Callable[[certificates.Key], Issued], names: frozenset[str]) -> None:
        key_path, certificate_path = self._path(f"{name}.key"), self._path(f"{name}.crt")
        if not key_path.exists():
            write_secret(key_path, certificates.key_pem(certificates.new_key()))
        key = self._read_key(f"{name}.key")
        if not self._still_good(certificate_path, key, names):
            # Servers show the CA as well: a device that was told its fingerprint takes it from there.
            chain = self._path("ca.crt").read_text() if names else ""
            write_secret(certificate_path, (issue(key).pem + chain).encode())

    def _still_good(self, path: Path, key: certificates.Key, names: frozenset[str]) -> bool:
        if not path.exists():
            return False
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            certificate.verify_directly_issued_by(self._issuer.certificate)
        except (ValueError, TypeError, InvalidSignature, x509.InvalidVersion):
            return False
        lasts = certificate.not_valid_after_utc - self._clock() > RENEW_BEFORE
        return lasts and certificate.public_key() == key.public_key() and names <= certificates.alternative_names(certificate)

    def _refuse_orphans(self, missing: str, *made_with_it: str) -> None:
        for name in made_with_it:
            if self._path(name).exists():
                raise AuthorityError(f"{self._path(missing)} is gone, but {name} was made with it: restore it from a backup")


def service_certificates() -> tuple[str, ...]:
    """The names that services' certificates may have, those of replicas included (`broker.acl` grants the same ones)."""
    return tuple(f"{name}.{number}" if number > 1 else name for name in SERVICES for number in range(1, REPLICAS + 1))


def key_id(public: bytes) -> str:
    """What a command key is called on the wire: the first 16 hex digits of the SHA-256 of its raw public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def write_secret(path: Path, content: bytes) -> None:
    """The file appears whole, or not at all, with mode 0600, and is on disk when this returns."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _server_names(advertised: Iterable[str]) -> list[str]:
    """What the broker and the web server are reached by, without repetition: local names, this machine's, the advertised ones."""
    machine = socket.gethostname()
    found = [*LOCAL_NAMES, *([machine] if machine.isascii() else [])]
    for name in advertised:
        try:
            found.append(certificates.alternative_name(name))
        except ValueError as error:
            raise AuthorityError(f"{name!r} can't be advertised: {error}") from None
    return list(dict.fromkeys(name for name in found if name))


def _read_raw_key(path: Path) -> bytes:
    try:
        raw = base64.b64decode(path.read_text().strip(), validate=True)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raw = b""
    if len(raw) != 32:
        raise AuthorityError(f"{path} is damaged: restore it from a backup")
    return raw


def _read_delegation(path: Path) -> tuple[Delegation, Mandate]:
    try:
        delegation = decode_text(Delegation, path.read_text())
        return delegation, decode_text(Mandate, delegation.signed)
    except (ContractError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AuthorityError(f"{path} is damaged ({error}): restore it from a backup") from None


def _verify_delegation(root: VerifyKey, delegation: Delegation) -> None:
    try:
        root.verify(delegation.signed.encode(), base64.b64decode(delegation.signature))
    except (BadSignatureError, ValueError):
        raise AuthorityError("delegation.json was not made with command-root.key: restore both from the same backup") from None


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()

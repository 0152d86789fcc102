"""The installation's keys: the CA, the command root with the key it delegates to, and what the devices' channel keys are made of.

`Authority` is the only reader of the CA's key and of the channel master key; `bootstrap` makes whatever is missing in the secrets
directory and renews what nears its end. What signs commands is `inventory.signing`. Each file appears whole (written aside, synced,
renamed) with mode 0600; a key is written before its certificate, and a certificate that does not fit its key is made again, so that a kill
at any point is put right by the next run.
A key that is gone while something made with it is still there is never replaced: that is a backup's task, and says so. All of it can be
exchanged under running services (`inventory.rotation`): what is kept in memory is read anew when its files change.

Called by `inventory bootstrap`, by enrollment in the web process, and by the services. Source: design.md section 4, contract.md section 2.
"""

import base64
import hashlib
import hmac
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.signing import SigningKey, VerifyKey

from broker.acl import REPLICAS
from broker.messages import Delegation, KeyList, decode_text, now_text
from inventory import arranging, certificates, keychain, vault
from inventory.certificates import BACK_DATED, Issued, Issuer, Withdrawn
from inventory.keychain import Keychain
from inventory.secret_files import AuthorityError, Fresh, alone, read_raw_key, write_secret
from inventory.signing import b64, delegate, delegated_by, read_delegation

DEVICE_LIFETIME = timedelta(days=30)
SERVICE_LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
"""A service's certificate, or the delegation, with less than this left is renewed at bootstrap."""

SERVICES = ("svc-inventory", "svc-managers", "svc-web", "svc-broker")
EARLIER = timedelta(minutes=5)
"""How much older than now the first CRL is: of two of the same second OpenSSL goes by whichever it read first."""

SERVERS = ("broker", "web")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

NEEDS = {
    "svc-inventory": ("ca.crt", "ca.key", "keys.json", "channel-master.key", "command.key", "delegation.json", "audit.key"),
    "svc-managers": ("ca.crt", "command.key", "delegation.json", "vault.key"),
    "svc-web": ("ca.crt", "ca.key", "keys.json", "channel-master.key", "session.key", "vault.pub", "web.crt", "web.key"),
    "svc-broker": ("ca.crt", "ca.crl", "broker.crt", "broker.key"),
}
"""What of the secrets each role reads, beside its own certificate."""

RESTORED = 1_000_000_000
"""What a restore adds to the delegation's generation: more than there can have been since the backup."""

Clock = Callable[[], datetime]


def utcnow() -> datetime:
    return datetime.now(UTC)


class Authority:
    """Everything in the secrets directory. `clock` gives the time that certificates are dated with."""

    def __init__(self, secrets_dir: Path, clock: Clock = utcnow) -> None:
        self.directory = Path(secrets_dir)
        self._clock = clock
        self._issuers = Fresh(self._read_issuer, self._path("ca.crt"), self._path("ca.key"))
        self._keychains = Fresh(self._read_keychain, self._path("keys.json"))

    @property
    def ca_pem(self) -> str:
        """All CAs that are trusted, the one that issues first."""
        return self._path("ca.crt").read_text()

    @property
    def ca_fingerprint(self) -> str:
        """Hex SHA-256 of the issuing CA's certificate (DER), what `enroll --ca-fingerprint` compares with."""
        return self.issuer.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def issuer(self) -> Issuer:
        """The CA that issues. Raises AuthorityError, OSError."""
        return self._issuers.get()

    @property
    def keychain(self) -> Keychain:
        """Whom devices are to trust. Raises AuthorityError, OSError."""
        return self._keychains.get()

    @property
    def web_pin(self) -> str:
        """The web server's key as `curl --pinnedpubkey` takes it: a machine that knows no CA yet is sure of the server by it."""
        return certificates.pin(x509.load_pem_x509_certificate(self._path("web.crt").read_bytes()))

    @property
    def command_root_b64(self) -> str:
        """The public key of the command root that delegates: 32 bytes in base64."""
        return self.keychain.latest.command_roots[0]

    def introduction(self) -> Mapping[str, Any]:
        """Whom a device that enrolls is told to trust: these members of the answer."""
        latest = self.keychain.latest
        roots = list(latest.command_roots)
        return {"ca": "".join(latest.authorities), "command_root": roots[0], "command_roots": roots, "keys": latest.generation}

    def channel_key(self, host: str, incarnation: int) -> bytes:
        """32 bytes that only this device and Inventory know; another incarnation (a later enrollment) has another."""
        return hmac.new(self._channel_master, f"{host}\n{incarnation}".encode(), hashlib.sha256).digest()

    def issue_device(self, csr_pem: str, host: str) -> Issued:
        """Raises Invalid (`/csr`)."""
        return certificates.client(self.issuer, certificates.requested_key(csr_pem), host, "device", self._clock(), DEVICE_LIFETIME)

    def issue_integration(self, key: ec.EllipticCurvePublicKey, name: str, *, scoped: bool = False) -> Issued:
        """key: whose holder has shown that it has the private one."""
        unit = "integration-scoped" if scoped else "integration"
        return certificates.client(self.issuer, key, name, unit, self._clock(), SERVICE_LIFETIME)

    def revocation_lists(self, withdrawn: Sequence[Withdrawn], number: int) -> str:
        """A CRL of each CA that is trusted, PEM; of one whose key is not in this process's secrets, the one that takes nothing back. Empty
        where there is no CA's key at all: in a secrets directory of an earlier release."""
        issuers, others = self._crl_issuers()
        if not issuers:
            return ""
        signed = "".join(certificates.revocation_list(issuer, withdrawn, number) for issuer in issuers)
        return signed + certificates.lists_of(others, self._first_lists())

    def _crl_issuers(self) -> tuple[list[Issuer], list[x509.Certificate]]:
        """The CAs that are trusted: those with their keys, and those whose key is not here."""
        keys = [self._read_key(path.name) for path in sorted(self.directory.glob("ca*.key"))]
        issuers, others = [], []
        for certificate in x509.load_pem_x509_certificates(self._path("ca.crt").read_bytes()):
            key = next((key for key in keys if key.public_key() == certificate.public_key()), None)
            if key is None:
                others.append(certificate)
            else:
                issuers.append(Issuer(certificate, key))
        return issuers, others

    def bootstrap(self, advertised: Iterable[str] = ()) -> None:
        """Make what is missing, renew what nears its end or has another name now. Idempotent, one at a time. Raises AuthorityError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        with alone(self.directory):
            self._clear_partials()
            self.ensure(dict.fromkeys(SERVERS, _server_names(advertised)))

    def renew(self) -> None:
        """What nears its end, or is not by the CA that issues now, under running services; servers keep their names. Does nothing where
        the CA's key is not. Raises AuthorityError, OSError."""
        if not self._path("command-root.key").exists() or not self._path("ca.key").exists():
            return  # the secrets of a replica: they are renewed where the installation's are
        with alone(self.directory):
            self.ensure({name: self.names_of(name) for name in SERVERS})

    def ensure(self, names: Mapping[str, list[str]]) -> None:
        """The lock is held: make what is missing. `names`: those of each server."""
        if self._path("keys.json").exists():
            arranging.settle(self.directory)
        self._ensure_ca()
        self._ensure_crl()
        self._ensure_raw("channel-master.key")
        self._ensure_raw("session.key")
        self._ensure_raw("audit.key")
        self._ensure_vault()
        self._ensure_command_keys()
        for name in service_certificates():
            if name in SERVICES or self._path(f"{name}.key").exists():
                self._ensure_leaf(name, self._service_certificate(name), frozenset())
        for name, reached_by in names.items():
            self._ensure_leaf(name, self._server_certificate(reached_by), frozenset(reached_by))

    def names_of(self, server: str) -> list[str]:
        """Those that its certificate has, the local ones included."""
        try:
            held = certificates.alternative_names(x509.load_pem_x509_certificate(self._path(f"{server}.crt").read_bytes()))
        except (FileNotFoundError, ValueError):
            held = frozenset()  # made anew with the local ones; the next start knows the others
        return _server_names(sorted(held))

    def now(self) -> datetime:
        """What time it is, by the clock that certificates are dated with."""
        return self._clock()

    def equip(self, name: str, out: Path | None = None, *, anew: bool = False) -> list[Path]:
        """The certificate of a service or of one of its replicas (`svc-inventory.2`), renewed when it nears its end; with `out`, that
        directory with all that this role needs and nothing more; `anew`: with another key, in the place of one that is to be revoked.
        The files. Raises AuthorityError."""
        role = name.partition(".")[0]
        if name not in service_certificates():
            names = f"{', '.join(SERVICES)}, each with .2 to .{REPLICAS} for further replicas"
            raise AuthorityError(f"{name!r} is no service of this installation: there are {names}")
        with alone(self.directory):
            if anew:
                write_secret(self._path(f"{name}.key"), certificates.key_pem(certificates.new_key()))
            self._ensure_leaf(name, self._service_certificate(name), frozenset())
        found = [self._path(file) for file in (f"{name}.crt", f"{name}.key", *NEEDS[role])]
        if out is None or out.resolve() == self.directory.resolve():
            return found[:2]
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in found:
            write_secret(out / path.name, path.read_bytes())
        return [out / path.name for path in found]

    def services_issued(self) -> list[tuple[str, Issued]]:
        """The certificates of services that are here, by name."""
        paths = {name: self._path(f"{name}.crt") for name in service_certificates()}
        return [(name, certificates.as_issued(path.read_text())) for name, path in paths.items() if path.exists()]

    def delegate_anew(self) -> None:
        """After a restore: a delegation above any that devices may have seen since the backup, which voids what was signed before."""
        with alone(self.directory):
            root = SigningKey(read_raw_key(self._path("command-root.key")))
            public = bytes(SigningKey(read_raw_key(self._path("command.key"))).verify_key)
            _, mandate = read_delegation(self._path("delegation.json"))
            write_secret(self._path("delegation.json"), self._delegation(root, public, mandate.generation + RESTORED))
            if self._path("keys.json").exists():
                renumbered = self._read_keychain().renumbered(arranging.command_roots(self.directory))
                write_secret(self._path("keys.json"), renumbered.encoded())

    def rotate_command_key(self) -> int:
        """A new command key under a delegation that voids the one before, for devices from the next checkpoint or command on; its
        generation. What was signed before and is still on its way is refused there, and signed again by the dispatcher. Killed between the
        two files, the next bootstrap finishes it; until then services sign as before. Raises AuthorityError."""
        with alone(self.directory):
            root = SigningKey(read_raw_key(self._path("command-root.key")))
            _, mandate = read_delegation(self._path("delegation.json"))
            key = SigningKey.generate()
            write_secret(self._path("command.key"), b64(bytes(key)).encode() + b"\n")
            write_secret(self._path("delegation.json"), self._delegation(root, bytes(key.verify_key), mandate.generation + 1))
        return mandate.generation + 1

    # --- parts ----------------------------------------------------------------------------------------------------------------

    @cached_property
    def _channel_master(self) -> bytes:
        return read_raw_key(self._path("channel-master.key"))

    def _read_issuer(self) -> Issuer:
        try:
            certificate = x509.load_pem_x509_certificate(self._path("ca.crt").read_bytes())
        except ValueError as error:
            raise AuthorityError(f"{self._path('ca.crt')} is damaged ({error}): restore it from a backup") from None
        issuer = Issuer(certificate, self._read_key("ca.key"))
        if issuer.certificate.public_key() != issuer.key.public_key():
            raise AuthorityError(f"{self.directory}: ca.crt was not made with ca.key: restore both from the same backup")
        return issuer

    def _read_keychain(self) -> Keychain:
        path = self._path("keys.json")
        try:
            return keychain.decoded(path.read_bytes(), path)
        except FileNotFoundError:
            raise AuthorityError(f"{path} is missing: run `fleetward migrate`, or copy it from the installation's secrets") from None

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _service_certificate(self, name: str) -> Callable[[certificates.Key], Issued]:
        return lambda key: certificates.client(self.issuer, key.public_key(), name, "service", self._clock(), SERVICE_LIFETIME)

    def _server_certificate(self, names: list[str]) -> Callable[[certificates.Key], Issued]:
        return lambda key: certificates.server(self.issuer, key.public_key(), names, self._clock(), SERVICE_LIFETIME)

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
        self._read_issuer()

    def _ensure_crl(self) -> None:
        """Lists that take nothing back, for a Mosquitto to start with: older than any that the Inventory service makes."""
        issuers, others = self._crl_issuers()
        held = self._first_lists()
        if not certificates.has_lists_of([issuer.certificate for issuer in issuers], held):
            number = int((self._clock() - EARLIER).timestamp())
            fresh = "".join(certificates.revocation_list(issuer, (), number) for issuer in issuers)
            write_secret(self._path("ca.crl"), (fresh + certificates.lists_of(others, held)).encode())

    def _first_lists(self) -> bytes:
        path = self._path("ca.crl")
        return path.read_bytes() if path.exists() else b""

    def _ensure_raw(self, name: str) -> None:
        if not self._path(name).exists():
            write_secret(self._path(name), b64(secrets.token_bytes(32)).encode() + b"\n")

    def _ensure_vault(self) -> None:
        if not self._path(vault.KEY_FILE).exists():
            vault.Keys((secrets.token_bytes(32),)).write(self.directory)
        vault.Keys.read(self.directory).write_public(self.directory)

    def _ensure_command_keys(self) -> None:
        if not self._path("command-root.key").exists():
            self._refuse_orphans("command-root.key", "delegation.json")
        self._ensure_raw("command-root.key")
        self._ensure_raw("command.key")
        root = SigningKey(read_raw_key(self._path("command-root.key")))
        if not self._path("keys.json").exists():
            write_secret(self._path("keys.json"), self._first_keys(root).encoded())
        public = bytes(SigningKey(read_raw_key(self._path("command.key"))).verify_key)
        generation = self._delegated_generation(root.verify_key, public)
        if generation is not None:
            write_secret(self._path("delegation.json"), self._delegation(root, public, generation))

    def _first_keys(self, root: SigningKey) -> Keychain:
        first = KeyList(
            generation=1,
            issued_at=now_text(self._clock()),
            authorities=(self.ca_pem,),
            command_roots=(b64(bytes(root.verify_key)),),
        )
        return Keychain((keychain.signed(first, [root]),))

    def _delegated_generation(self, root: VerifyKey, public: bytes) -> int | None:
        """The generation of the delegation to make; None where the one there is will do."""
        if not self._path("delegation.json").exists():
            return 1
        delegation, mandate = read_delegation(self._path("delegation.json"))
        if not delegated_by(root, delegation):
            self._refuse_stranger(delegation)
            return mandate.generation + 1
        lasts = datetime.fromisoformat(mandate.not_after) - self._clock() > RENEW_BEFORE
        return None if lasts and mandate.public_key == b64(public) else mandate.generation + 1

    def _refuse_stranger(self, delegation: Delegation) -> None:
        """Only a root that has stood in a list may have delegated."""
        roots = {root for each in self._read_keychain().lists for root in decode_text(KeyList, each.signed).command_roots}
        if not any(delegated_by(VerifyKey(base64.b64decode(root)), delegation) for root in roots):
            raise AuthorityError("delegation.json was not made with command-root.key: restore both from the same backup")

    def _delegation(self, root: SigningKey, public: bytes, generation: int) -> bytes:
        now = self._clock()
        return delegate(root, public, generation, now - BACK_DATED, now + SERVICE_LIFETIME)

    def _ensure_leaf(self, name: str, issue: Callable[[certificates.Key], Issued], names: frozenset[str]) -> None:
        key_path, certificate_path = self._path(f"{name}.key"), self._path(f"{name}.crt")
        if not key_path.exists():
            write_secret(key_path, certificates.key_pem(certificates.new_key()))
        key = self._read_key(f"{name}.key")
        if not self._still_good(certificate_path, key, names):
            # Servers show the CA as well: a device that was told its fingerprint takes it from there.
            chain = certificates.certificate_pem(self.issuer.certificate) if names else ""
            write_secret(certificate_path, (issue(key).pem + chain).encode())

    def _still_good(self, path: Path, key: certificates.Key, names: frozenset[str]) -> bool:
        if not path.exists():
            return False
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            certificate.verify_directly_issued_by(self.issuer.certificate)
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

"""Enrollment: a key that never leaves the device, a certificate for it, and who to trust from then on.

The only module that loads X.509 code, and so only ever imported by the short-lived `enroll` command (and the simulator), never by the
agent that stays. The key is on disk before the first request and used again by the next attempt: whatever answer gets lost, the token is
not burnt, because the server repeats its answer to the same key.

Source: contract.md section 2; RFC 2986 (certification requests).
"""

import hashlib
import http.client
import ipaddress
import json
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_agent import VERSION, atomic, discovery
from edge_agent import identity as identities
from edge_agent import settings as settings_file
from edge_agent.settings import Settings
from edge_agent.trust import fingerprints

REQUEST_TIMEOUT_S = 30.0
MAX_ANSWER = 256 * 1024
MOST_MACS = 64
_MAC = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5,19}")
RETRY_S = (1.0, 60.0)
"""Bounds for how long we wait when the server says to ask again."""
_PASSING = (http.client.TOO_MANY_REQUESTS, http.client.BAD_GATEWAY, http.client.SERVICE_UNAVAILABLE, http.client.GATEWAY_TIMEOUT)
"""What a server answers that will answer otherwise in a moment."""


class EnrollFailed(Exception):
    """Enrollment did not work; the text is one line that says why and what to do."""


class Unreachable(EnrollFailed):
    """No answer."""


class WaitsForApproval(EnrollFailed):
    """The server knows us now and has yet to be told to let us in; whoever asks again with the same token and key is answered."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the server may recognise a machine by."""

    serial: str
    uuid: str
    macs: tuple[str, ...]
    hostname: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The server's answer: `status` is HTTP's."""

    status: int
    body: dict[str, Any]


_HEADERS = {"Content-Type": "application/json", "User-Agent": f"fleetward-agent/{VERSION}"}

Ask = Callable[[dict[str, Any]], Answered]
"""Sends one request for enrollment. Raises Unreachable when no answer came, EnrollFailed where none ever will."""
Wait = Callable[[float], object]
"""Lets so many seconds pass."""


def _silent(_: str) -> None:
    """For whoever has nobody to talk to."""


def enroll(
    state_dir: Path,
    ask: Ask,
    token: str,
    evidence: Evidence,
    server: str,
    *,
    broker: tuple[str, int] | None = None,
    wait: Wait | None = time.sleep,
    say: Callable[[str], None] = _silent,
) -> str:
    """Enroll this device and store its identity, with the broker at `broker` if it is not to be looked for where the server says. The
    device's id. While it has to be approved it waits and says so; with `wait` None it raises WaitsForApproval. Raises EnrollFailed."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        identities.settle(state_dir)
        key = load_or_make_key(state_dir / identities.KEY_FILE)
        answer = obtain(ask, key, token, evidence, wait, say)
        if broker is not None:
            answer = answer | {"broker": {"host": broker[0], "port": broker[1]}}
        _store(state_dir, answer, server)
    except OSError as error:
        raise EnrollFailed(f"{error.filename or state_dir}: {error.strerror or error}") from error
    return str(answer["device"])


def obtain(
    ask: Ask,
    key: ec.EllipticCurvePrivateKey,
    token: str,
    evidence: Evidence,
    wait: Wait | None,
    say: Callable[[str], None] = _silent,
) -> dict[str, Any]:
    """The server's answer for this key, checked; waits for approval, or with `wait` None raises WaitsForApproval. Raises EnrollFailed."""
    answer = _until_answered(ask, _request(key, token, evidence), lambda host: _waiting_words(host, key), wait, say)
    _check(answer, key)
    return answer


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """What people compare: hex SHA-256 of the key's SubjectPublicKeyInfo, as the server shows it."""
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _waiting_words(host: str, key: ec.EllipticCurvePrivateKey) -> str:
    how = f"on the server's page /enroll, or by `fleetward approve {host}`"
    return f"waiting for approval as {host}, with the key {fingerprint(key.public_key())}: compare it and approve it {how}"


def load_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The device's key, made and stored when there is none. Raises OSError, EnrollFailed."""
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise EnrollFailed(f"{path} is no usable key ({error}): remove it and enroll again") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise EnrollFailed(f"{path} is no EC key: remove it and enroll again")
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    atomic.write(path, pem, 0o600)
    return key


def asker(server: str, fingerprint: str | None, timeout_s: float = REQUEST_TIMEOUT_S) -> Ask:
    """How to ask `server`: plain HTTP on loopback only, else HTTPS, against the pinned CA where one is given. Raises EnrollFailed."""
    scheme, host, port, path = _address(server)
    if scheme == "http" and not _loopback(host):
        raise EnrollFailed(f"{server}: plain HTTP is for loopback only: use https://")
    pin = None if fingerprint is None else _pin(fingerprint)

    def ask(body: dict[str, Any]) -> Answered:
        try:
            connection = _connection(scheme, host, port, pin, timeout_s)
            try:
                connection.request("POST", path, json.dumps(body), _HEADERS)
                response = connection.getresponse()
                raw = response.read(MAX_ANSWER)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{server} can't be reached: {_why(error)}") from error
        answered = Answered(response.status, _object(raw))
        if scheme == "http" and pin is not None and answered.status == http.client.OK:
            _check_pin(answered.body.get("ca"), pin, server)
        return answered

    return ask


def _address(server: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path to send requests to. Raises EnrollFailed."""
    try:
        address = urlsplit(server)
        port = address.port
    except ValueError:
        address, port = urlsplit(""), None
    if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
        raise EnrollFailed(f"{server!r} is no server: it must be such as https://fleet.example:8443")
    default = http.client.HTTPS_PORT if address.scheme == "https" else http.client.HTTP_PORT
    return address.scheme, address.hostname, port or default, address.path.rstrip("/") + "/api/v1/enroll"


def _pin(fingerprint: str) -> str:
    """A fingerprint as we compare it; colons and capitals, as other tools print them, are taken. Raises EnrollFailed."""
    pin = fingerprint.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", pin):
        raise EnrollFailed(f"--ca-fingerprint {fingerprint}: must be the CA certificate's SHA-256, 64 hex digits")
    return pin


def _check_pin(ca: Any, pin: str, server: str) -> None:
    """Without TLS there is no chain to look at: the CA that the answer brings must be the pinned one. Raises EnrollFailed."""
    try:
        found = fingerprints(ca)
    except (ValueError, TypeError):
        found = []
    if pin not in found:
        raise EnrollFailed(f"{server} does not have the CA with fingerprint {pin}: is this the right server?")


def _request(key: ec.EllipticCurvePrivateKey, token: str, evidence: Evidence) -> dict[str, Any]:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return {
        "token": token,
        "csr": csr.public_bytes(serialization.Encoding.PEM).decode(),
        "evidence": {"serial": evidence.serial, "uuid": evidence.uuid, "macs": list(evidence.macs), "hostname": evidence.hostname},
        "agent_version": VERSION,
    }


def _until_answered(
    ask: Ask, request: dict[str, Any], words: Callable[[str], str], wait: Wait | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Ask until there is a certificate; a 202 means that a person has still to approve. Once the server knows us, nothing that passes ends
    the waiting: it may take until tomorrow, and the server may be restarted meanwhile."""
    said, pause = "", RETRY_S[0]
    while True:
        try:
            answer = ask(request)
        except Unreachable as error:
            if not said or wait is None:
                raise
            say(f"{error}; trying again")
            wait(RETRY_S[1])
            continue
        match answer.status:
            case http.client.OK:
                return answer.body
            case http.client.ACCEPTED:
                waits, pause = words(str(answer.body.get("request", ""))), _pause(answer.body)
            case status if said and status in _PASSING:
                waits = said
            case status:
                detail = answer.body.get("detail") or answer.body.get("title") or "no reason given"
                raise EnrollFailed(f"the server refused ({status}): {str(detail).splitlines()[0]}")
        if wait is None:
            raise WaitsForApproval(waits)
        if waits != said:
            say(waits)
        said = waits
        wait(pause)


def _pause(body: dict[str, Any]) -> float:
    """How long the server wants us to wait, in seconds, within reason."""
    asked = body.get("retry_after")
    return min(max(float(asked) if isinstance(asked, int | float) else 5.0, RETRY_S[0]), RETRY_S[1])


def _check(answer: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> None:
    """The certificate must be for our key and this device, by the CA that came with it. Raises EnrollFailed."""
    try:
        identities.parse(answer, Path())
        certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
        authorities = x509.load_pem_x509_certificates(answer["ca"].encode())
        certificate.verify_directly_issued_by(next((ca for ca in authorities if ca.subject == certificate.issuer), authorities[0]))
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, InvalidSignature) as error:
        raise EnrollFailed(f"the server's answer can't be used: {type(error).__name__}: {error}") from error
    if certificate.public_key() != key.public_key():
        raise EnrollFailed("the server's answer holds a certificate for another key")
    if names != [answer["device"]]:
        raise EnrollFailed(f"the server's answer holds a certificate for {names}, not for {answer['device']}")


def _store(state_dir: Path, answer: dict[str, Any], server: str) -> None:
    """`identity.json` comes last: as long as it lacks, the device is not enrolled. What was adopted or asked for under an earlier
    enrollment goes first. Raises OSError."""
    for name in (identities.TRUST_FILE, identities.NEXT_KEY_FILE):
        (state_dir / name).unlink(missing_ok=True)
    atomic.write(state_dir / identities.CERTIFICATE_FILE, answer["certificate"].encode(), 0o644)
    atomic.write(state_dir / identities.CA_FILE, answer["ca"].encode(), 0o644)
    settings = state_dir / identities.SETTINGS_FILE
    if not settings.exists():
        atomic.write(settings, settings_file.render(Settings()).encode(), 0o644)
    kept = {name: answer[name] for name in identities.KEPT if name in answer}
    atomic.write(state_dir / identities.IDENTITY_FILE, json.dumps({**kept, "server": server}, indent=1).encode(), 0o600)


# --- HTTP -------------------------------------------------------------------------------------------------------------------


def _connection(scheme: str, host: str, port: int, pin: str | None, timeout_s: float) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    context = ssl.create_default_context() if pin is None else _pinned(host, port, pin, timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _pinned(host: str, port: int, pin: str, timeout_s: float) -> ssl.SSLContext:
    """A context that trusts one CA: that of the chain which the server shows and whose SHA-256 is the pinned one.

    The first handshake only fetches the chain; nothing is sent over it. The request goes over a second one, checked in full.
    """
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host, port), timeout_s) as raw, blind.wrap_socket(raw, server_hostname=host) as shown:
        chain = _chain(shown)
    for certificate in chain:
        if hashlib.sha256(certificate).hexdigest() == pin:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=certificate)
            return context
    raise EnrollFailed(f"{host}:{port} does not show the CA with fingerprint {pin}: is this the right server?")


def _chain(shown: ssl.SSLSocket) -> list[bytes]:
    """The certificates that the server shows, in DER. The method has been there since 3.10, under a public name only since 3.13."""
    inner: Any = shown._sslobj  # type: ignore[attr-defined]
    found = inner.get_unverified_chain() or []
    return [
        certificate if isinstance(certificate, bytes) else ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in found
    ]


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); give --ca-fingerprint"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def evidence(root: Path = Path("/")) -> Evidence:
    """Of this machine, as its facts will say it; what can't be read is empty."""
    firmware = discovery.scan(root, ["firmware"]).sections.get("firmware", {})
    return Evidence(
        serial=str(firmware.get("serial") or ""),
        uuid=str(firmware.get("uuid") or "").lower(),
        macs=tuple(_macs(root)),
        hostname=socket.gethostname(),
    )


def _macs(root: Path) -> list[str]:
    """Of the network cards with a device behind them."""
    found = []
    for card in sorted((root / "sys/class/net").glob("*")):
        try:
            mac = (card / "address").read_text(encoding="ascii").strip().lower()
        except (OSError, UnicodeDecodeError):
            continue
        if (card / "device").exists() and _MAC.fullmatch(mac) and mac != "00:00:00:00:00:00":
            found.append(mac)
    return found[:MOST_MACS]

"""X.509 on the device: looks at the certificate, asks for the next one, and puts it in its place. A process of its own, a job a run.

Beside `enroll` the only module that loads X.509 code, so that the agent that stays never holds it; `keeper` starts it as `python -m
edge_agent.certificates JOB --state-dir D` and reads one JSON object from its standard output, {`error`, `denied`} where it did not work. A
job may be killed at any point and run again: the next key is on disk before anybody is asked to certify it, and taken up again; the next
certificate is written once it is known to fit, and `identity.settle` then moves both.

Source: contract.md sections 2 and 3; RFC 2986 (certification requests), RFC 5280; docs/adr/0017-renewal.md.
"""

import argparse
import base64
import http.client
import json
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.messages import CertificateAnswer, CertificateRequest, ContractError, Keys, decode, encode, now_text, to_json
from broker.topics import DeviceTopic
from edge_agent import VERSION, atomic, identity, trust
from edge_agent.identity import Identity
from edge_agent.signals import Held
from edge_agent.trust import Ring

TIMEOUT_S = 30.0
MAX_ANSWER = 512 * 1024
KEPT_PRIVATE = 0o600

Key = ec.EllipticCurvePrivateKey
Post = Callable[[str, Mapping[str, Any]], tuple[int, Mapping[str, Any]]]
"""Posts a JSON object to a path of the server: HTTP's status, and the object that came back. Raises OSError."""


class RenewalError(Exception):
    """It did not work; the text says why. `denied`: the server has said no."""

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


# --- what it all is made of: no files ---------------------------------------------------------------------------------------------


def held(certificate_pem: bytes, authorities_pem: bytes) -> Held:
    """What a certificate is. Its CA is the one of that name among those trusted: nobody else wrote either file. Raises RenewalError."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        authorities = x509.load_pem_x509_certificates(authorities_pem)
    except ValueError as error:
        raise RenewalError(f"the certificate can't be read: {error}") from error
    issuer = next((each.fingerprint(hashes.SHA256()).hex() for each in authorities if each.subject == certificate.issuer), "")
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Held(f"{certificate.serial_number:x}", issuer, begins.timestamp(), ends.timestamp())


def request(present_key: Key, certificate_pem: bytes, next_key: Key) -> CertificateRequest:
    """For a certificate of `next_key` in the place of the present one."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(next_key, hashes.SHA256())
    csr = made.public_bytes(serialization.Encoding.PEM).decode()
    proof = base64.b64encode(present_key.sign(csr.encode(), ec.ECDSA(hashes.SHA256()))).decode()
    return CertificateRequest(csr=csr, replaces=f"{x509.load_pem_x509_certificate(certificate_pem).serial_number:x}", proof=proof)


def check(certificate_pem: str, key: Key, device: str, authorities_pem: bytes) -> None:
    """A certificate that came must be of our key and name, by a CA that we trust, and not have ended. Raises RenewalError."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if certificate.public_key() != key.public_key():
            raise ValueError("it is for another key")
        if names != [device]:
            raise ValueError(f"it is for {names}")
        issuer = next((each for each in x509.load_pem_x509_certificates(authorities_pem) if each.subject == certificate.issuer), None)
        if issuer is None:
            raise ValueError("it is by a CA that is not trusted here")
        certificate.verify_directly_issued_by(issuer)
    except Exception as error:  # InvalidSignature has no text, and what parsers raise for hostile bytes is not listed anywhere
        raise RenewalError(f"the server's certificate can't be used: {type(error).__name__}: {error}") from error


def appeal(me: Identity, asked: CertificateRequest, ring: Ring, post: Post) -> tuple[str, Ring]:
    """Ask the server over HTTP: the certificate (PEM), and whom to trust by now. What is sent and what comes back is authenticated by
    itself, so that it does not matter that the server's own certificate may be by a CA that is not known here. Raises RenewalError."""
    up, down = (me.topics.build(DeviceTopic(me.device, suffix)) for suffix in (CertificateRequest.suffix, CertificateAnswer.suffix))
    payload = encode(asked, sent_at=now_text(), topic=up, key=me.channel_key).decode()
    try:
        status, found = post("/api/v1/renew", {"device": me.device, "request": payload})
    except (OSError, http.client.HTTPException) as error:
        raise RenewalError(f"{me.server} can't be reached: {error}") from error
    if status != http.client.OK:
        detail = str(found.get("detail") or found.get("title") or "no reason given").splitlines()[0]
        raise RenewalError(f"the server refused ({status}): {detail}", denied=status == http.client.FORBIDDEN)
    try:
        answer = decode(CertificateAnswer.suffix, _bytes(found, "answer"), topic=down, key=me.channel_key)
        keys = decode(Keys.suffix, _bytes(found, "keys"))
        assert isinstance(answer, CertificateAnswer) and isinstance(keys, Keys), "their suffixes say so"
        followed = trust.follow(ring, keys)
    except (ContractError, trust.Untrusted) as error:
        raise RenewalError(f"the server's answer is not to be believed: {error}") from error
    if answer.certificate is None or answer.replaces != asked.replaces:
        raise RenewalError(answer.message or "the server gave no certificate", denied=answer.certificate is None)
    return answer.certificate, followed


def poster(server: str) -> Post:
    """Over HTTP or HTTPS, to whoever answers there (see `appeal`)."""

    def post(path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        address = urlsplit(server)
        connection: http.client.HTTPConnection
        if address.scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection(address.hostname or "", address.port, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
        try:
            headers = {"Content-Type": "application/json", "User-Agent": f"fleetward-agent/{VERSION}"}
            connection.request("POST", address.path.rstrip("/") + path, json.dumps(body), headers)
            response = connection.getresponse()
            raw = response.read(MAX_ANSWER)
        finally:
            connection.close()
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        return response.status, found if isinstance(found, dict) else {}

    return post


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def read_key(pem: bytes, where: object) -> Key:
    """Raises RenewalError naming `where`."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise RenewalError(f"{where} is no usable key ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RenewalError(f"{where} is no EC key")
    return key


def _bytes(found: Mapping[str, Any], name: str) -> bytes:
    value = found.get(name)
    if not isinstance(value, str):
        raise ContractError(f"{name}: must be a text")
    return value.encode()


# --- the jobs, on the state directory ---------------------------------------------------------------------------------------------


def inspect(state_dir: Path) -> dict[str, Any]:
    """{`held`}. Raises RenewalError, OSError."""
    identity.settle(state_dir)
    return {"held": asdict(_held(state_dir))}


def prepare(state_dir: Path) -> dict[str, Any]:
    """{`request`}: the next key is on disk. Raises RenewalError, OSError."""
    identity.settle(state_dir)
    return {"request": to_json(_request(state_dir))}


def install(state_dir: Path, certificate: str) -> dict[str, Any]:
    """{`held`}: the certificate is in its place, with its key. Raises RenewalError, OSError, NotEnrolled."""
    identity.settle(state_dir)
    _install(state_dir, identity.load(state_dir), certificate)
    return inspect(state_dir)


def readmit(state_dir: Path) -> dict[str, Any]:
    """{`held`, `ring`}: likewise, with a certificate that the server was asked for over HTTP. Raises RenewalError, OSError, NotEnrolled."""
    identity.settle(state_dir)
    me = identity.load(state_dir)
    certificate, ring = appeal(me, _request(state_dir), me.ring, poster(me.server))
    if ring is not me.ring:
        identity.adopt(state_dir, ring)
    _install(state_dir, me, certificate)
    roots = [base64.b64encode(root).decode() for root in ring.roots]
    said = {"generation": ring.generation, "roots": roots, "authorities": list(ring.authorities)}
    return {**inspect(state_dir), "ring": said}


def _held(state_dir: Path) -> Held:
    return held((state_dir / identity.CERTIFICATE_FILE).read_bytes(), (state_dir / identity.CA_FILE).read_bytes())


def _request(state_dir: Path) -> CertificateRequest:
    path = state_dir / identity.KEY_FILE
    present = read_key(path.read_bytes(), path)
    return request(present, (state_dir / identity.CERTIFICATE_FILE).read_bytes(), _next_key(state_dir))


def _next_key(state_dir: Path) -> Key:
    """Taken up from an earlier request, whose answer may be on its way; a damaged one is made anew."""
    path = state_dir / identity.NEXT_KEY_FILE
    if path.exists():
        try:
            return read_key(path.read_bytes(), path)
        except RenewalError as error:
            print(f"{error}: another one is made", file=sys.stderr)
    key = new_key()
    atomic.write(path, key_pem(key), KEPT_PRIVATE)
    return key


def _install(state_dir: Path, me: Identity, certificate: str) -> None:
    path = state_dir / identity.NEXT_KEY_FILE
    if not path.exists():
        if (state_dir / identity.CERTIFICATE_FILE).read_bytes() == certificate.encode():
            return  # by a run that was ended before it could say so
        raise RenewalError("there is no key that a certificate was asked for")
    check(certificate, read_key(path.read_bytes(), path), me.device, (state_dir / identity.CA_FILE).read_bytes())
    atomic.write(state_dir / identity.NEXT_CERTIFICATE_FILE, certificate.encode(), 0o644)
    identity.settle(state_dir)


def summary(state_dir: Path, now: datetime | None = None) -> tuple[bool, str]:
    """Whether the certificate is good for now, and in words how long or what to do; for `doctor`. Raises RenewalError, OSError."""
    ends = datetime.fromtimestamp(_held(state_dir).expires_at, UTC)
    left = ends - (now or datetime.now(UTC))
    if left.total_seconds() > 0:
        return True, f"the certificate ends on {ends.date()}, in {left.days} days; it renews itself while the agent is connected"
    return False, (
        f"the certificate ended on {ends.date()}: within the server's grace period (30 days by default) the agent gets another one by "
        "itself, over HTTP; the agent's log says whether it does. After that, enroll with a new token: fleetward-agent enroll"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edge_agent.certificates", description="Called by the agent.")
    parser.add_argument("job", choices=("inspect", "prepare", "install", "readmit"))
    parser.add_argument("--state-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        match options.job:
            case "inspect":
                said = inspect(options.state_dir)
            case "prepare":
                said = prepare(options.state_dir)
            case "install":
                said = install(options.state_dir, sys.stdin.read())
            case _:
                said = readmit(options.state_dir)
    except RenewalError as error:
        said = {"error": str(error), "denied": error.denied}
    except (OSError, identity.NotEnrolled) as error:
        said = {"error": str(error), "denied": False}
    print(json.dumps(said))
    return 1 if "error" in said else 0


if __name__ == "__main__":
    sys.exit(main())

"""X.509 as this installation uses it: its CA's certificate, leaf certificates for the wire, requests for them, and CRLs. Pure.

Every key is EC P-256. A subject is CN = name and OU = class (`device`, `service`, `integration`, `integration-scoped`); what a requester
writes into a CSR's subject or extensions counts for nothing, only its public key does. Validity begins 48 h before now, because device
clocks lie (design.md section 4). No file is touched here: that is `inventory.authority`, the only caller.

Source: RFC 5280 (profile), RFC 2986 (PKCS #10).
"""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from inventory.errors import Invalid, Problem

BACK_DATED = timedelta(hours=48)
"""How far before now a certificate's validity begins: a device's clock may be that much behind."""

CA_LIFETIME = timedelta(days=20 * 365)
HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*")
MAX_CSR_BYTES = 16 * 1024
ORGANIZATION = "Fleetward"
_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate as handed out: PEM, serial number in hex, end of validity (UTC)."""

    pem: str
    serial: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Issuer:
    """The CA's certificate with its key."""

    certificate: x509.Certificate
    key: Key


class Why(StrEnum):
    """Why a certificate is taken back."""

    REVOKED = "revoked"
    """A person has said so."""
    SUPERSEDED = "superseded"
    """Its machine has enrolled anew."""
    UNTRUSTED = "untrusted"
    """Its host is: until it is trusted again."""
    DELETED = "deleted"
    """Its host is, or is on its way."""


_REASONS = {
    Why.REVOKED: x509.ReasonFlags.privilege_withdrawn,
    Why.SUPERSEDED: x509.ReasonFlags.superseded,
    Why.UNTRUSTED: x509.ReasonFlags.certificate_hold,
    Why.DELETED: x509.ReasonFlags.cessation_of_operation,
}


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A certificate that is taken back: its serial number in hex, and whose it was (its common name)."""

    serial: str
    name: str
    why: Why


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def read_key(pem: bytes) -> Key:
    """Raises ValueError for what is no EC P-256 private key in PEM."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an EC key")
    return key


def certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """What a public key is known by: hex SHA-256 of its SubjectPublicKeyInfo (DER)."""
    return hashlib.sha256(_spki(key)).hexdigest()


def pin(certificate: x509.Certificate) -> str:
    """`sha256//` and the base64 SHA-256 of the certificate's public key (RFC 7469's, as curl writes it)."""
    key = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "sha256//" + base64.b64encode(hashlib.sha256(key).digest()).decode()


def self_signed(key: Key, name: str, now: datetime) -> x509.Certificate:
    """The CA's own certificate."""
    subject = _subject(name, "authority")
    builder = _builder(subject, subject, key.public_key(), now, CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.sign(key, hashes.SHA256())


def client(issuer: Issuer, key: ec.EllipticCurvePublicKey, name: str, unit: str, now: datetime, lifetime: timedelta) -> Issued:
    """A certificate to connect with."""
    return _leaf(issuer, key, _subject(name, unit), ExtendedKeyUsageOID.CLIENT_AUTH, (), now, lifetime)


def server(issuer: Issuer, key: ec.EllipticCurvePublicKey, names: Iterable[str], now: datetime, lifetime: timedelta) -> Issued:
    """A certificate to be connected to under these host names and addresses; the first is its CN."""
    names = list(names)
    return _leaf(issuer, key, _subject(names[0], "server"), ExtendedKeyUsageOID.SERVER_AUTH, names, now, lifetime)


def revocation_list(issuer: Issuer, withdrawn: Iterable[Withdrawn], number: int) -> str:
    """A CRL (RFC 5280 section 5), PEM. `number` is its number, and, in seconds since 1970, its time: of two lists OpenSSL goes by the later
    one, to the second. It ends with the CA, because a broker whose list has ended refuses everybody; news is brought, not waited for."""
    begins = datetime.fromtimestamp(number, UTC) - BACK_DATED
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject).last_update(begins)
    builder = builder.next_update(begins + CA_LIFETIME).add_extension(x509.CRLNumber(number), critical=False)
    subject_key = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)
    builder = builder.add_extension(authority, critical=False)
    for one in withdrawn:
        entry = x509.RevokedCertificateBuilder().serial_number(int(one.serial, 16)).revocation_date(begins)
        builder = builder.add_revoked_certificate(entry.add_extension(x509.CRLReason(_REASONS[one.why]), critical=False).build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def as_issued(pem: str) -> Issued:
    """A certificate that was handed out earlier. Raises ValueError for what is none."""
    found = x509.load_pem_x509_certificate(pem.encode())
    return Issued(pem, f"{found.serial_number:x}", found.not_valid_after_utc)


def lists_of(authorities: Sequence[x509.Certificate], pem: bytes) -> str:
    """The CRLs among these that these CAs have signed, PEM."""
    kept = [crl for crl in _crls(pem) if any(_is_by(crl, authority) for authority in authorities)]
    return "".join(crl.public_bytes(serialization.Encoding.PEM).decode() for crl in kept)


def has_lists_of(authorities: Sequence[x509.Certificate], pem: bytes) -> bool:
    """Whether there is a CRL of each of these CAs among these."""
    found = _crls(pem)
    return all(any(_is_by(crl, authority) for crl in found) for authority in authorities)


def _crls(pem: bytes) -> list[x509.CertificateRevocationList]:
    """Those that can be read: what is damaged is made anew."""
    found = []
    for block in _CRL.findall(pem):
        try:
            found.append(x509.load_pem_x509_crl(block))
        except ValueError:
            pass  # as if it were not there
    return found


def _is_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.issuer == authority.subject and crl.is_signature_valid(_ec_key(authority))
    except (TypeError, UnsupportedAlgorithm):
        return False


def _ec_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Raises TypeError: no other is issued."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("not an EC key")
    return key


def alternative_names(certificate: x509.Certificate) -> frozenset[str]:
    """The host names and addresses that a server's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(names.get_values_for_type(x509.DNSName)) | {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}


def alternative_name(text: str) -> str:
    """A host name or address as certificates hold it. Raises ValueError for what can be neither."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass  # a host name then
    if not HOST_NAME.fullmatch(text):
        raise ValueError("must be a host name or an IP address")
    return text.lower()


def requested_key(csr_pem: str, pointer: str = "/csr") -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request that proves to hold its private key. Raises Invalid naming `pointer`."""
    try:
        if len(csr_pem) > MAX_CSR_BYTES:
            raise ValueError(f"is longer than {MAX_CSR_BYTES} characters")
        request = x509.load_pem_x509_csr(csr_pem.encode("ascii"))
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("its key must be EC P-256")
        if not request.is_signature_valid:
            raise ValueError("its signature does not fit its key")
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        detail = f"must be a PKCS #10 certificate request in PEM: {error}"
        raise Invalid(f"csr: {detail}", errors=(Problem(pointer, detail),)) from None
    return key


def issued_by(issuer: Issuer, pem: str) -> bool:
    """Whether a certificate is by this CA."""
    try:
        x509.load_pem_x509_certificate(pem.encode()).verify_directly_issued_by(issuer.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def proves(pem: str, signature: str, signed: str) -> bool:
    """Whether the key of a certificate made this signature (ECDSA with SHA-256, DER, base64)."""
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), signed.encode(), ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def _leaf(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    purpose: x509.ObjectIdentifier,
    names: Iterable[str],
    now: datetime,
    lifetime: timedelta,
) -> Issued:
    issuer_key = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = _builder(subject, issuer.certificate.subject, key, now, lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
    general = [_general_name(name) for name in names]
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    made = builder.sign(issuer.key, hashes.SHA256())
    return Issued(certificate_pem(made), f"{made.serial_number:x}", made.not_valid_after_utc)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = now.astimezone(UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACK_DATED)
        .not_valid_after(now + lifetime)
    )


def _subject(name: str, unit: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

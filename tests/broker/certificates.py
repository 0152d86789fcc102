"""Certificates for tests: a CA of their own, the broker's certificate, and a certificate for any client."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.acl import BROKER, Class


class CertFactory:
    """Writes `ca.crt`, `ca.crl`, `broker.{crt,key}` and, on demand, `{name}.{crt,key}` into a directory, laid out as secrets are."""

    def __init__(self, directory: Path, name: str = "Test CA") -> None:
        self.directory = directory
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        ca = self._builder(self._ca_name, self._ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._write("ca", ca.sign(self._ca_key, hashes.SHA256()), self._ca_key)
        (self.directory / "ca.crl").write_text(self.crl(0))
        self.broker()
        self.client(BROKER, Class.SERVICE)

    def broker(self) -> None:
        """Make the broker's certificate, anew if there is one."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
        certificate = self._builder(subject, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._write("broker", certificate.sign(self._ca_key, hashes.SHA256()), key)

    def crl(self, number: int, *names: str) -> str:
        """The CA's word that these clients' certificates are taken back; the higher number counts."""
        begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2) + datetime.timedelta(seconds=number)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._ca_name).last_update(begins)
        builder = builder.next_update(begins + datetime.timedelta(days=30))
        for name in names:
            entry = x509.RevokedCertificateBuilder().serial_number(int(self.serial(name), 16)).revocation_date(begins)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def serial(self, name: str) -> str:
        """Of a client's certificate, in hex."""
        return f"{x509.load_pem_x509_certificate((self.directory / f'{name}.crt').read_bytes()).serial_number:x}"

    def client(self, name: str, kind: Class | str, ends_h: float = 24) -> tuple[Path, Path]:
        """Certificate and key of a client, made once a name; it ends in so many hours."""
        certificate, key_path = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        if not certificate.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            parts = [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, str(kind))]
            self._write(name, self._builder(x509.Name(parts), key, ends_h).sign(self._ca_key, hashes.SHA256()), key)
        return certificate, key_path

    def client_context(self, name: str, kind: Class | str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.directory / "ca.crt"))
        context.load_cert_chain(*self.client(name, kind))
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, ends_h: float = 24) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=48))
            .not_valid_after(now + datetime.timedelta(hours=ends_h))
        )

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        pem = serialization.Encoding.PEM
        (self.directory / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
        plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.directory / f"{name}.key").write_bytes(plain)

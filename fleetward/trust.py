"""The installation's CA as devices are told of it: by fingerprint, so that the first contact over HTTPS is with the right server."""

import hashlib
import re
import ssl
from pathlib import Path

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def certificates(file: Path) -> list[str]:
    """Those in a file of PEM blocks; of `ca.crt` the one that issues first. Raises OSError."""
    return _CERTIFICATE.findall(file.read_text())


def fingerprint(file: Path) -> str:
    """SHA-256 of the first certificate in a file (DER), hex. Raises OSError, ValueError."""
    found = certificates(file)
    if not found:
        raise ValueError(f"{file} holds no certificate")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest()

"""The installation's CA as devices are told of it: by fingerprint, so that the first contact over HTTPS is with the right server."""

import hashlib
import ssl
from pathlib import Path


def fingerprint(certificate: Path) -> str:
    """SHA-256 of the certificate (DER), hex. Raises OSError, ValueError."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()

"""What to run on a device that is to join, as `token create` tells it: one line that any Linux machine takes."""

import base64
import hashlib
import shlex
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


def command(server: str, ca: Path | None) -> str:
    """With TOKEN in the token's place. Where the server has a CA of its own, which no device knows yet, its key is pinned: it is asked for
    it, and checked. Raises OSError."""
    curl = "curl -fsSL" if ca is None else f"curl -fsSLk --pinnedpubkey {shlex.quote(_pin(server, ca))}"
    return f"{curl} {server}/install.sh | sudo sh -s -- --token TOKEN"


def _pin(server: str, ca: Path) -> str:
    """As `curl --pinnedpubkey` takes it."""
    # Only this needs X.509, which takes a tenth of a second to load.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    address = urlsplit(server)
    host, port = str(address.hostname), address.port or 443
    context = ssl.create_default_context(cafile=str(ca))
    with socket.create_connection((host, port), TIMEOUT_S) as raw, context.wrap_socket(raw, server_hostname=host) as secured:
        certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256//" + base64.b64encode(hashlib.sha256(key).digest()).decode()

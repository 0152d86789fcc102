"""Secrets that have to be read again, sealed under the installation's session key: AES-256-GCM, a key of its own for each purpose.

What is sealed is bound to a context, such as whose it is, and opens in no other. Pure. Called by `inventory.second_factor`, and by the web
process for what a browser carries about and must neither read nor change.

Source: NIST SP 800-38D (GCM, random 96-bit nonces), RFC 5869 (HKDF).
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES: int = 12


class Unsealable(Exception):
    """It was sealed under another key, for another purpose or context, or has been changed."""


def seal(key: bytes, purpose: str, context: str, secret: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher(key, purpose).encrypt(nonce, secret, context.encode())


def unseal(key: bytes, purpose: str, context: str, sealed: bytes) -> bytes:
    """Raises Unsealable."""
    try:
        return _cipher(key, purpose).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode())
    except (InvalidTag, ValueError):
        raise Unsealable("it was not sealed here, or has been changed") from None


def _cipher(key: bytes, purpose: str) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=f"fleetward {purpose}".encode()).derive(key))

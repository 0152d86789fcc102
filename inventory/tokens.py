"""Enrollment tokens: how their secrets are made, and what is kept of them. Pure.

A secret is shown once, in the answer to the request that made it, and kept as a hash only. Where that request carries an idempotency key,
its repetition must give the same secret, which is not stored: so it is derived from the installation's session key.

Called by the web process, which makes them, and by enrollment, which looks them up.
"""

import base64
import hashlib
import hmac
import secrets
from datetime import datetime

PREFIX = "fwt_"
"""A secret is told by it in logs and scanners, and never begins with a dash, which a command line would take for an option."""


def random_secret() -> str:
    """256 random bits, in characters that need no quoting."""
    return PREFIX + secrets.token_urlsafe(32)


def derived_secret(key: bytes, claim: str, at: datetime) -> str:
    """The same for the same claim of an idempotency key, taken at the same time; anything else tells nothing of it."""
    message = f"enrollment-token\n{claim}\n{at.isoformat()}".encode()
    return PREFIX + base64.urlsafe_b64encode(hmac.digest(key, message, hashlib.sha256)).decode().rstrip("=")


def stored_hash(secret: str) -> str:
    """SHA-256, hex: what is kept of a secret, and what a presented one is looked up by."""
    return hashlib.sha256(secret.encode()).hexdigest()

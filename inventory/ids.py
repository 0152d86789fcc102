"""Ids: a kind's prefix and a lower-case ULID, so that ids made later sort later and two never meet.

Source: the ULID specification (48 bits of milliseconds, 80 random bits, Crockford's base 32).
"""

import secrets
import time
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def ulid() -> str:
    """26 characters."""
    number = int(time.time() * 1000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def first_id(prefix: str, at: datetime) -> str:
    """What sorts before every id of the prefix that was made at that moment or later, and after those made before."""
    number = int(at.timestamp() * 1000) << 80
    return f"{prefix}-" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def new_id(prefix: str) -> str:
    return f"{prefix}-{ulid()}"

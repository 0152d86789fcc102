"""Passwords: which are good enough, how they are kept, and the one-time ones that administrators hand out.

What makes a password good is its length and that nobody else thought of it: no rule about characters. `check_new` is the only judge; it
looks the password up in a list of common ones (`common_passwords.txt.gz`, its source and licence beside it), also with what people put
around or into such a word to get past a list. Kept is an argon2id hash, made and compared off the event loop. Called by
`inventory.accounts`, `inventory.users` and the web process.

Source: NIST SP 800-63B-4 section 3.1.1; OWASP Password Storage Cheat Sheet (argon2id).
"""

import asyncio
import gzip
import hashlib
import hmac
import secrets
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from inventory.errors import Invalid, Problem

SHORTEST: int = 12
"""Characters. NIST asks for 15 of a password that stands alone and for 8 beside a second factor, which here everybody may have and nobody
must."""
LONGEST: int = 1024
"""Characters; argon2 hashes them all, so there is an end."""
ONE_TIME = timedelta(days=3)
"""How long a password that an administrator handed out may wait to be used: over a weekend."""

_LETTERS = "abcdefghjkmnpqrstvwxyz23456789"
"""Without those that are taken for one another."""
_LOOKS_LIKE = str.maketrans("04@5$371!|", "oaassetiii")
_FEWEST_DIFFERENT: int = 5
"""Different characters in a password, below which it is the same thing over and over."""

_hasher = PasswordHasher()
_hashing = ThreadPoolExecutor(max_workers=2, thread_name_prefix="argon2")
"""Off the event loop, and not more at once than there are cores: each takes 64 MiB for 50 ms."""


def check_new(password: str, name: str, pointer: str = "/password") -> None:
    """Raises Invalid, with what is wrong, where it is too short, too long, common, or made of the user's own name."""
    if words := _wrong(normal(password), name):
        raise Invalid(f"{pointer.lstrip('/')}: {words}", errors=(Problem(pointer, words),))


def _wrong(password: str, name: str) -> str:
    if len(password) < SHORTEST:
        return f"must have at least {SHORTEST} characters; a few words that don't belong together are easy to keep in mind"
    if len(password) > LONGEST:
        return f"must have at most {LONGEST} characters"
    bare = _bare(password)
    if len(set(password)) < _FEWEST_DIFFERENT:
        return "is the same few characters over and over"
    if bare and bare in (_bare(name), _bare(name.partition("@")[0]), "fleetward"):
        return "is made of a name that everybody knows"
    if password.casefold() in _common() or bare in _common() or not bare:
        return "is one of the first that anybody would try"
    return ""


def _bare(password: str) -> str:
    """What is left without what people add to a word: repetition, digits and signs around it, digits that look like letters."""
    word = password.casefold().strip("0123456789!@#$%^&*()-_=+.,;:?/ ").translate(_LOOKS_LIKE).replace(" ", "")
    for length in range(1, len(word) // 2 + 1):
        if len(word) % length == 0 and word == word[:length] * (len(word) // length):
            return word[:length]
    return word


@cache
def _common() -> frozenset[str]:
    """Read at the first password that is set, not at import: every process of the inventory would pay for it."""
    raw = files("inventory").joinpath("common_passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(raw).decode().split("\n"))


def normal(password: str) -> str:
    """NFKC, so that a password is the same from every keyboard (NIST SP 800-63B-4 section 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


async def hashed(password: str) -> str:
    """The argon2id hash to keep. 50 ms of a core, off the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_hashing, _hasher.hash, normal(password))


async def matches(kept: str | None, password: str) -> bool:
    """Whether that is the password. Takes as long where there is none (None, or empty)."""
    return await asyncio.get_running_loop().run_in_executor(_hashing, _matches, kept, normal(password))


def _matches(kept: str | None, password: str) -> bool:
    nobody = _nobody()  # by known and unknown names alike: the first one of a process waits for it whoever it is
    try:
        _hasher.verify(kept or nobody, password)
        return bool(kept)
    except (VerifyMismatchError, InvalidHashError):
        return False


@cache
def _nobody() -> str:
    """Verified against where the name is unknown, so that the time taken tells nothing. Made at the first sign-in, not at import: every
    process of the inventory would pay for it."""
    return _hasher.hash(secrets.token_hex(16))


def random_password() -> str:
    """About 78 bits, easily typed: four groups of four."""
    return _grouped("".join(secrets.choice(_LETTERS) for _ in range(16)))


def derived_password(key: bytes, claim: str, at: datetime) -> str:
    """The same for the same claim of an idempotency key, taken at the same time, as it is not stored: out of the installation's session
    key."""
    digest = int.from_bytes(hmac.digest(key, f"one-time-password\n{claim}\n{at.isoformat()}".encode(), hashlib.sha256))
    return _grouped("".join(_LETTERS[digest // len(_LETTERS) ** place % len(_LETTERS)] for place in range(16)))


def _grouped(letters: str) -> str:
    return "-".join(letters[start : start + 4] for start in range(0, len(letters), 4))

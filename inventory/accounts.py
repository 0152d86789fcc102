"""People and programs that sign in: users with passwords, the sessions of their browsers, and bearer tokens.

Accounts are no resources: they make no changes and are never published. Of every secret only a hash is kept: argon2id of passwords, which
people choose; SHA-256 of tokens and cookies, which are 256 random bits. What a role may do is `inventory.access`'s business. Called by
the web process for every request, and by the bootstrap that makes the first administrator.

Source: OWASP Password Storage Cheat Sheet (argon2id), Session Management Cheat Sheet.
"""

import asyncio
import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from inventory.access import ROLES
from inventory.db import SQL, Database
from inventory.tables import ApiToken, User

TOUCH = timedelta(minutes=1)
"""A session's `seen_at` is written this often at most, so that reading a page is not a write each time."""

_hasher = PasswordHasher()
_hashing = ThreadPoolExecutor(max_workers=2, thread_name_prefix="argon2")
"""Off the event loop, and not more at once than there are cores: each takes 64 MiB for 50 ms."""


@cache
def _nobody() -> str:
    """Verified against where the name is unknown, so that the time taken tells nothing. Made at the first sign-in, not at import: every
    process of the inventory would pay for it."""
    return _hasher.hash(secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Account:
    """Who has been recognised: a user, or a token by its name."""

    id: str
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has signed in. `csrf` must come with each of its unsafe requests."""

    account: Account
    csrf: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session: the cookie's secret, shown this once, and the token against forged requests."""

    secret: str
    csrf: str


def new_secret() -> str:
    """256 random bits, in characters that need no quoting. Never with a dash in front, which a command line would take for an option."""
    return "fws_" + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored of a token or a cookie."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def add_user(db: Database, name: str, password: str, role: str, now: datetime) -> bool:
    """Make a user; False, and nothing changed, where the name is taken. Raises ValueError for an unknown role."""
    _check_role(role)
    hashed = await asyncio.get_running_loop().run_in_executor(_hashing, _hasher.hash, password)
    async with db.transaction() as tx:
        if await User.filter(name=name).using_db(tx.client).exists():
            return False
        identifier = f"user-{secrets.token_hex(13)}"
        await User.create(id=identifier, name=name, password=hashed, role=role, created_at=now, using_db=tx.client)
        return True


async def has_users(db: Database) -> bool:
    """Whether anybody can sign in: False on a fresh installation."""
    async with db.transaction() as tx:
        return await User.all().using_db(tx.client).exists()


async def check_password(db: Database, name: str, password: str) -> Account | None:
    """The user of that name and password. Takes as long for a name that there is not."""
    async with db.transaction() as tx:
        user = await User.filter(name=name).using_db(tx.client).first()
    matches = await asyncio.get_running_loop().run_in_executor(_hashing, _matches, None if user is None else user.password, password)
    return Account(user.id, user.name, user.role) if matches and user is not None else None


def _matches(stored: str | None, password: str) -> bool:
    nobody = _nobody()  # by known and unknown names alike: the first one of a process waits for it whoever it is
    try:
        return _hasher.verify(stored or nobody, password)
    except (VerifyMismatchError, InvalidHashError):
        return False


async def open_session(db: Database, account: Account, address: str, now: datetime, longest: timedelta) -> Opened:
    """Remember that this browser has signed in, until `now + longest` at the most. Forgets sessions that have ended."""
    opened = Opened(new_secret(), secrets.token_urlsafe(24))
    async with db.transaction() as tx:
        await tx.raw.execute("DELETE FROM sessions WHERE expires_at <= $1", now)
        await tx.raw.execute(SQL["open_session"], digest(opened.secret), account.id, opened.csrf, now, now + longest, address)
    return opened


async def find_session(db: Database, secret: str, now: datetime, idle: timedelta) -> Session | None:
    """The session of a cookie, unless it has ended or was idle too long."""
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["find_session"], digest(secret), now, now - idle)
        if row is None:
            return None
        if now - row["seen_at"] > TOUCH:
            await connection.execute("UPDATE sessions SET seen_at = $2 WHERE token_hash = $1", digest(secret), now)
    return Session(Account(row["id"], row["name"], row["role"]), row["csrf"])


async def close_session(db: Database, secret: str) -> None:
    async with db.transaction() as tx:
        await tx.raw.execute("DELETE FROM sessions WHERE token_hash = $1", digest(secret))


async def put_token(db: Database, name: str, role: str, secret: str, now: datetime, expires_at: datetime | None = None) -> None:
    """Make the token of this name be that secret; an earlier one of the name ends. Raises ValueError for an unknown role."""
    _check_role(role)
    values = {"token_hash": digest(secret), "role": role, "created_at": now, "expires_at": expires_at}
    async with db.transaction() as tx:
        await ApiToken.filter(name=name).using_db(tx.client).delete()
        await ApiToken.create(id=f"token-{secrets.token_hex(13)}", name=name, using_db=tx.client, **values)


async def find_token(db: Database, secret: str, now: datetime) -> Account | None:
    """Whose bearer token it is, unless it has expired."""
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["find_token"], digest(secret), now)
    return None if row is None else Account(row["id"], row["name"], row["role"])


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise ValueError(f"role: must be one of {', '.join(ROLES)}, not {role!r}")

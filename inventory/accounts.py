"""Who is it: users by name and password, browsers by their session, programs by their bearer token. And the secrets these bring.

Of every secret only a hash is kept: argon2id of passwords, which people choose (`inventory.passwords`); SHA-256 of tokens and cookies,
which are 256 random bits. What a role may do is `inventory.access`'s business; making and changing accounts is that of `inventory.users`,
`inventory.sessions` and `inventory.api_tokens`. Called by the web process for every request, and by the bootstrap, which makes the first
administrator and the token of the local command line.

Source: OWASP Session Management Cheat Sheet.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from inventory import passwords
from inventory.access import ROLES
from inventory.db import SQL, Database, Tx
from inventory.errors import NotFound
from inventory.ids import new_id
from inventory.tables import ApiToken, User

A = TypeVar("A", User, ApiToken)

TOUCH = timedelta(minutes=1)
"""When a session or a token was last used is written this often at most, so that reading a page is not a write each time."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who has been recognised. type: `user`, or `token` by its name. scope: the filter of hosts that the role holds for; empty: all."""

    id: str
    name: str
    role: str
    type: Literal["user", "token"] = "user"
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """A user whose password was right. `one_time`: it has to be changed before anything else. `ended`: it may not be used any more.
    `second_factor`: a code is asked for besides. `since`: since when it has been the password, for `sessions.open_session`."""

    account: Account
    one_time: bool
    ended: bool
    second_factor: bool
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has signed in. `csrf` must come with each of its unsafe requests. `one_time`: it may change the password, no more."""

    id: str
    account: Account
    csrf: str
    one_time: bool


LONGEST_ID, LONGEST_NAME = 64, 253
"""Characters that a column holds; Tortoise does not look for more."""


async def locked(tx: Tx, model: type[A], what: str, ref: str) -> A:
    """The account by id or name, locked until the commit. `what` it is, in words. Raises NotFound."""
    for column, longest in (("id", LONGEST_ID), ("name", LONGEST_NAME)) if "\0" not in ref else ():
        if len(ref) > longest:
            continue
        account = await model.filter(**{column: ref}).using_db(tx.client).select_for_update().first()
        if account is not None:
            return account
    raise NotFound(f"there is no {what} {ref[:64]!r}")


def new_secret(prefix: str = "fws_") -> str:
    """256 random bits, in characters that need no quoting. Never with a dash in front, which a command line would take for an option; the
    prefix tells scanners for leaked secrets what it is."""
    return prefix + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored of a token or a cookie."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def add_user(db: Database, name: str, password: str, role: str, now: datetime) -> bool:
    """The bootstrap's first administrator; False, and nothing changed, where the name is taken. Raises ValueError for an unknown role."""
    _check_role(role)
    hashed = await passwords.hashed(password)
    async with db.transaction() as tx:
        if await User.filter(name=name).using_db(tx.client).exists():
            return False
        values = {"password": hashed, "role": role, "created_at": now, "password_changed_at": now}
        await User.create(id=new_id("user"), name=name, using_db=tx.client, **values)
        return True


async def has_users(db: Database) -> bool:
    """Whether anybody can sign in: False on a fresh installation."""
    async with db.transaction() as tx:
        return await User.all().using_db(tx.client).exists()


async def called(tx: Tx, name: str) -> User | None:
    """The user of that name, if there is one; the name may be anything that somebody types."""
    if len(name) > LONGEST_NAME or "\0" in name:
        return None
    return await User.filter(name=name).using_db(tx.client).first()


async def check_password(db: Database, name: str, password: str, now: datetime) -> Checked | None:
    """The user of that name and password. None, after as long, for a name that there is not, and for somebody who may not sign in."""
    async with db.transaction() as tx:
        user = await called(tx, name)
    matches = await passwords.matches(None if user is None else user.password, password)
    if user is None or not matches or user.disabled_at is not None:
        return None
    ends = user.password_expires_at
    account = Account(user.id, user.name, user.role, "user", user.scope)
    return Checked(account, ends is not None, ends is not None and ends <= now, user.totp_since is not None, user.password_changed_at)


async def find_session(db: Database, secret: str, now: datetime, idle: timedelta) -> Session | None:
    """The session of a cookie, unless it has ended, was idle too long, or its user may no longer sign in."""
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["find_session"], digest(secret), now, now - idle)
        if row is None:
            return None
        if now - row["seen_at"] > TOUCH:
            await connection.execute(SQL["touch_sessions"], [digest(secret)], now, now)
    account = Account(row["id"], row["name"], row["role"], "user", row["scope"])
    return Session(row["session"], account, row["csrf"], row["password_expires_at"] is not None)


async def put_token(db: Database, name: str, role: str, secret: str, now: datetime, expires_at: datetime | None = None) -> None:
    """Make the token of this name be that secret; an earlier one of the name ends. Raises ValueError for an unknown role."""
    _check_role(role)
    values = {"token_hash": digest(secret), "role": role, "created_at": now, "expires_at": expires_at}
    async with db.transaction() as tx:
        await ApiToken.filter(name=name).using_db(tx.client).delete()
        await ApiToken.create(id=new_id("apit"), name=name, using_db=tx.client, **values)


async def find_token(db: Database, secret: str, now: datetime) -> Account | None:
    """Whose bearer token it is, unless it has expired."""
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["find_token"], digest(secret), now)
        if row is None:
            return None
        if row["last_used_at"] is None or now - row["last_used_at"] > TOUCH:
            await connection.execute("UPDATE api_tokens SET last_used_at = $2 WHERE token_hash = $1", digest(secret), now)
    return Account(row["id"], row["name"], row["role"], "token", row["scope"])


async def standing(db: Database, hashes: list[str], now: datetime, idle: timedelta) -> dict[str, tuple[str, str]]:
    """Of these digests those whose tokens and sessions still stand, each with its role and scope. Sessions asked for count as in use: a
    page that is open and live is being looked at."""
    async with db.acquire() as connection:
        rows = await connection.fetch(SQL["standing"], hashes, now, now - idle)
        await connection.execute(SQL["touch_sessions"], [row["hash"] for row in rows], now, now - TOUCH)
    return {row["hash"]: (row["role"], row["scope"]) for row in rows}


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise ValueError(f"role: must be one of {', '.join(ROLES)}, not {role!r}")

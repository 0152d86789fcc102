"""The first step of every start: schema, keys and certificates, the first administrator, the token of the local command line.

Each part makes what is missing and nothing else, so that the step may be killed anywhere and run again. The first administrator's password
is written down in the secrets directory before the account exists, and is handed out again by every run until the Inventory service has
started once (`forget_first_password`): only then has whoever ran this step heard the answer. Called by `python -m inventory bootstrap`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from inventory import accounts, passwords, seals, vault_keys
from inventory.authority import Authority
from inventory.db import Database, migrate
from inventory.revocation import note_services
from inventory.secret_files import write_secret

LOCK = 0x666C7764_0012
"""Advisory lock (`inventory.db` says how they are numbered)."""

ADMINISTRATOR = "admin"
TOKEN_NAME = "local command line"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to bring about. advertised: names beside the local ones in the servers' certificates; admin_token_file: None makes no token."""

    secrets: Path
    database: str
    advertised: tuple[str, ...] = ()
    admin_token_file: Path | None = None


async def bootstrap(wanted: Wanted, now: datetime) -> str | None:
    """The first administrator's password where it has not been heard of yet, else None.

    Raises AuthorityError, Unavailable, OSError; a second run then finishes what is left."""
    await migrate(wanted.database)
    db = await Database.open(wanted.database, application="fleetward-bootstrap", pool_size=2)
    try:
        async with _alone(db):
            await seals.ensure_key(db, wanted.secrets)
            await vault_keys.ensure(db, wanted.secrets, now)
            authority = Authority(wanted.secrets)
            authority.bootstrap(wanted.advertised)
            await note_services(db, authority, now)
            password = await first_password(db, wanted.secrets, now)
            if wanted.admin_token_file is not None:
                await admin_token(db, wanted.admin_token_file, now)
        return password
    finally:
        await db.close()


@asynccontextmanager
async def _alone(db: Database) -> AsyncIterator[None]:
    """One at a time on a database: two that begin together must not each make a password."""
    held = await db.connect()
    try:
        with db.may_be_away():
            await held.execute("SELECT pg_advisory_lock($1)", LOCK)
        yield
    finally:
        await held.close()


async def first_password(db: Database, directory: Path, now: datetime) -> str | None:
    """Make the first administrator where there is no account at all; its password as long as it may not have been heard of."""
    note = _note(directory)
    if not note.exists():
        if await accounts.has_users(db):
            return None
        write_secret(note, passwords.random_password().encode())
    password = note.read_text()
    if await accounts.add_user(db, ADMINISTRATOR, password, "admin", now):
        return password
    if await accounts.check_password(db, ADMINISTRATOR, password, now) is None:
        note.unlink()
        return None
    return password


def forget_first_password(directory: Path) -> None:
    """The service calls it at its start: the bootstrap before it has been heard."""
    _note(directory).unlink(missing_ok=True)


async def admin_token(db: Database, file: Path, now: datetime) -> None:
    """A token with the administrator's role in `file`, made where it is missing; the database is brought in line with the file."""
    if not file.exists():
        write_secret(file, accounts.new_secret().encode() + b"\n")
    secret = file.read_text().strip()
    if await accounts.find_token(db, secret, now) is None:
        await accounts.put_token(db, TOKEN_NAME, "admin", secret, now)


def _note(directory: Path) -> Path:
    return directory / "admin-password"

"""The vault's keys: made at the first start, exchanged by command, under running services and any number of their replicas.

A rotation puts a new key in front of the one before, in the files and then in the database, by which whoever seals goes (`deposits`), and
seals every secret anew, in batches. Cut short anywhere, the next one finishes it before anything else. A managers process whose secrets
directory is a copy that lacks the new key leaves the configs concerned to others until it has it. Commands on their way lie under the key
before; they have ended long before it goes.

Called by `inventory.bootstrap` and `python -m inventory secrets`. Decision: docs/adr/0028-secrets.md.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from inventory import account_log
from inventory.actor import Actor
from inventory.db import SQL, Database, Tx
from inventory.deposits import context
from inventory.resource import ReadRow
from inventory.secret_files import AuthorityError, alone
from inventory.store import Store
from inventory.vault import KEY_FILE, Keys, Unsealable, Vault

log = logging.getLogger(__name__)

BATCH = 500
KEPT = 2
"""Keys that stay in the file: the newest, and the one before it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """`key`: the id of the key that secrets are sealed under now, since `since`. `secrets`: how many there are; `older`: how many of them
    a rotation that was cut short has left under another key."""

    key: str
    since: datetime
    secrets: int
    older: int


async def ensure(db: Database, secrets_dir: Path, now: datetime) -> None:
    """Make the first key where there is none. Raises AuthorityError where secrets lie under one that is gone; OSError, Unavailable."""
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with db.transaction() as tx:
        known = await tx.raw.fetchval("SELECT key FROM vault_state")
        if not (secrets_dir / KEY_FILE).exists():
            if await tx.raw.fetchval("SELECT EXISTS (SELECT 1 FROM secret)"):
                raise AuthorityError(f"{secrets_dir / KEY_FILE} is gone, but secrets lie under it: restore it from a backup")
            Keys((secrets.token_bytes(32),)).write(secrets_dir)
            known = None
        keys = Keys.read(secrets_dir)
        if known is not None and known not in keys.public:
            raise AuthorityError(f"{secrets_dir / KEY_FILE} is not the one that secrets lie under ({known}): restore it from a backup")
        keys.write_public(secrets_dir)
        if known is None:
            await tx.raw.execute(SQL["name_vault_key"], keys.newest, now)


async def rotate(db: Database, secrets_dir: Path, now: datetime) -> int:
    """Another key, or the rest of a rotation that was cut short; how many secrets were sealed anew. Raises AuthorityError, Unavailable,
    OSError."""
    if not (secrets_dir / KEY_FILE).exists():
        raise AuthorityError(f"{secrets_dir} has no {KEY_FILE}: run this where the installation's secrets are")
    with alone(secrets_dir):
        before = await standing(db)
        keys = Keys.read(secrets_dir)
        if keys.newest == before.key and not before.older:
            keys = Keys((secrets.token_bytes(32), *keys.private)[:KEPT])
            keys.write(secrets_dir)
        keys.write_public(secrets_dir)
        async with db.transaction() as tx:
            await tx.raw.execute(SQL["name_vault_key"], keys.newest, now)
            told = {"vault_key": keys.newest}
            await account_log.record(tx, Actor.system(), "installation", "vault", now, before={"vault_key": before.key}, after=told)
        return await _reseal(db, secrets_dir, keys.newest)


async def standing(db: Database) -> Standing:
    """Raises AuthorityError where there has never been a key."""
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["vault_standing"])
    if row is None:
        raise AuthorityError("there is no vault key yet: start `fleetward up`, or run `python -m inventory bootstrap`, once")
    return Standing(row["key"], row["since"], row["secrets"], row["older"])


async def _reseal(db: Database, secrets_dir: Path, key: str) -> int:
    vault, done, after = Vault(secrets_dir), 0, 0

    async def batch() -> tuple[int, Sequence[ReadRow]]:
        async with db.transaction() as tx:
            rows = await tx.raw.fetch(SQL["older_secrets"], key, after, BATCH)
            return await _reseal_some(tx, vault, rows), rows

    while True:
        sealed, rows = await Store(db).retrying(batch)
        done += sealed
        if not rows:
            return done
        after = rows[-1]["id"]


async def _reseal_some(tx: Tx, vault: Vault, rows: Sequence[ReadRow]) -> int:
    """How many. One that can't be opened stays as it is: it is said, and its owner's status says it too."""
    anew = {}
    for row in rows:
        bound = context(row["owner"], row["name"])
        try:
            anew[row["id"]] = vault.seal(bound, vault.open(bound, row["sealed"]))
        except Unsealable as error:
            log.error("a secret can't be sealed anew", extra={"key": row["owner"], "error": str(error)})
    await tx.raw.execute(SQL["reseal_secrets"], list(anew), list(anew.values()))
    return len(anew)

"""Seals: the installation's signature under what the hash chain can't vouch for by itself.

A *head* says how far the log went at a time, an *anchor* that it begins where retention has dropped what was before, a *gap* that
positions are missing because a backup was restored. Each is signed (Ed25519) by a key that is in the secrets directory and never in the
database, so that whoever can write to the database alone can make none. It is no protection against somebody who has the secrets too; a
head kept elsewhere is. What is signed are lines of text that begin with what they are, so that none can be taken for another.

`Sealer` signs: Inventory (heads, anchors), the restore (gaps), the bootstrap that makes the key. `stands` checks: `inventory.verify`.
Source: docs/adr/0018-audit.md.
"""

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from inventory import account_log
from inventory.actor import Actor
from inventory.db import SQL, Database, Tx
from inventory.keychain import key_id
from inventory.resource import ReadRow, time_text
from inventory.secret_files import AuthorityError, read_raw_key, write_secret
from inventory.times import parse_time

KEY_FILE = "audit.key"


@dataclass(frozen=True, slots=True)
class Head:
    """The last position given at a time, and the hash of its row. `key`: the public key that `signature` is by; both raw bytes."""

    position: int
    hash: bytes
    at: datetime
    key: bytes
    signature: bytes

    def signed(self) -> bytes:
        return _text("head", self.position, self.hash.hex(), time_text(self.at))

    def to_json(self) -> dict[str, Any]:
        """As the API gives it, and as it is kept in a file: hash in hex, key and signature in base64."""
        return {
            "v": 1,
            "position": self.position,
            "hash": self.hash.hex(),
            "at": time_text(self.at),
            "key": base64.b64encode(self.key).decode(),
            "signature": base64.b64encode(self.signature).decode(),
        }

    @classmethod
    def from_json(cls, said: Any) -> "Head":
        """Raises ValueError naming the member that is wrong."""
        if not isinstance(said, dict) or said.get("v") != 1:
            raise ValueError("must be a JSON object with v = 1, as `fleetward audit head` prints it")
        position = said.get("position")
        if not isinstance(position, int) or isinstance(position, bool) or position < 0:
            raise ValueError("position: must be a whole number")
        try:
            at = parse_time(str(said.get("at")))
            digest = bytes.fromhex(str(said.get("hash")))
        except ValueError as error:
            raise ValueError(f"hash or at: {error}") from None
        return cls(position, digest, at, _raw(said, "key"), _raw(said, "signature"))

    @classmethod
    def from_row(cls, row: ReadRow) -> "Head":
        return cls(row["position"], bytes(row["hash"]), row["at"], bytes(row["key"]), bytes(row["signature"]))


class Sealer:
    """Signs with the audit key, 32 raw bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = SigningKey(key)
        self.public = bytes(self._key.verify_key)
        self.id = key_id(self.public)

    @classmethod
    def read(cls, secrets_dir: Path) -> "Sealer":
        """Raises AuthorityError."""
        if not (secrets_dir / KEY_FILE).exists():
            raise AuthorityError(f"{secrets_dir} has no {KEY_FILE}: copy it from the installation's secrets")
        return cls(read_raw_key(secrets_dir / KEY_FILE))

    def head(self, position: int, digest: bytes, at: datetime) -> Head:
        """`at` to the millisecond, which is what is signed."""
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        unsigned = Head(position, digest, at, self.public, b"")
        return Head(position, digest, at, self.public, self._sign(unsigned.signed()))

    def anchor(self, position: int, digest: bytes) -> bytes:
        """The signature under where the log begins now, and the hash of the last row that was dropped."""
        return self._sign(anchored(position, digest))

    def gap(self, after: int, before: int) -> bytes:
        """The signature under positions that there are none of: those above `after` up to `before`."""
        return self._sign(missing(after, before))

    def _sign(self, text: bytes) -> bytes:
        return self._key.sign(text).signature


def anchored(position: int, digest: bytes) -> bytes:
    return _text("anchor", position, digest.hex())


def missing(after: int, before: int) -> bytes:
    return _text("gap", after, before)


def stands(key: bytes, text: bytes, signature: bytes | None) -> bool:
    """Whether this key has signed that."""
    try:
        VerifyKey(key).verify(text, signature or b"")
    except (BadSignatureError, ValueError):
        return False
    return True


async def ensure_key(db: Database, secrets_dir: Path) -> None:
    """Make the key where there is none. What retention and restores have left in the database by now is signed with it, and heads of a key
    that is gone are forgotten. The file is written last: a kill before that is put right by the next run. Raises OSError, Unavailable."""
    if (secrets_dir / KEY_FILE).exists():
        return
    key = secrets.token_bytes(32)
    async with db.transaction() as tx:
        await tx.raw.execute(SQL["forget_seals"])
        await seal_all(tx, Sealer(key))
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(secrets_dir / KEY_FILE, base64.b64encode(key) + b"\n")


async def seal_restore(db: Database, secrets_dir: Path, now: datetime) -> None:
    """After a restore: sign the gap that it has left, and tell the audit. Where the backup is older than the key, the bootstrap signs."""
    async with db.transaction() as tx:
        gap = await tx.raw.fetchrow("SELECT after, before FROM log_gaps ORDER BY after DESC LIMIT 1")
        assert gap is not None, "restored.sql notes it"
        if (secrets_dir / KEY_FILE).exists():
            await seal_all(tx, Sealer.read(secrets_dir))
        told = {"up_to": gap["after"], "on_from": gap["before"] + 1}
        await account_log.record(tx, Actor.system(), "installation", "restore", now, after=told, op="restored")


async def seal_all(tx: Tx, sealer: Sealer) -> None:
    """Sign the anchors and gaps that carry no signature."""
    for row in await tx.raw.fetch(SQL["unsealed_anchors"]):
        await tx.raw.execute(SQL["seal_anchor"], row["position"], sealer.anchor(row["position"], bytes(row["hash"])))
    for row in await tx.raw.fetch(SQL["unsealed_gaps"]):
        await tx.raw.execute(SQL["seal_gap"], row["after"], sealer.gap(row["after"], row["before"]))


def _text(what: str, *members: object) -> bytes:
    return "\n".join(("fleetward change log", what, *map(str, members))).encode()


def _raw(said: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(said[name], validate=True)
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise ValueError(f"{name}: must be base64") from None

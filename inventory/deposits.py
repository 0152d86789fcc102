"""Secrets of resources in the database: a sealed row a name beside the resource, which shows marks in their place.

A value is sealed where it is taken in, under the key that the database names (`vault_state`): a rotation changes that name, and waits for
those who are just sealing, so that afterwards nothing new lies under the key before. What is set to what it is already changes nothing:
an HMAC under the installation's session key, which is not in the database either, tells. Beside the first secret of a resource lies a
salt, for the digest that readers see (`managers.rendering`).

Called by `inventory.writer`, which sees to the resource; `inventory.applying` opens them. Decision: docs/adr/0028-secrets.md.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from inventory.db import SQL, Tx
from inventory.errors import Invalid, Problem, Unavailable
from inventory.resource import Resource
from inventory.secret_field import SALT
from inventory.secret_files import AuthorityError
from inventory.vault import NoKey, Slot

Wanted = Mapping[str, Any]
"""By name: a text to be sealed, or the mark of the one that is to stay."""


class Depositor:
    """Takes secrets in. `key`: for telling whether one is what it was."""

    def __init__(self, slot: Slot, key: bytes) -> None:
        self._slot = slot
        self._key = hmac.digest(key, b"fleetward sameness of secrets", hashlib.sha256)

    def tag(self, owner: str, name: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{context(owner, name)}\n{text}".encode(), hashlib.sha256)

    async def put(self, tx: Tx, owner: str, texts: Mapping[str, str], at: datetime) -> None:
        """Raises Unavailable where this process can't seal now."""
        key = await tx.raw.fetchval("SELECT key FROM vault_state FOR SHARE")
        rows = [(name, text.encode(), self.tag(owner, name, text)) for name, text in texts.items()]
        names = [name for name, _, _ in rows]
        sealed = [self._sealed(key, owner, name, raw) for name, raw, _ in rows]
        await tx.raw.execute(SQL["put_secrets"], owner, names, sealed, [tag for _, _, tag in rows], at)
        salt = secrets.token_hex(16)
        await tx.raw.execute(SQL["put_salt"], owner, SALT, self._sealed(key, owner, SALT, salt.encode()), at)

    def _sealed(self, key: str | None, owner: str, name: str, raw: bytes) -> str:
        if key is None:
            raise Unavailable("secrets can't be kept yet: start `fleetward up`, or run `python -m inventory bootstrap`, once")
        try:
            return self._slot.seal(key, context(owner, name), raw)
        except (NoKey, AuthorityError, OSError) as error:
            raise Unavailable(f"secrets can't be kept: {error}") from error


def context(owner: str, name: str) -> str:
    """What a secret is bound to."""
    return f"{owner}\n{name}"


async def settled(tx: Tx, depositor: Depositor | None, field: str, current: Resource | None, wanted: Wanted) -> dict[str, Any]:
    """What is asked for, with marks that are there, and with texts only where they are news. Raises Invalid."""
    marks: Mapping[str, Any] = {} if current is None else current[field]
    texts = {name: value for name, value in wanted.items() if isinstance(value, str)}
    problems = [
        Problem(f"/{field}/{name}", "has no value to be kept: give one") for name in wanted if name not in texts and name not in marks
    ]
    if texts and depositor is None:
        words = "secrets are not taken this way, where others could read them: send them to the API"
        problems += [Problem(f"/{field}/{name}", words) for name in texts]
    if problems:
        raise Invalid("; ".join(f"{each.pointer[1:]}: {each.detail}" for each in problems), errors=tuple(problems))
    same: frozenset[str] = frozenset()
    if texts and current is not None and depositor is not None:
        same = await _same(tx, depositor, str(current["id"]), texts)
    return {name: marks[name] if name in same or name not in texts else value for name, value in wanted.items()}


async def _same(tx: Tx, depositor: Depositor, owner: str, texts: Mapping[str, str]) -> frozenset[str]:
    """Those that are kept already as they are given."""
    rows = await tx.raw.fetch("SELECT name, tag FROM secret WHERE owner = $1 AND name = ANY ($2::text[])", owner, list(texts))
    kept = {row["name"]: bytes(row["tag"]) for row in rows}
    return frozenset(name for name in kept if hmac.compare_digest(kept[name], depositor.tag(owner, name, texts[name])))


async def keep(tx: Tx, depositor: Depositor | None, owner: str, wanted: Wanted, at: datetime) -> None:
    """What `settled` gave: seal the texts, drop what is not named any more, and with the last of them the salt."""
    await tx.raw.execute(SQL["drop_secrets"], owner, [*wanted, SALT] if wanted else [])
    texts = {name: value for name, value in wanted.items() if isinstance(value, str)}
    if texts:
        assert depositor is not None, "settled() has seen to it"
        await depositor.put(tx, owner, texts, at)


async def drop(tx: Tx, owner: str) -> None:
    """With its resource."""
    await tx.raw.execute(SQL["drop_secrets"], owner, [])

"""API tokens: how programs sign in to the REST API. Made with a role and an end, shown once, listed with their last use, revoked.

Kept is the SHA-256 of 256 random bits. A token belongs to the installation, not to whoever made it: it outlives them until it is revoked
or runs out, which is why only administrators make one. One with a `scope` does what its role may, to the hosts of that filter only.
Called by the web process.
"""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from inventory import account_log
from inventory.access import checked_scope
from inventory.accounts import locked, new_secret
from inventory.actor import Actor
from inventory.bodies import Body, read
from inventory.db import Database, Tx
from inventory.errors import Conflict, Invalid, Problem
from inventory.ids import new_id
from inventory.resource import Resource, time_text
from inventory.tables import ApiToken
from inventory.users import Role, alone

PREFIX = "fwa_"
NAME = r"^[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?$"
LIFETIME = timedelta(days=90)
"""How long a token is good for where nobody says: a quarter, so that one that is forgotten ends."""


class Made(Body):
    """What makes a token. `expires_at`: RFC 3339; null for one that does not end by itself."""

    name: Annotated[str, Field(pattern=NAME, description="small letters, digits and any of . _ - between them, at most 253")]
    role: Role = "viewer"
    scope: str = ""
    expires_at: str | None = ""


def random_token() -> str:
    return new_secret(PREFIX)


def derived_token(key: bytes, claim: str, at: datetime) -> str:
    """The same for the same claim of an idempotency key, taken at the same time; anything else tells nothing of it."""
    message = f"api-token\n{claim}\n{at.isoformat()}".encode()
    return PREFIX + base64.urlsafe_b64encode(hmac.digest(key, message, hashlib.sha256)).decode().rstrip("=")


async def create(tx: Tx, actor: Actor, body: Any, hashed: str, now: datetime) -> Resource:
    """hashed: `accounts.digest` of the token. Raises Invalid, Conflict."""
    made = read(Made, body)
    scope = checked_scope(made.scope)
    await alone(tx)
    if await ApiToken.filter(name=made.name).using_db(tx.client).exists():
        raise Conflict(f"there is an API token named {made.name} already", errors=(Problem("/name", "is taken"),))
    token = ApiToken(id=new_id("apit"), name=made.name, role=made.role, token_hash=hashed, created_at=now, created_by=actor.name)
    token.scope = scope
    token.expires_at = _end(made.expires_at, now)
    await token.save(using_db=tx.client, force_create=True)
    await account_log.record(tx, actor, "api-token", token.id, now, after=_lasting(token))
    return view(token)


def _end(given: str | None, now: datetime) -> datetime | None:
    if not given:
        return None if given is None else now + LIFETIME
    try:
        end = datetime.fromisoformat(given)
        if end.tzinfo is None or "T" not in given.upper():
            raise ValueError(given)
        end = end.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _bad_end("must be a time (RFC 3339), such as 2027-01-31T00:00:00Z, or null") from None
    if end <= now:
        raise _bad_end("must be ahead of now")
    return end


def _bad_end(words: str) -> Invalid:
    return Invalid(f"expires_at: {words}", errors=(Problem("/expires_at", words),))


async def list_all(db: Database) -> list[Resource]:
    """By name, those that have ended included."""
    async with db.transaction() as tx:
        return [view(token) for token in await ApiToken.all().order_by("name").using_db(tx.client)]


async def get(db: Database, ref: str) -> Resource:
    """Raises NotFound."""
    async with db.transaction() as tx:
        return view(await locked(tx, ApiToken, "API token", ref))


async def delete(tx: Tx, actor: Actor, ref: str, now: datetime) -> None:
    """Revoke it. Raises NotFound."""
    token = await locked(tx, ApiToken, "API token", ref)
    await ApiToken.filter(id=token.id).using_db(tx.client).delete()
    await account_log.record(tx, actor, "api-token", token.id, now, before=_lasting(token))


def _lasting(token: ApiToken) -> Resource:
    return {name: value for name, value in view(token).items() if name != "last_used_at"}


def view(token: ApiToken) -> Resource:
    return {
        "id": token.id,
        "kind": "api-token",
        "name": token.name,
        "role": token.role,
        "scope": token.scope,
        "created_by": token.created_by,
        "created_at": time_text(token.created_at),
        "expires_at": None if token.expires_at is None else time_text(token.expires_at),
        "last_used_at": None if token.last_used_at is None else time_text(token.last_used_at),
    }

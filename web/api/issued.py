"""Kinds whose creation issues a secret: which member shows it, once, and which column keeps its hash. Pure.

A registry, so that the routes stay the same for every kind. Called by `web.api.resources` and by the OpenAPI document.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inventory import tokens
from inventory.idempotency import Claim
from inventory.kind import Kind


@dataclass(frozen=True, slots=True)
class Issued:
    """member: what the answer calls the secret. column: where its hash is kept. hashed: makes that hash."""

    member: str
    column: str
    doc: str
    hashed: Callable[[str], str]


ISSUED = {"enrollment-token": Issued("token", "token_hash", "The secret, shown this once.", tokens.stored_hash)}


def secret(kind: Kind, key: bytes, claim: Claim | None, at: datetime) -> str:
    """The secret to issue; with a claim, the one that this claim always gets. Empty for a kind that issues none."""
    if kind.name not in ISSUED:
        return ""
    return tokens.random_secret() if claim is None else tokens.derived_secret(key, claim.key, at)


def columns(kind: Kind, secret: str) -> dict[str, Any] | None:
    """What the store keeps of it."""
    found = ISSUED.get(kind.name)
    return None if found is None else {found.column: found.hashed(secret)}


def members(kind: Kind, secret: str) -> dict[str, Any]:
    """What the answer shows of it."""
    found = ISSUED.get(kind.name)
    return {} if found is None else {found.member: secret}

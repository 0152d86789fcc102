"""A request done once, however often it is sent: the answer is kept under the caller's key, in the transaction of the write itself.

So there is no moment at which the write is there and the answer is not, not even a crash between the two. Requests that come at the same
time with the same key wait for the first: its key is a row that they would insert too. A request that fails leaves nothing, and may be
sent again. Called by the routes that take an Idempotency-Key.

Source: design.md G1; draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from inventory.actor import Actor
from inventory.db import SQL, Tx, dumps, loads
from inventory.errors import Invalid, Problem
from inventory.store import Writes
from inventory.writer import Writer

KEPT = timedelta(hours=24)
"""How long an answer is kept at least."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A key, already bound to who used it, and the digest of what was asked."""

    key: str
    digest: str
    at: datetime
    until: datetime
    pointer: str

    @classmethod
    def of(
        cls,
        actor: Actor,
        key: str,
        request: str,
        body: Any,
        at: datetime,
        valid_until: datetime | None = None,
        pointer: str = "Idempotency-Key",
        secret: bytes = b"",
    ) -> "Claim":
        """request: what was asked besides the body (method and path). One actor's keys are nothing to another's. valid_until: how long the
        request itself may be repeated by whoever holds it, such as a signed intent; the answer is kept for as long. pointer: where the key
        stood, for errors. secret: a key outside the database, where a body may hold what could be guessed from its plain digest."""
        bound = hashlib.sha256("\0".join((actor.type, actor.name, key)).encode()).hexdigest()
        digest = hmac.digest(secret, f"{request}\0{dumps(body)}".encode(), hashlib.sha256).hex()
        return cls(bound, digest, at, max(at + KEPT, valid_until or at), pointer)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered first. at: when, to the microsecond, the same in every repetition."""

    status: int
    body: Any
    at: datetime


async def once(store: Writes, claim: Claim, act: Callable[[Writer], Awaitable[tuple[int, Any]]]) -> Answer:
    """Do `act`, which gives a status and a JSON body, or give the answer that this key has got already.

    Raises what `act` raises, and Invalid (422) where the key was used for something else."""

    async def attempt(w: Writer) -> Answer:
        if await w.tx.raw.fetchval(SQL["claim_idempotency_key"], claim.key, claim.digest, claim.at, claim.until) is None:
            return await _kept(w.tx, claim)
        status, body = await act(w)
        # As text within the JSON, because JSONB would not keep the order of the members.
        await w.tx.raw.execute(SQL["keep_answer"], claim.key, status, dumps(dumps(body)))
        return Answer(status, body, claim.at)

    return await store.atomically(attempt)


async def _kept(tx: Tx, claim: Claim) -> Answer:
    row = await tx.raw.fetchrow("SELECT digest, status, body, created_at FROM idempotency WHERE key = $1", claim.key)
    assert row is not None, "the key was there a statement ago, and rows are deleted a day after they have run out"
    if row["digest"] != claim.digest:
        words = "was used for another request; take a new one"
        raise Invalid(f"{claim.pointer.lstrip('/')}: {words}", errors=(Problem(claim.pointer, words),))
    return Answer(row["status"], loads(loads(row["body"])), row["created_at"])


async def forget(store: Writes, now: datetime, most: int = 10_000) -> int:
    """Delete answers that are no longer kept, `most` of them; how many there were."""
    async with store.db.acquire() as connection:
        return len(await connection.fetch(SQL["trim_idempotency"], now - KEPT, most))

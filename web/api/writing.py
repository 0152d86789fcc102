"""Writes of accounts, which are no resources: in a transaction, again after a deadlock, undone for a dry run, once for an idempotency key.

The secret that some of them issue is shown in the answer and never kept: where a key asks for the same answer again, it is derived anew.
Called by the routes of users and API tokens.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from quart import Response, request

from inventory import accounts, api_tokens, idempotency, passwords
from inventory.db import Tx
from inventory.errors import Invalid, Problem
from inventory.idempotency import Claim
from inventory.resource import Resource
from inventory.writer import Writer
from web import params
from web.api.answers import answer
from web.api.parameters import WRITE
from web.bodies import read_object
from web.identity import current_actor
from web.services import services

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Secret:
    """member: what the answer calls it. derived: of the installation's key, a claim and its time. kept: what is stored of it."""

    member: str
    random: Callable[[], str]
    derived: Callable[[bytes, str, datetime], str]
    kept: Callable[[str], Awaitable[str]]


async def _digest(secret: str) -> str:
    return accounts.digest(secret)


PASSWORD = Secret("password", passwords.random_password, passwords.derived_password, passwords.hashed)
TOKEN = Secret("token", api_tokens.random_token, api_tokens.derived_token, _digest)


def dry_run() -> bool:
    """Whether this request only asks; it takes no other query parameter. Raises BadRequest."""
    return bool(params.parse(request.query_string, WRITE)["dry_run"])


async def no_members() -> None:
    """For verbs that take none. Raises Invalid and whatever a body that is none raises."""
    given = await read_object(may_be_empty=True)
    if given:
        raise Invalid("this verb takes no members", errors=tuple(Problem(f"/{name}", "there is no such member") for name in given))


async def written(act: Callable[[Tx], Awaitable[T]], *, dry_run: bool = False) -> T:
    """What `act` gives. It must do nothing outside its transaction."""
    return await services().store.atomically(lambda w: act(w.tx), dry_run=dry_run)


async def issue(secret: Secret, body: Any, make: Callable[[Tx, str], Awaitable[Resource]], status: int) -> Response:
    """Answer with what `make` gives, and the secret. `make` gets what is to be stored of that."""
    only_asked = dry_run()
    key = params.idempotency_key(request.headers.get("Idempotency-Key"))
    here, now = services(), datetime.now(UTC)
    if only_asked:
        return answer(await written(lambda tx: make(tx, ""), dry_run=True))
    if key is None:
        shown = secret.random()
        kept = await secret.kept(shown)
        return answer(await written(lambda tx: make(tx, kept)) | {secret.member: shown}, status)
    claim = Claim.of(current_actor(), key, f"POST {request.path}", body, now, secret=here.digest_key)
    kept = await secret.kept(secret.derived(here.key, claim.key, now))

    async def act(w: Writer) -> tuple[int, Any]:
        return status, await make(w.tx, kept)

    done = await idempotency.once(here.store, claim, act)
    return answer(done.body | {secret.member: secret.derived(here.key, claim.key, done.at)}, done.status)

"""Records in the change log what happens to what is no resource, in the transaction that does it: accounts, sessions, API tokens, sign-ins,
integrations, certificates, the installation itself.

What is recorded here is never published: no event stream, page of events or integration shows it (`PUBLISHED` and `Kind.published` go by
the registry of kinds, in which these are not). It is there for the audit, under the same hash chain as everything else. Whoever records
hands over views without secrets; of a member that has the name of one only that it changed is written all the same.

Called by `inventory.users`, `inventory.sessions`, `inventory.api_tokens`, `inventory.integrations` and the like; resources need nothing of
this, the store appends their changes itself. Source: design.md section 5, docs/adr/0018-audit.md.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from inventory import accounts
from inventory.actor import Actor
from inventory.changes import Draft, append
from inventory.db import Database, Tx
from inventory.resource import Resource, changed_paths
from inventory.tables import User

AccountKind = Literal["user", "session", "api-token", "sign-in", "integration", "certificate", "installation"]
ACCOUNT_KINDS: Mapping[AccountKind, str] = {
    "user": "A person who may sign in.",
    "session": "A browser that has signed in; it ends when somebody signs out, or ends it.",
    "api-token": "A program's bearer token.",
    "sign-in": "A sign-in that was refused. Its id is the user's; `unknown` where there is none of that name.",
    "integration": "Another program on the broker.",
    "certificate": "A certificate of a service or a device.",
    "installation": "What concerns all of it, such as a restore.",
}
"""The kinds of change that only the audit shows, each with its doc."""

Op = Literal["created", "updated", "deleted", "refused", "restored"]

SECRETS = frozenset(
    {"password", "secret", "token", "token_hash", "csrf", "totp", "totp_secret", "recovery_codes", "cookie", "client_secret", "private_key"}
)
"""Members whose values never stand in the log, at whatever depth."""
REDACTED = "(redacted)"

UNKNOWN = "unknown"


async def record(
    tx: Tx,
    actor: Actor,
    kind: AccountKind,
    id: str,
    at: datetime,
    *,
    before: Resource | None = None,
    after: Resource | None = None,
    op: Op | None = None,
) -> None:
    """One row for the audit. before: as it was, None where it was made now; after: as it is, None where it is gone. Equal ones record
    nothing. op: what was done, where the two do not say it."""
    paths = changed_paths(before, after) if before is not None and after is not None else ()
    if before is not None and after is not None and not paths:
        return
    heads = {path.split(".")[0] for path in paths}
    kept = {name: value for name, value in before.items() if name in heads} if before is not None and after is not None else before
    done = op or ("created" if before is None else "deleted" if after is None else "updated")
    version = int(await tx.raw.fetchval("SELECT nextval('versions')"))
    await append(tx, [Draft(kind, id, done, version, 0, paths, redacted(after), redacted(kept), None, actor)], at)


async def refused(db: Database, name: str, address: str, why: str, now: datetime) -> None:
    """A sign-in was refused. A name that nobody has is left out: people type passwords there. Raises Unavailable."""
    async with db.transaction() as tx:
        await _refused(tx, await accounts.called(tx, name), address, {"reason": why}, now)


async def refused_elsewhere(db: Database, issuer: str, subject: str, address: str, why: str, now: datetime) -> None:
    """Likewise of somebody who came back from an identity provider. subject: whom it has vouched for; empty where it has not been believed.
    Raises Unavailable."""
    async with db.transaction() as tx:
        user = await User.filter(issuer=issuer, subject=subject).using_db(tx.client).first() if subject else None
        said = {"reason": why, "issuer": issuer} | ({"subject": subject} if subject else {})
        await _refused(tx, user, address, said, now)


async def _refused(tx: Tx, user: User | None, address: str, said: Resource, now: datetime) -> None:
    known, id = (None, UNKNOWN) if user is None else (user.name, user.id)
    who = Actor("stranger", known or "", address=address)
    await record(tx, who, "sign-in", id, now, after={"user": known, **said}, op="refused")


def redacted(value: Any) -> Any:
    """The value without what is secret."""
    match value:
        case dict():
            return {name: REDACTED if name in SECRETS and member else redacted(member) for name, member in value.items()}
        case list() | tuple():
            return [redacted(each) for each in value]
    return value

"""Records what happens to accounts in the change log, in the transaction that does it: users, their sessions, API tokens.

Accounts are no resources, and what is recorded here is never published: no event stream, page of events or integration shows it
(`PUBLISHED` and `Kind.published` go by the registry of kinds, in which these are not). It is there for the audit, under the same hash
chain as everything else. Whoever records hands over views without secrets: no password, no hash, no code, no token.

Called by `inventory.users`, `inventory.sessions`, `inventory.api_tokens` and `inventory.second_factor`. Source: design.md section 5.
"""

from datetime import datetime
from typing import Literal

from inventory.actor import Actor
from inventory.changes import Draft, append
from inventory.db import Tx
from inventory.resource import Resource, changed_paths

AccountKind = Literal["user", "session", "api-token"]
ACCOUNT_KINDS: tuple[AccountKind, ...] = ("user", "session", "api-token")
"""The kinds of change that only the audit shows."""


async def record(
    tx: Tx, actor: Actor, kind: AccountKind, id: str, at: datetime, *, before: Resource | None = None, after: Resource | None = None
) -> None:
    """One row for the audit. before: as it was, None where it was made now; after: as it is, None where it is gone. Equal ones record
    nothing."""
    paths = changed_paths(before, after) if before is not None and after is not None else ()
    if before is not None and after is not None and not paths:
        return
    heads = {path.split(".")[0] for path in paths}
    kept = {name: value for name, value in before.items() if name in heads} if before is not None and after is not None else before
    op = "created" if before is None else "deleted" if after is None else "updated"
    version = int(await tx.raw.fetchval("SELECT nextval('versions')"))
    await append(tx, [Draft(kind, id, op, version, 0, paths, after, kept, None, actor)], at)

"""Taking back: which certificates were issued, which are revoked and why, and how brokers are told.

A certificate is taken back because somebody says so, because its machine has enrolled anew (another incarnation), or because its host is
untrusted or deleted. Only the first is an act; the others follow, in the same commit, from what is written to the device's identity (a
trigger) and to its host (the view `revoked_certificate`), whoever writes it: a host that is trusted again has its certificate back.
Nothing that a device says is taken from then on, whatever the broker does: the statements of ingest and dispatch look at the same state.

Brokers are told by `inventory.revocation_list`. Called by `inventory.integrations`, the bootstrap step and the web API.

Source: design.md section 4; docs/adr/0023.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from inventory import account_log
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.certificates import Issued
from inventory.db import SQL, Connection, Database
from inventory.errors import Conflict, NotFound
from inventory.work import Strength, WorkQueue

log = logging.getLogger(__name__)

SYSTEM = Actor.system()
SERVICE = "service"
INTEGRATION = "integration"
INTEGRATION_SCOPED = "integration-scoped"


async def note(connection: Connection, issued: Issued, name: str, unit: str, now: datetime) -> None:
    """Remember a service's or an integration's certificate, in the caller's transaction. One that is remembered already stays as it is."""
    await connection.execute(SQL["note_certificate"], issued.serial, name, unit, now, issued.expires_at)


async def note_services(db: Database, authority: Authority, now: datetime) -> None:
    """Remember the services' certificates that are in the secrets directory: they are issued without a database. Raises Unavailable."""
    async with db.acquire() as connection:
        for name, issued in authority.services_issued():
            await note(connection, issued, name, SERVICE, now)


async def revoke(db: Database, ref: str, now: datetime, by: Actor = SYSTEM) -> list[dict[str, Any]]:
    """Take back the certificate of this serial, or all that a name (a service's, a host's name or id) has. They, as `listed` gives them.
    A device whose current one is among them has to enroll anew with another key.

    Raises NotFound, Conflict (an integration's, or a name of several), Unavailable."""
    async with db.transaction() as tx:
        rows = [] if "\0" in ref else await _found(tx.raw, ref, now)
        _refuse(ref, rows)
        serials = [row["serial"] for row in rows]
        await take_back(tx.raw, db, serials, now)
        found = [dict(row) for row in await tx.raw.fetch(SQL["certificates_by_serial"], serials)]
        for row in found:
            shown = {"name": row["name"], "class": row["unit"], "host": row["host"]}
            before, after = shown | {"revoked": None}, shown | {"revoked": row["why"]}
            await account_log.record(tx, by, "certificate", row["serial"], now, before=before, after=after)
    for row in found:
        log.warning("certificate revoked", extra={"client": row["name"], "reason": row["why"]})
    return found


async def _found(connection: Connection, ref: str, now: datetime) -> list[dict[str, Any]]:
    """The certificates meant, locked; and no device gets another one meanwhile, in the place of one of these, that would not be among
    them."""
    await connection.fetch(SQL["hold_identity"], ref)
    return [dict(row) for row in await connection.fetch(SQL["find_certificates"], ref, now)]


async def take_back(connection: Connection, db: Database, serials: Sequence[str], now: datetime) -> None:
    """Because somebody says so; in the caller's transaction."""
    await connection.execute(SQL["revoke_certificates"], list(serials), now)
    hosts = [row["host"] for row in await connection.fetch(SQL["revoke_identities"], list(serials), now)]
    if hosts:
        await WorkQueue(db).trigger(connection, "host", hosts, Strength.FRESH)


def _refuse(ref: str, rows: Sequence[Mapping[str, Any]]) -> None:
    # One that was given a scope has certificates of both classes.
    owners = {(INTEGRATION if row["unit"] == INTEGRATION_SCOPED else row["unit"], row["name"]) for row in rows}
    if not owners:
        raise NotFound(f"there is no certificate with the serial {ref[:64]!r}, and nobody of that name has one that lasts")
    if len(owners) > 1:
        named = ", ".join(sorted(f"{unit} {name}" for unit, name in owners))
        raise Conflict(f"{ref} is the name of several ({named}): say which certificate by its serial")
    [(unit, name)] = owners
    if unit == INTEGRATION:
        raise Conflict(f"it is the certificate of the integration {name}, which is nothing without it: delete the integration")


async def listed(db: Database, now: datetime, after: str, limit: int, unit: str | None = None) -> list[dict[str, Any]]:
    """Certificates that have not ended, of all classes or of one, in the order of their serials: `serial`, `name`, `unit`, `host`,
    `issued_at`, `expires_at`, and `why` where one is taken back. Raises Unavailable."""
    async with db.acquire() as connection:
        return [dict(row) for row in await connection.fetch(SQL["list_certificates"], now, after, limit, unit)]

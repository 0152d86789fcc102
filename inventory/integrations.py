"""Integrations: other programs with a certificate of their own, which read events and, where allowed, publish intents.

They are no resources and never published; that one was made or deleted stands in the audit. A name that is taken with another key is
refused; the same name and key get the certificate that was issued, so that a lost answer burns nothing, or another one once that nears
its end or the CA has changed. One that is deleted has its certificates revoked, and its name is free again. The list of names is kept in
a file beside the secrets for Mosquitto's rules; the embedded broker goes by the certificate's class. Called by web
(`/api/v1/integrations` and the page of programs) and by intents.

One with a scope has another class of certificate: it reads the events of its scope, on topics of its own, and the brokers let it read no
others. So whoever gets a first scope, or loses the last, gets another certificate for the same key, and those before are revoked.

Source: contract.md sections 2 and 3, docs/adr/0027-scopes.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from inventory import account_log, certificates, revocation
from inventory.access import checked_scope
from inventory.actor import Actor
from inventory.authority import SERVICE_LIFETIME, Authority
from inventory.bodies import Body, read
from inventory.certificates import Issuer
from inventory.db import SQL, Connection, Database, Tx
from inventory.errors import Conflict, Invalid, NotFound, Problem
from inventory.ids import new_id
from inventory.resource import time_text
from inventory.revocation import INTEGRATION, INTEGRATION_SCOPED
from inventory.secret_files import write_secret

RESERVED = ("svc-", "host-")
"""What names of services and devices begin with: an integration of such a name would be taken for one."""

LIST_LOCK = 0x666C7764_0032
"""Advisory lock of whoever writes the list of names (`inventory.db` says how they are numbered)."""

SYSTEM = Actor.system()
"""Who makes those that no person asked for."""

NAME_WORDS = "1 to 63 small letters, digits and ._-, with a letter or digit at both ends"
Write = Literal["none", "signed", "unsigned"]


class Request(Body):
    """The body of `POST /api/v1/integrations`. write: may it publish intents, and has it to sign them. scope: the filter of hosts that all
    of this is about; empty: every host."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$", description=NAME_WORDS)]
    write: Write = "none"
    scope: str = ""
    csr: Annotated[str, Field(min_length=1, max_length=certificates.MAX_CSR_BYTES)]


class Change(Body):
    """RFC 7396: what to change of one; absent members stay."""

    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Integration:
    """As intents are judged by it."""

    name: str
    write: str
    scope: str
    key: ec.EllipticCurvePublicKey


async def check(db: Database, request: Any) -> dict[str, Any]:
    """What `create` would let in, {`name`, `write`, `scope`}, without letting it in. Raises Invalid, Conflict, Unavailable."""
    asked = _checked(request)
    key = certificates.requested_key(asked.csr)
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["find_integration"], asked.name)
    if row is not None:
        _refuse_other(dict(row), key, asked)
    return {"name": asked.name, "write": asked.write, "scope": asked.scope}


async def create(
    db: Database, authority: Authority, request: Any, *, broker: tuple[str, int], now: datetime, by: Actor = SYSTEM
) -> dict[str, Any]:
    """{`name`, `write`, `scope`, `certificate`, `ca`, `broker`}. `request`: the decoded body. Raises Invalid, Conflict, Unavailable."""
    asked = _checked(request)
    key = certificates.requested_key(asked.csr)
    issued = authority.issue_integration(key, asked.name, scoped=bool(asked.scope))
    async with db.transaction() as tx:
        id = new_id("intg")
        row = await tx.raw.fetchrow(SQL["add_integration"], id, asked.name, asked.write, issued.pem, now, asked.scope)
        shown = {"name": asked.name, "write": asked.write, "scope": asked.scope, "serial": issued.serial}
        shown["expires_at"] = time_text(issued.expires_at)
        if row is not None:
            await account_log.record(tx, by, "integration", id, now, after=shown)
        else:
            row = await tx.raw.fetchrow(SQL["lock_integration"], asked.name)
        if row is None:
            raise Conflict(f"the integration {asked.name} was being deleted: ask again")
        _refuse_other(dict(row), key, asked)
        certificate = row["certificate"]
        if _is_due(authority, certificate, now):
            before = shown | _shown(certificate)
            certificate = issued.pem
            await account_log.record(tx, by, "integration", row["id"], now, before=before, after=shown)
            await tx.raw.execute("UPDATE integrations SET certificate = $2 WHERE name = $1", asked.name, certificate)
        await revocation.note(tx.raw, certificates.as_issued(certificate), asked.name, _unit(asked.scope), now)
    await publish_list(db, authority.directory)
    return {
        "name": asked.name,
        "write": asked.write,
        "scope": asked.scope,
        "certificate": certificate,
        "ca": authority.ca_pem,
        "broker": {"host": broker[0], "port": broker[1]},
    }


def _shown(certificate: str) -> dict[str, str]:
    found = x509.load_pem_x509_certificate(certificate.encode())
    return {"serial": f"{found.serial_number:x}", "expires_at": time_text(found.not_valid_after_utc)}


def _is_due(authority: Authority, certificate: str, now: datetime) -> bool:
    """Whether another one is to be made for the key: it has less than a third of its life left, or is not by the CA that issues now."""
    ends = x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc
    return ends - now < SERVICE_LIFETIME / 3 or not certificates.issued_by(authority.issuer, certificate)


async def change(tx: Tx, db: Database, authority: Authority, name: str, patch: Any, now: datetime, by: Actor) -> dict[str, Any]:
    """As `list_all` has it then. Its next event and its next intent go by the scope that it has now. Once the transaction has committed,
    `publish_list`. Raises NotFound, Invalid."""
    wanted = read(Change, patch)
    row = await tx.raw.fetchrow(SQL["lock_integration"], name) if "\0" not in name else None
    if row is None:
        raise _unknown(name)
    before = _listed(dict(row))
    if wanted.scope is None:
        return before
    scope, certificate = checked_scope(wanted.scope), row["certificate"]
    if bool(scope) != bool(row["scope"]):
        await _take_back(tx, db, name, now)
        issued = authority.issue_integration(public_key(certificate), name, scoped=bool(scope))
        await revocation.note(tx.raw, issued, name, _unit(scope), now)
        certificate = issued.pem
    await tx.raw.execute("UPDATE integrations SET scope = $2, certificate = $3 WHERE name = $1", name, scope, certificate)
    after = _listed(dict(row) | {"scope": scope, "certificate": certificate})
    await account_log.record(tx, by, "integration", row["id"], now, before=before, after=after)
    return after


async def delete(db: Database, secrets_dir: Path, name: str, now: datetime, by: Actor = SYSTEM) -> None:
    """Its certificates are revoked, those before the present one too, and it may no longer speak. Raises NotFound, Unavailable."""
    async with db.transaction() as tx:
        known = "\0" not in name  # no text of the database's
        sql = "DELETE FROM integrations WHERE name = $1 RETURNING id, write, scope, certificate"
        row = await tx.raw.fetchrow(sql, name) if known else None
        if row is None:
            raise _unknown(name)
        issued = certificates.as_issued(row["certificate"])
        before = {"name": name, "write": row["write"], "scope": row["scope"], **_shown(row["certificate"])}
        await account_log.record(tx, by, "integration", row["id"], now, before=before)
        await revocation.note(tx.raw, issued, name, _unit(row["scope"]), now)
        await _take_back(tx, db, name, now)
    await publish_list(db, secrets_dir)


async def _take_back(tx: Tx, db: Database, name: str, now: datetime) -> None:
    """All certificates that it has had."""
    serials = await tx.raw.fetch("SELECT serial FROM certificate WHERE name = $1 AND starts_with(unit, $2)", name, INTEGRATION)
    await revocation.take_back(tx.raw, db, [row["serial"] for row in serials], now)


async def publish_list(db: Database, secrets_dir: Path) -> None:
    """Bring the file that Mosquitto's rules are made of up to date; after the commit of what has changed. Raises Unavailable.

    One at a time, from the reading of the names to the writing of the file: else, of two, the one who read first may write last."""
    async with db.transaction() as tx:
        await tx.raw.execute("SELECT pg_advisory_xact_lock($1)", LIST_LOCK)
        write_list(secrets_dir, await _names(tx.raw))


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no integration {name[:64]!r}")


async def _names(connection: Connection) -> list[tuple[str, bool]]:
    """Each, and whether it has a scope."""
    return [(row["name"], bool(row["scope"])) for row in await connection.fetch("SELECT name, scope FROM integrations ORDER BY name")]


async def scopes(db: Database) -> dict[str, str]:
    """Of those that have one, by name."""
    async with db.acquire() as connection:
        rows = await connection.fetch("SELECT name, scope FROM integrations WHERE scope <> '' ORDER BY name")
    return {row["name"]: row["scope"] for row in rows}


def _unit(scope: str) -> str:
    return INTEGRATION_SCOPED if scope else INTEGRATION


def _refuse_other(row: Mapping[str, Any], key: ec.EllipticCurvePublicKey, asked: Request) -> None:
    if public_key(row["certificate"]) != key or (row["write"], row["scope"]) != (asked.write, asked.scope):
        raise Conflict(f"there is an integration named {asked.name} already", errors=(Problem("/name", "is taken"),))


async def get(db: Database, name: str) -> dict[str, Any]:
    """One, as `list_all` has it. Raises NotFound, Unavailable."""
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["find_integration"], name) if "\0" not in name else None
    if row is None:
        raise _unknown(name)
    return _listed(dict(row))


async def find(connection: Connection, name: str) -> Integration | None:
    row = await connection.fetchrow(SQL["find_integration"], name)
    return None if row is None else Integration(row["name"], row["write"], row["scope"], public_key(row["certificate"]))


async def list_all(db: Database) -> list[Mapping[str, Any]]:
    """By name: `kind`, `name`, `write`, `scope`, `created_at`, and `serial` and `expires_at` of its certificate, times as text."""
    async with db.acquire() as connection:
        rows = await connection.fetch("SELECT name, write, scope, certificate, created_at FROM integrations ORDER BY name")
    return [_listed(dict(row)) for row in rows]


def _listed(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"kind": "integration"} | {name: row[name] for name in ("name", "write", "scope")}
    return shown | {"created_at": time_text(row["created_at"])} | _shown(row["certificate"])


async def by_another_ca(connection: Connection, issuer: Issuer) -> tuple[str, ...]:
    """Names of those whose certificate is not by this CA."""
    rows = await connection.fetch("SELECT name, certificate FROM integrations ORDER BY name")
    return tuple(row["name"] for row in rows if not certificates.issued_by(issuer, row["certificate"]))


def write_list(secrets_dir: Path, names: list[tuple[str, bool]]) -> None:
    """The file that Mosquitto's rules are made of; written where it would change."""
    file = secrets_dir.parent / "broker" / "integrations.json"
    content = json.dumps([{"name": name, "scoped": scoped} for name, scoped in names]).encode() + b"\n"
    if file.exists() and file.read_bytes() == content:
        return
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_secret(file, content)


def public_key(certificate: str) -> ec.EllipticCurvePublicKey:
    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "no other certificate is issued"
    return key


def _checked(request: Any) -> Request:
    asked = read(Request, request)
    if asked.name.startswith(RESERVED):
        detail = f"must not begin with {' or '.join(RESERVED)}"
        raise Invalid(f"name: {detail}", errors=(Problem("/name", detail),))
    return asked.model_copy(update={"scope": checked_scope(asked.scope)})

"""Enrollment: a token and a proof of a key's possession against an identity on the wire. Called by web for `POST /api/v1/enroll`.

One transaction under the token's row lock, so that a use is counted once and an identity exists with its host or not at all. What a device
says of itself (the evidence) is hostile input: checked, bounded, kept, and used for nothing but a first name of the host. A key is known
by its fingerprint: the same token and key get the same answer again, another valid token re-enrolls the key under the host it has.

Not here: the waiting room (202), revocation and rotation. Source: contract.md section 2.
"""

import asyncio
import hashlib
import logging
import re
from datetime import datetime
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from broker.topics import Topics
from inventory import certificates
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.certificates import Issued
from inventory.db import SQL, Database, Row, dumps, loads
from inventory.errors import Forbidden, Invalid, Problem
from inventory.ids import new_id
from inventory.kind import NAME, Text
from inventory.kinds import BY_NAME
from inventory.store import Store
from inventory.writer import Writer

log = logging.getLogger(__name__)

REFUSED = "the token is not known, has expired, or is used up: make another one with `fleetward token create`"
"""One text for all three, so that a guess learns nothing."""

FALLBACK_NAME = "host"

AT_ONCE = 2
"""Enrollments of a process under way at once. They wait for the same token's row anyhow; waiting in the database, a thousand devices that
come together would hold every connection that the process has, and the dashboard would stand still."""

_turns: "WeakKeyDictionary[Database, asyncio.Semaphore]" = WeakKeyDictionary()

Mac = Annotated[str, Field(pattern=r"^[0-9A-Fa-f:.-]{1,64}$")]


def _one_line(text: str) -> str:
    if any(ord(c) < 32 for c in text):
        raise ValueError("must not hold control characters")
    return text


Word = Annotated[Text, Field(max_length=256), AfterValidator(_one_line)]


class Evidence(BaseModel):
    """What a machine says it is, null where it does not know. None of it is proof."""

    model_config = ConfigDict(extra="ignore", strict=True)

    serial: Word | None = None
    uuid: Word | None = None
    macs: Annotated[list[Mac], Field(max_length=64)] | None = None
    hostname: Word | None = None


class Request(BaseModel):
    """The body of `POST /api/v1/enroll`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: Annotated[str, Field(min_length=1, max_length=512)]
    csr: Annotated[str, Field(min_length=1, max_length=certificates.MAX_CSR_BYTES)]
    evidence: Annotated[Evidence, BeforeValidator(lambda given: {} if given is None else given)] = Evidence()
    agent_version: Annotated[Word, BeforeValidator(lambda given: "" if given is None else given)] = ""


async def redeem(
    db: Database, store: Store, authority: Authority, request: Any, *, broker: tuple[str, int], topics: Topics | None = None
) -> dict[str, Any]:
    """The answer of contract.md section 2. `request`: the decoded JSON body; `broker`: host and port that devices connect to.

    Raises Invalid naming members, Forbidden for a token that does not do, Unavailable."""
    asked = _checked(request)
    key = certificates.requested_key(asked.csr)
    print_ = certificates.fingerprint(key)
    async with _turns.setdefault(db, asyncio.Semaphore(AT_ONCE)), store.transaction() as w:
        identity = await _identity(w, store.clock(), authority, asked, print_)
    device = identity["host"]
    return {
        "device": device,
        "prefix": (topics or Topics()).device_prefix(device),
        "certificate": identity["certificate"],
        **authority.introduction(),
        "channel_key": authority.channel_key(device, identity["incarnation"]).hex(),
        "broker": {"host": broker[0], "port": broker[1]},
    }


def host_name(hostname: str | None) -> str:
    """A name for the host out of what it calls itself: allowed characters only, never empty."""
    text = re.sub(r"[^a-z0-9._-]+", "-", (hostname or "").split(".")[0].lower())[:200].strip("-._")
    return text if NAME.fullmatch(text) else FALLBACK_NAME


def _checked(request: Any) -> Request:
    try:
        return Request.model_validate(request)
    except ValidationError as error:
        problems = tuple(
            Problem("".join(f"/{part}" for part in e["loc"]), e["msg"]) for e in error.errors(include_url=False, include_input=False)
        )
        raise Invalid("; ".join(f"{p.pointer}: {p.detail}" for p in problems), errors=problems) from None


async def _identity(w: Writer, now: datetime, authority: Authority, asked: Request, print_: str) -> Row:
    """The row of `device_identity` that the answer is made of."""
    token = await w.tx.raw.fetchrow(SQL["lock_enrollment_token"], hashlib.sha256(asked.token.encode()).hexdigest())
    if token is None:
        raise Forbidden(REFUSED)
    known = await w.tx.raw.fetchrow(SQL["lock_identity_by_key"], print_)
    if known is not None and known["revoked_at"] is not None:
        raise Forbidden("this device's key has been revoked: remove its key and enroll it anew")
    if known is not None and known["token"] == token["id"]:
        return dict(known)
    if token["used"] >= token["uses"] or token["expires_at"] <= now or token["deleted_at"] is not None:
        raise Forbidden(REFUSED)
    await w.write(BY_NAME["enrollment-token"], token["id"], {"used": token["used"] + 1}, Actor.inventory())
    if known is not None:
        return await _again(w, authority, asked, dict(token), dict(known))
    return await _first(w, authority, asked, dict(token), print_, now)


async def _first(w: Writer, authority: Authority, asked: Request, token: Row, print_: str, now: datetime) -> Row:
    host = await w.make(BY_NAME["host"], _host_values(asked.evidence, token), Actor.system())
    issued = authority.issue_device(asked.csr, host)
    row = await w.tx.raw.fetchrow(
        SQL["add_identity"], host, print_, issued.pem, issued.serial, issued.expires_at, dumps(_evidence(asked)), token["id"], now
    )
    await w.tx.raw.execute(SQL["add_stream"], host)
    log.info("device enrolled", extra={"device": host, "token": token["id"]})
    assert row is not None, "an INSERT returns its row"
    return dict(row)


async def _again(w: Writer, authority: Authority, asked: Request, token: Row, known: Row) -> Row:
    """The key is known, under another token: the same host, a new certificate, and a channel key that nobody has had before. A token that
    approves does so here too, but not what a person has decided to distrust."""
    kind, host = BY_NAME["host"], known["host"]
    if token["approve"] and (await w.load(kind, host))["desired_state"] == "registered":
        await w.patch(kind, host, {"desired_state": "onboarded"}, Actor.system(), None)
    issued: Issued = authority.issue_device(asked.csr, host)
    row = await w.tx.raw.fetchrow(
        SQL["renew_identity"], host, issued.pem, issued.serial, issued.expires_at, dumps(_evidence(asked)), token["id"]
    )
    log.info("device enrolled again", extra={"device": host, "token": token["id"]})
    assert row is not None, "the row is locked"
    return dict(row)


def _host_values(evidence: Evidence, token: Row) -> dict[str, Any]:
    return {
        "id": new_id(BY_NAME["host"].prefix),
        "name": host_name(evidence.hostname),
        "site": token["site"],
        "labels": loads(token["given_labels"]),
        "desired_state": "onboarded" if token["approve"] else "registered",
    }


def _evidence(asked: Request) -> dict[str, Any]:
    return {**asked.evidence.model_dump(exclude_none=True), "agent_version": asked.agent_version}

"""Enrollment: a token and a proof of a key's possession against an identity on the wire, or a place in the waiting room. Called by web
for `POST /api/v1/enroll`.

One transaction under one lock, so that a use is counted once and an identity exists with its host or not at all. A key is known by its
fingerprint: the same token and key get the same answer again, another valid token re-enrolls the key under the host it has.

A new key is let in by a token that approves, or by a host that a person wrote down for this machine (`expected_serial`, `expected_uuid`).
Otherwise, and always where its machine is known already, it waits: as a host in the state `discovered`, with its evidence, until a person
sets what is wanted of it (`onboarded`: let in; `untrusted`: refused). Approved, it becomes the host that it `replaces`, as a new
incarnation with another channel key, or a host of its own. The certificate is made when the device asks the next time.

Not here: revocation of what was issued before, renewal, rotation. Source: contract.md section 2; docs/enrollment.md.
"""

import asyncio
import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

from broker.topics import Topics
from inventory import certificates, evidence
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.db import SQL, Database, Row, dumps, loads
from inventory.errors import Forbidden, NotFound
from inventory.evidence import Request
from inventory.ids import new_id
from inventory.kind import NAME
from inventory.kinds.enrollment_token import ENROLLMENT_TOKEN
from inventory.kinds.host import HOST
from inventory.recognition import Candidate, Expected, Known, Stranger, Verdict, recognise, serial_key, uuid_key
from inventory.resource import Resource
from inventory.store import Writes
from inventory.writer import Writer

log = logging.getLogger(__name__)

REFUSED = "the token is not known, has expired, or is used up: make another one with `fleetward token create`"
"""One text for all three, so that a guess learns nothing."""
REJECTED = "a person has refused this device: ask them, or remove its key and enroll anew with another token"
REVOKED = "this device's key has been revoked: remove its key and enroll it anew"

FALLBACK_NAME = "host"

LOCK = 0x666C7764_0021
"""Advisory lock of whoever may make an identity: under one serial number that is new to us, the second of two must see the first."""

AT_ONCE = 2
"""Enrollments of a process under way at once. They wait for each other anyhow; waiting in the database, a thousand devices that come
together would hold every connection that the process has, and the dashboard would stand still."""

SOONEST_S, LATEST_S = 5, 60
"""How long a waiting device is told to wait before it asks again, in seconds: at first as long as a person takes who is at it..."""
PATIENCE = 20
"""...and with time this part of what it has waited already, so that a thousand forgotten ones ask about 17 times a second."""

_turns: "WeakKeyDictionary[Database, asyncio.Semaphore]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Admitted:
    """The device has an identity. `answer`: the 200 of contract.md section 2."""

    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """It is to ask again, with the same token and key. `request`: the host that waits to be approved. `retry_after`: seconds."""

    request: str
    retry_after: int


Outcome = Admitted | Waiting


async def redeem(
    db: Database,
    store: Writes,
    authority: Authority,
    body: Any,
    *,
    broker: tuple[str, int],
    address: str = "",
    topics: Topics | None = None,
) -> Outcome:
    """`body`: the decoded JSON body; `broker`: host and port that devices connect to; `address`: where the request came from.

    Raises Invalid naming members, Forbidden for a token that does not do or a device that was refused, Unavailable."""
    asked = evidence.checked(body)
    key = certificates.fingerprint(certificates.requested_key(asked.csr))

    async def once() -> Row | Waiting:
        async with store.transaction() as w:
            return await _Redemption(w, authority, asked, key, address, store.clock()).outcome()

    async with _turns.setdefault(db, asyncio.Semaphore(AT_ONCE)):
        found = await store.retrying(once)
    if isinstance(found, Waiting):
        return found
    device = found["host"]
    return Admitted(
        {
            "device": device,
            "prefix": (topics or Topics()).device_prefix(device),
            "certificate": found["certificate"],
            **authority.introduction(),
            "channel_key": authority.channel_key(device, found["incarnation"]).hex(),
            "broker": {"host": broker[0], "port": broker[1]},
        }
    )


def host_name(hostname: str | None) -> str:
    """A name for the host out of what it calls itself: allowed characters only, never empty."""
    text = re.sub(r"[^a-z0-9._-]+", "-", (hostname or "").split(".")[0].lower())[:200].strip("-._")
    return text if NAME.fullmatch(text) else FALLBACK_NAME


def retry_after(waited: timedelta) -> int:
    """Seconds until it may ask again."""
    return min(LATEST_S, max(SOONEST_S, int(waited.total_seconds()) // PATIENCE))


class _Redemption:
    """One request in its transaction. A row of `device_identity` is what the answer is made of."""

    def __init__(self, w: Writer, authority: Authority, asked: Request, key: str, address: str, now: datetime) -> None:
        self._w, self._authority, self._asked, self._key, self._now = w, authority, asked, key, now
        self._evidence = {**asked.evidence.kept(), "agent_version": asked.agent_version, "address": address}
        self._secret = hashlib.sha256(asked.token.encode()).hexdigest()

    async def outcome(self) -> Row | Waiting:
        """Raises Forbidden."""
        waiting = await self._fetch("waiting_by_key", self._key, self._secret)
        if waiting is not None and await self._nothing_new(waiting):
            await self._w.tx.lazily()  # nothing but a sign of life
            return await self._go_on_waiting(waiting)
        await self._fetch("lock_enrollment", LOCK)
        token = await self._fetch("lock_enrollment_token", self._secret)
        if token is None:
            raise Forbidden(REFUSED)
        identity = await self._fetch("lock_identity_by_key", self._key)
        if identity is not None:
            return await self._known_key(token, identity)
        request = await self._fetch("request_by_key", self._key)
        if request is None:
            await self._use(token)
            return await self._arrive(token)
        if request["token"] != token["id"]:
            await self._use(token)
        return await self._ask_again(token, request)

    # --- who it is ------------------------------------------------------------------------------------------------------------

    async def _known_key(self, token: Row, identity: Row) -> Row:
        if identity["revoked_at"] is not None:
            raise Forbidden(REVOKED)
        if identity["token"] == token["id"]:
            return identity
        await self._use(token)
        return await self._again(token, identity)

    async def _arrive(self, token: Row) -> Row | Waiting:
        """A key that nobody has seen before."""
        match await self._recognise(None):
            case Expected(host):
                return await self._become(await self._w.load(HOST, host), token)
            case Stranger() if token["approve"]:
                return await self._admit(await self._new_host(token, "onboarded"), token)
            case verdict:
                return await self._wait(token, _same_as(verdict))

    async def _ask_again(self, token: Row, request: Row) -> Row | Waiting:
        """A device that waits: what a person has decided meanwhile, else what was written down for it, else a token that approves."""
        host = await self._w.load(HOST, request["host"])
        if host["deleted_at"] is not None or host["desired_state"] not in ("registered", "onboarded"):
            raise Forbidden(REJECTED)
        if host["desired_state"] == "onboarded":
            return await self._let_in(host, token)
        verdict = await self._recognise(host["id"])
        if isinstance(verdict, Expected):
            return await self._succeed(host, await self._w.load(HOST, verdict.host), token)
        if token["approve"] and isinstance(verdict, Stranger) and host["replaces"] is None:
            await self._w.patch(HOST, host["id"], {"desired_state": "onboarded"}, Actor.system(), None)
            return await self._admit(host["id"], token)
        await self._renew(host, token, request, _same_as(verdict))
        return await self._go_on_waiting(request)

    async def _recognise(self, asking: str | None) -> Verdict:
        told = self._asked.evidence
        serial, uuid = serial_key(told.serial), uuid_key(told.uuid)
        if serial is None and uuid is None:
            return Stranger()
        spelled = [] if serial is None else sorted({str(told.serial), serial, serial.upper()})
        rows = await self._w.tx.raw.fetch(SQL["recognised_hosts"], serial, uuid, spelled, asking)
        return recognise(serial, uuid, [Candidate(row["id"], row["taken"], row["expected_serial"], row["expected_uuid"]) for row in rows])

    # --- the waiting room -----------------------------------------------------------------------------------------------------

    async def _nothing_new(self, request: Row) -> bool:
        """Neither has a person decided, nor is it known to be another machine than it was."""
        if request["desired_state"] != "registered":
            return False
        verdict = await self._recognise(request["host"])
        return not isinstance(verdict, Expected) and list(_same_as(verdict)) == loads(request["same_as"])

    async def _wait(self, token: Row, same_as: tuple[str, ...]) -> Waiting:
        host = await self._new_host(token, "registered", replaces=same_as[0] if same_as else None)
        await self._execute("add_request", host, self._key, token["id"], dumps(self._evidence), dumps(same_as), self._now)
        log.info("device waits for approval", extra={"device": host, "token": token["id"], "same_as": list(same_as)})
        return Waiting(host, SOONEST_S)

    async def _renew(self, host: Resource, token: Row, request: Row, same_as: tuple[str, ...]) -> None:
        """What is found out since it came is shown too; whom a person has said that it replaces stays, unless there is news."""
        if list(same_as) != loads(request["same_as"]):
            await self._w.write(HOST, host["id"], {"replaces": same_as[0] if same_as else None}, Actor.system())
        await self._execute("renew_request", host["id"], token["id"], dumps(self._evidence), dumps(same_as), self._now)

    async def _go_on_waiting(self, request: Row) -> Waiting:
        await self._execute("request_heard", request["host"], self._now)
        return Waiting(request["host"], retry_after(self._now - request["created_at"]))

    async def _let_in(self, host: Resource, token: Row) -> Row:
        """A person has approved it."""
        if host["replaces"] is not None:
            try:
                former = await self._w.load(HOST, host["replaces"])
            except NotFound:
                return await self._admit(host["id"], token)
            if former["deleted_at"] is None:
                await self._w.patch(HOST, former["id"], {"desired_state": "onboarded"}, Actor.system(), None)
                return await self._succeed(host, former, token)
        return await self._admit(host["id"], token)

    # --- identities -----------------------------------------------------------------------------------------------------------

    async def _admit(self, host: str, token: Row) -> Row:
        """The host's first identity."""
        issued = self._authority.issue_device(self._asked.csr, host)
        row = await self._fetch(
            "add_identity", host, self._key, issued.pem, issued.serial, issued.expires_at, dumps(self._evidence), token["id"], self._now
        )
        await self._execute("add_stream", host)
        await self._execute("drop_request", host)
        log.info("device enrolled", extra={"device": host, "token": token["id"]})
        return _there(row)

    async def _succeed(self, waiting: Resource, former: Resource, token: Row) -> Row:
        """What waited becomes a host that there is; its own goes."""
        row = await self._become(former, token)
        await self._w.remove(HOST, waiting["id"], Actor.system())
        return row

    async def _become(self, host: Resource, token: Row) -> Row:
        """The device takes a host that there is: as its first one, or in place of another, whose credentials are void from now on."""
        issued = self._authority.issue_device(self._asked.csr, host["id"])
        row = await self._fetch(
            "rekey_identity", host["id"], self._key, issued.pem, issued.serial, issued.expires_at, dumps(self._evidence), token["id"]
        )
        if row is None:
            return await self._admit(host["id"], token)
        await self._execute("forget_trust", host["id"])
        log.info("device replaced", extra={"device": host["id"], "token": token["id"], "incarnation": row["incarnation"]})
        return row

    async def _again(self, token: Row, known: Row) -> Row:
        """The key is known, under another token: the same host, a new certificate, and a channel key that nobody has had. A token that
        approves does so here too, but not what a person has decided to distrust."""
        host = known["host"]
        if token["approve"] and (await self._w.load(HOST, host))["desired_state"] == "registered":
            await self._w.patch(HOST, host, {"desired_state": "onboarded"}, Actor.system(), None)
        issued = self._authority.issue_device(self._asked.csr, host)
        row = await self._fetch("renew_identity", host, issued.pem, issued.serial, issued.expires_at, dumps(self._evidence), token["id"])
        log.info("device enrolled again", extra={"device": host, "token": token["id"]})
        return _there(row)

    async def _use(self, token: Row) -> None:
        """Count one use. Raises Forbidden."""
        if token["used"] >= token["uses"] or token["expires_at"] <= self._now or token["deleted_at"] is not None:
            raise Forbidden(REFUSED)
        await self._w.write(ENROLLMENT_TOKEN, token["id"], {"used": token["used"] + 1}, Actor.inventory())

    async def _new_host(self, token: Row, desired_state: str, replaces: str | None = None) -> str:
        values = {
            "id": new_id(HOST.prefix),
            "name": host_name(self._asked.evidence.hostname),
            "site": token["site"],
            "labels": loads(token["given_labels"]),
            "desired_state": desired_state,
            "replaces": replaces,
        }
        return await self._w.make(HOST, values, Actor.system())

    async def _fetch(self, statement: str, *values: Any) -> Row | None:
        row = await self._w.tx.raw.fetchrow(SQL[statement], *values)
        return None if row is None else dict(row)

    async def _execute(self, statement: str, *values: Any) -> None:
        await self._w.tx.raw.execute(SQL[statement], *values)


def _same_as(verdict: Verdict) -> tuple[str, ...]:
    return verdict.hosts if isinstance(verdict, Known) else ()


def _there(row: Row | None) -> Row:
    assert row is not None, "it was just written, under its lock"
    return row

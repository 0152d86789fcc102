"""The way back in for a device whose connection the broker refuses: its certificate has ended, or it does not know the CA that the broker's
is by now. The same request as on `up/csr`, handed in over HTTP, and the same answer as on `down/certificate`, with the newest keys.

Request and answer carry the device's MAC, the lists their signatures: nothing here depends on whether the device can check who answers it,
which it can't where the CA has changed while it was away. Called by web for `POST /api/v1/renew`. Source: contract.md section 3; decision:
docs/adr/0017-renewal.md.
"""

from datetime import timedelta
from typing import Any

from broker.messages import CertificateAnswer, CertificateRequest, ContractError, decode, encode, now_text
from broker.topics import DeviceTopic, TopicError, Topics
from inventory.authority import Authority
from inventory.db import SQL, Database
from inventory.errors import Forbidden, Invalid, Problem
from inventory.renewal import GRACE, Renewals
from inventory.store import Writes

REFUSED = "there is no such device, it has been revoked, or the request is not by it: enroll it anew with a new token"
"""One text for all, so that a guess learns nothing."""


class Readmission:
    """`grace`: how long after its end a certificate can be replaced."""

    def __init__(self, db: Database, store: Writes, authority: Authority, topics: Topics, grace: timedelta = GRACE) -> None:
        self._db, self._store, self._authority, self._topics = db, store, authority, topics
        self._renewals = Renewals(store, authority, grace)

    async def answer(self, body: Any) -> dict[str, Any]:
        """{`answer`, `keys`}: the payloads of `down/certificate` and `down/keys`. `body`: the decoded JSON, {`device`, `request`}, of which
        the latter is the payload of `up/csr`. Raises Invalid naming members, Forbidden, Unavailable, AuthorityError."""
        device, payload = _text(body, "device"), _text(body, "request")
        topic = self._topic(device, CertificateRequest.suffix)
        key = await self._key(device)
        try:
            request = decode(CertificateRequest.suffix, payload.encode(), topic=topic, key=key)
        except ContractError:
            raise Forbidden(REFUSED) from None
        assert isinstance(request, CertificateRequest), "the suffix says so"
        found = await self._renewals.answer(device, request)
        if found is None:
            raise Forbidden(REFUSED)
        now = now_text(self._store.clock())
        down = self._topic(device, CertificateAnswer.suffix)
        return {
            "answer": encode(found, sent_at=now, topic=down, key=key).decode(),
            "keys": encode(self._authority.keychain.message, sent_at=now).decode(),
        }

    def _topic(self, device: str, suffix: str) -> str:
        try:
            return self._topics.build(DeviceTopic(device, suffix))
        except TopicError:
            raise Forbidden(REFUSED) from None

    async def _key(self, device: str) -> bytes:
        async with self._db.acquire() as connection:
            row = await connection.fetchrow(SQL["device_keys"], [device])
        if row is None:
            raise Forbidden(REFUSED)
        return self._authority.channel_key(device, row["incarnation"])


def _text(body: Any, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise Invalid(f"{name}: must be a text", errors=(Problem(f"/{name}", "must be a text"),))
    return value

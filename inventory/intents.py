"""Intents over MQTT: an integration's patch of one resource, checked, applied once, and replied to.

Pure at its heart: `read_intent` makes an `Intent` of a payload, or raises what the reply then says. Where an integration signs, the broker
is not believed: the JWS is by its certificate's key, its `correlation` is done once for as long as `not_after` lets it be done at all, and
`kind` and `id` in it, where given, must be those of the topic. Called by `inventory.service`.

Source: contract.md section 3; RFC 7515 (JWS, compact), RFC 7518 section 3.4 (ES256), RFC 7396, RFC 9457.
"""

import base64
import binascii
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from broker.messages import MAX_BYTES
from broker.topics import IntentTopic, ReplyTopic, Topics
from inventory import integrations
from inventory.actor import Actor
from inventory.db import dumps
from inventory.errors import BadRequest, Conflict, Forbidden, Invalid, InventoryError, NotFound, Problem, TooManyRequests
from inventory.idempotency import Claim, once
from inventory.integrations import Integration
from inventory.keepable import unkeepable
from inventory.kinds import BY_NAME
from inventory.metrics import INTENTS, METER
from inventory.resource import time_text
from inventory.store import Store, read_one
from inventory.times import parse_time
from inventory.writer import Writer

log = logging.getLogger(__name__)

Json = dict[str, Any]

Publish = Callable[[str, bytes], Awaitable[None]]

CORRELATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""It is a level of the reply's topic and the idempotency key."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What an integration wants of one resource."""

    correlation: str
    patch: Json
    not_after: datetime


class Broken(InventoryError):
    """A failure that nobody foresaw."""

    status = 500
    title = "Internal Server Error"


class Intents:
    """Does intents, one at a time and in the order they come. `publish` sends a reply."""

    def __init__(self, store: Store, topics: Topics, publish: Publish) -> None:
        self._store, self._topics, self._publish = store, topics, publish

    async def handle(self, topic: IntentTopic, payload: bytes) -> None:
        """Raises Unavailable when the database is away: the intent was then not done, or will not be done again."""
        async with self._store.db.acquire() as connection:
            who = await integrations.find(connection, topic.integration)
        correlation = correlation_of(payload)
        try:
            if who is None:
                raise Forbidden(f"there is no integration {topic.integration}")
            body = await self._do(who, topic, payload)
        except InventoryError as error:
            if error.status == 503:
                raise
            log.warning("intent refused", extra={"integration": topic.integration, "key": topic.id, "error": str(error)})
            body = problem(error)
        except Exception:
            # One intent that nobody foresaw must not keep those of everybody else from being read.
            log.exception("an intent failed", extra={"integration": topic.integration, "key": topic.id})
            body = problem(Broken("something went wrong here; the log of the Inventory service says what"))
        METER.count(INTENTS, str(body["status"]))
        await self._reply(topic, correlation, body)

    async def refuse(self, topic: IntentTopic, payload: bytes, retry_after: int) -> None:
        """It is not done, because the integration asks faster than is done; `retry_after` in seconds."""
        error = TooManyRequests("intents come faster than they are done; this one was not, send it again later", retry_after=retry_after)
        await self._reply(topic, correlation_of(payload), problem(error) | {"retry_after": retry_after})

    async def _reply(self, topic: IntentTopic, correlation: str | None, body: Json) -> None:
        if correlation is not None:
            reply = {"v": 1, "sent_at": time_text(self._store.clock()), **body}
            await self._publish(self._topics.build(ReplyTopic(topic.integration, correlation)), dumps(reply).encode())

    async def _do(self, who: Integration, topic: IntentTopic, payload: bytes) -> Json:
        now = self._store.clock()
        intent = read_intent(who, topic, payload, now)
        kind = BY_NAME.get(topic.kind)
        if kind is None:
            raise NotFound(f"there is no kind {topic.kind!r}")
        actor = Actor.integration(who.name, who.scope)
        request = f"intent {topic.kind} {topic.id}"
        claim = Claim.of(actor, intent.correlation, request, intent.patch, now, intent.not_after, pointer="/correlation")

        async def patch(w: Writer) -> tuple[int, Any]:
            id = await w.patch(kind, topic.id, intent.patch, actor, None)
            return 200, await read_one(w.tx.raw, kind, id)

        answer = await once(self._store, claim, patch)
        log.info("intent done", extra={"integration": who.name, "kind": kind.name, "key": topic.id})
        return {"status": answer.status, "resource": answer.body}


def problem(error: InventoryError) -> Json:
    """The members of an RFC 9457 problem, as REST has them."""
    return {
        "type": "urn:fleetward:problem:" + error.title.lower().replace(" ", "-"),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "errors": [{"pointer": each.pointer, "detail": each.detail} for each in error.errors],
    }


def read_intent(who: Integration, topic: IntentTopic, payload: bytes, now: datetime) -> Intent:
    """Raises Forbidden (may not write, or not signed by its key), BadRequest, Invalid, Conflict (too late)."""
    match who.write:
        case "signed":
            body = _object(verified(payload, who.key))
        case "unsigned":
            body = _object(payload if _is_plain(payload) else verified(payload, who.key))
        case _:
            raise Forbidden(f"{who.name} may not write: it was created without --write")
    _check_target(body, topic)
    intent = Intent(_correlation(body), _patch(body), _not_after(body))
    if intent.not_after <= now:
        raise Conflict("the intent came after its not_after: it was not done")
    return intent


def verified(payload: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    """The content of a compact JWS. Raises BadRequest for what is none, Forbidden where the signature is not by this key."""
    try:
        protected, content, signature = payload.decode("ascii").split(".")
        header = json.loads(_decoded(protected))
        raw = _decoded(signature)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the intent must be a JWS in compact form: {error}") from None
    if not isinstance(header, dict) or header.get("alg") != "ES256" or "crit" in header or "b64" in header:
        raise BadRequest('the JWS must have {"alg": "ES256"} and no critical extension')
    try:
        if len(raw) != 64:
            raise InvalidSignature
        der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        key.verify(der, f"{protected}.{content}".encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Forbidden("the signature is not by the key of the integration's certificate") from None
    return _decoded(content)


def correlation_of(payload: bytes) -> str | None:
    """Where a refusal can be sent, taken from a payload that nobody has verified; None where it does not say."""
    try:
        content = payload if _is_plain(payload) else _decoded(payload.decode("ascii").split(".")[1])
        return _correlation(_object(content))
    except (InventoryError, ValueError, IndexError):
        return None


def _is_plain(payload: bytes) -> bool:
    """JSON rather than a JWS, which has no brace in it. Who may send plain intents may sign them all the same."""
    return payload.lstrip(b" \t\r\n")[:1] == b"{"


def _decoded(text: str) -> bytes:
    """base64url without padding (RFC 7515 section 2), and nothing else. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise ValueError("a part is not base64url")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _object(payload: bytes) -> Json:
    if len(payload) > MAX_BYTES:
        raise BadRequest(f"the intent is longer than {MAX_BYTES} bytes")
    try:
        body = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the intent must be JSON in UTF-8: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the intent must be a JSON object")
    return body


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _correlation(body: Json) -> str:
    value = body.get("correlation")
    if not isinstance(value, str) or not CORRELATION.fullmatch(value):
        raise _invalid("correlation", "must be 1 to 128 letters, digits or ._-, the first a letter or digit")
    return value


def _patch(body: Json) -> Json:
    value = body.get("patch")
    if not isinstance(value, dict):
        raise _invalid("patch", "must be an object (RFC 7396)")
    if problems := unkeepable(value):
        raise Invalid("; ".join(f"{each.pointer}: {each.detail}" for each in problems), errors=problems)
    return value


def _not_after(body: Json) -> datetime:
    value = body.get("not_after")
    try:
        return parse_time(value if isinstance(value, str) else "")
    except ValueError as error:
        raise _invalid("not_after", str(error)) from None


def _check_target(body: Json, topic: IntentTopic) -> None:
    """A broker could carry a signed intent to another resource's topic; a writer that names its target rules that out."""
    for name, wanted in (("kind", topic.kind), ("id", topic.id)):
        if name in body and body[name] != wanted:
            raise Forbidden(f"the intent is for {name} {body[name]!r}, but came on the topic of {wanted!r}")


def _invalid(name: str, detail: str) -> Invalid:
    return Invalid(f"{name}: {detail}", errors=(Problem(f"/{name}", detail),))

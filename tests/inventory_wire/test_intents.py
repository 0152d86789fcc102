"""Intents of integrations: who may, signed how, done once, replied to; and integrations themselves."""

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from broker.topics import IntentTopic, Topics
from inventory import idempotency
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.changes import Relay, read
from inventory.db import Database
from inventory.errors import Conflict, Invalid
from inventory.integrations import create, list_all
from inventory.intents import Intents
from inventory.store import Store
from tests.inventory_wire.installation import new_key, request

BROKER = ("fleet.example", 8883)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def jws(key: ec.EllipticCurvePrivateKey, body: Any, header: dict[str, Any] | None = None) -> bytes:
    """Compact JWS, ES256 (RFC 7515 section 3.1)."""
    head = b64(json.dumps(header or {"alg": "ES256"}).encode())
    content = b64(body if isinstance(body, bytes) else json.dumps(body).encode())
    r, s = decode_dss_signature(key.sign(f"{head}.{content}".encode(), ec.ECDSA(hashes.SHA256())))
    return f"{head}.{content}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}".encode()


def intent(correlation: str = "c-1", seconds: float = 60, **patch: Any) -> dict[str, Any]:
    not_after = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    return {"patch": patch or {"title": "North"}, "correlation": correlation, "not_after": not_after}


class Desk:
    """Intents of integrations named by how they may write, about a region called `north`."""

    def __init__(self, db: Database, store: Store, authority: Authority) -> None:
        self.db, self.store, self.authority = db, store, authority
        self.keys = {write: new_key() for write in ("none", "signed", "unsigned")}
        self.replies: list[tuple[str, dict[str, Any]]] = []
        self.intents = Intents(store, Topics(), self._publish)

    async def _publish(self, topic: str, payload: bytes) -> None:
        self.replies.append((topic, json.loads(payload)))

    async def set_up(self) -> None:
        await self.store.create("region", {"name": "north"}, Actor.user("admin", "admin"))
        for write, key in self.keys.items():
            body = {"name": f"by-{write}", "write": write, "csr": request(key)}
            await create(self.db, self.authority, body, broker=BROKER, now=datetime.now(UTC))

    async def send(self, name: str, payload: bytes, kind: str = "region", id: str = "north") -> dict[str, Any] | None:
        """The reply, if there is one."""
        before = len(self.replies)
        await self.intents.handle(IntentTopic(name, kind, id), payload)
        return self.replies[-1][1] if len(self.replies) > before else None

    async def signed(self, body: Any, **where: str) -> dict[str, Any]:
        reply = await self.send("by-signed", jws(self.keys["signed"], body), **where)
        assert reply is not None
        return reply

    async def title(self) -> str:
        return str((await self.store.get("region", "north"))["title"])


@pytest.fixture
async def desk(db: Database, store: Store, tmp_path: Path) -> Desk:
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    made = Desk(db, store, authority)
    await made.set_up()
    return made


async def test_a_signed_intent_is_done_and_replied_to(desk: Desk) -> None:
    """On its own topic, with the resource as it is then; the audit names the integration."""
    reply = await desk.signed(intent())
    assert (reply["v"], reply["status"], reply["resource"]["title"]) == (1, 200, "North")
    assert desk.replies[-1][0] == "fleet/v1/replies/by-signed/c-1"
    while await Relay(desk.db).step():
        pass
    last = (await read(desk.db, 0)).changes[-1]
    assert (last.kind, last.changed, last.actor) == ("region", ("title",), {"type": "integration", "name": "by-signed"})


async def test_a_plain_intent_is_done_where_that_is_allowed(desk: Desk) -> None:
    """And nowhere else: who has to sign is refused without a signature."""
    reply = await desk.send("by-unsigned", json.dumps(intent()).encode())
    assert reply is not None and reply["status"] == 200
    signed_all_the_same = await desk.send("by-unsigned", jws(desk.keys["unsigned"], intent("c-3")))
    assert signed_all_the_same is not None and signed_all_the_same["status"] == 200
    for name in ("by-signed", "by-none"):
        refused = await desk.send(name, json.dumps(intent("c-2", title="Other")).encode())
        assert refused is not None and refused["status"] in (400, 403)
    assert await desk.title() == "North"


async def test_the_same_correlation_is_done_once(desk: Desk) -> None:
    """However often and however parallel it comes: one version, the same reply; for something else it is refused."""
    payload = jws(desk.keys["signed"], intent())
    before = (await desk.store.get("region", "north"))["version"]
    await asyncio.gather(*(desk.intents.handle(IntentTopic("by-signed", "region", "north"), payload) for _ in range(10)))
    bodies = [{k: v for k, v in body.items() if k != "sent_at"} for _, body in desk.replies]
    assert len(bodies) == 10 and all(body == bodies[0] for body in bodies)
    await desk.store.patch("region", "north", {"title": "Since then"}, Actor.user("admin", "admin"))
    await desk.intents.handle(IntentTopic("by-signed", "region", "north"), payload)
    assert await desk.title() == "Since then"
    again = await desk.signed(intent(title="Another"))
    assert (again["status"], again["errors"][0]["pointer"]) == (422, "/correlation")
    assert (await desk.store.get("region", "north"))["version"] > before


async def test_another_integrations_correlation_is_its_own(desk: Desk) -> None:
    """Two programs may count from 1 both."""
    assert (await desk.signed(intent()))["status"] == 200
    reply = await desk.send("by-unsigned", json.dumps(intent(title="Theirs")).encode())
    assert reply is not None and reply["resource"]["title"] == "Theirs"


async def test_what_comes_too_late_is_not_done(desk: Desk) -> None:
    """The broker may have kept it back."""
    assert (await desk.signed(intent(seconds=-1)))["status"] == 409
    assert await desk.title() == ""


async def test_as_long_as_an_intent_is_valid_it_is_done_once(desk: Desk) -> None:
    """A broker that keeps a copy for days can't do it again, also after answers of a day ago have been cleared away."""
    payload = jws(desk.keys["signed"], intent(seconds=3 * 86400))
    await desk.send("by-signed", payload)
    await desk.store.patch("region", "north", {"title": "Since then"}, Actor.user("admin", "admin"))
    later = datetime.now(UTC) + timedelta(hours=60)
    desk.store.clock = lambda: later
    await idempotency.forget(desk.store, later)
    reply = await desk.send("by-signed", payload)
    assert reply is not None and reply["status"] == 200
    assert await desk.title() == "Since then"


async def test_an_intent_that_names_its_target_is_bound_to_it(desk: Desk) -> None:
    """The broker can't carry it to another resource's topic."""
    await desk.store.create("region", {"name": "south"}, Actor.user("admin", "admin"))
    bound = intent() | {"kind": "region", "id": "south"}
    assert (await desk.signed(bound))["status"] == 403
    assert (await desk.signed(bound, id="south"))["status"] == 200


REFUSED: list[tuple[dict[str, str], dict[str, Any], int]] = [
    ({"kind": "planet"}, {"title": "x"}, 404),
    ({"id": "nowhere"}, {"title": "x"}, 404),
    ({}, {"no_such_field": 1}, 422),
    ({}, {"version": 5}, 403),
    ({}, {"title": 5}, 422),
    ({}, {"title": "\0"}, 422),
    ({}, {"title": "\ud800"}, 422),
    ({}, {"labels": {"\udfff": "x"}}, 422),
    ({}, {"labels": {"a": 10**30}}, 422),
    ({}, {"labels": json.loads('{"a":' * 300 + "{}" + "}" * 300)}, 422),
    ({}, {"name": "Not A Name"}, 422),
]


async def test_what_the_store_refuses_comes_back_as_a_problem(desk: Desk) -> None:
    """The same document as REST gives; and a refused correlation may be used again."""
    for where, patch, status in REFUSED:
        reply = await desk.signed(intent(**patch), **where)
        assert reply["status"] == status, patch
        assert set(reply) == {"v", "sent_at", "type", "title", "status", "detail", "errors"}


async def test_a_failure_that_nobody_foresaw_is_told_and_stops_nobody_else(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 without its innards; the next intent is done, and the same one again later."""

    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("innards")

    with monkeypatch.context() as patched:
        patched.setattr(desk.store, "atomically", broken)
        reply = await desk.signed(intent())
    assert (reply["status"], reply["errors"]) == (500, []) and "innards" not in json.dumps(reply)
    assert (await desk.signed(intent()))["status"] == 200


def _swapped(key: ec.EllipticCurvePrivateKey) -> bytes:
    head, _, signature = jws(key, intent()).split(b".")
    return b".".join([head, b64(json.dumps(intent(title="Forged")).encode()).encode(), signature])


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    head, content, _ = jws(key, intent()).split(b".")
    return b".".join([head, content, b64(key.sign(head + b"." + content, ec.ECDSA(hashes.SHA256()))).encode()])


MALFORMED: dict[str, Callable[[ec.EllipticCurvePrivateKey], bytes]] = {
    "another key": lambda key: jws(new_key(), intent()),
    "alg none": lambda key: jws(key, intent(), {"alg": "none"}),
    "alg none, no signature": lambda key: jws(key, intent(), {"alg": "none"}).rsplit(b".", 1)[0] + b".",
    "alg HS256": lambda key: jws(key, intent(), {"alg": "HS256"}),
    "no alg": lambda key: jws(key, intent(), {"typ": "JWT"}),
    "crit": lambda key: jws(key, intent(), {"alg": "ES256", "crit": ["exp"]}),
    "b64 false": lambda key: jws(key, intent(), {"alg": "ES256", "b64": False}),
    "content swapped": _swapped,
    "DER signature": _der,
    "two parts": lambda key: b".".join(jws(key, intent()).split(b".")[:2]),
    "four parts": lambda key: jws(key, intent()) + b".e30",
    "padding": lambda key: jws(key, intent()) + b"==",
    "standard base64": lambda key: jws(key, intent()).replace(b".", b"+.", 1),
    "JSON serialisation": lambda key: json.dumps({"payload": b64(b"{}"), "signatures": []}).encode(),
    "header no object": lambda key: b64(b"[]").encode() + b"." + jws(key, intent()).split(b".", 1)[1],
    "empty": lambda key: b"",
    "dots": lambda key: b"..",
    "not ASCII": lambda key: "ü.ü.ü".encode(),
    "random bytes": lambda key: bytes(range(256)),
    "content no JSON": lambda key: jws(key, b"nonsense"),
    "content a list": lambda key: jws(key, []),
    "content NaN": lambda key: jws(key, b'{"patch":{"title":NaN},"correlation":"c","not_after":"2099-01-01T00:00:00Z"}'),
    "deep": lambda key: jws(key, b"[" * 100_000),
    "no correlation": lambda key: jws(key, {name: v for name, v in intent().items() if name != "correlation"}),
    "correlation with a slash": lambda key: jws(key, intent("a/b")),
    "correlation a wildcard": lambda key: jws(key, intent("#")),
    "no patch": lambda key: jws(key, {name: v for name, v in intent().items() if name != "patch"}),
    "patch a list": lambda key: jws(key, intent() | {"patch": []}),
    "no not_after": lambda key: jws(key, {name: v for name, v in intent().items() if name != "not_after"}),
    "not_after no time": lambda key: jws(key, intent() | {"not_after": "soon"}),
    "not_after without offset": lambda key: jws(key, intent() | {"not_after": "2099-01-01T00:00:00"}),
    "too long": lambda key: jws(key, intent(title="x" * 300_000)),
}


async def test_a_malformed_or_forged_jws_changes_nothing(desk: Desk) -> None:
    """It is refused, and the refusal is sent where its correlation says, if it says."""
    for name, make in MALFORMED.items():
        reply = await desk.send("by-signed", make(desk.keys["signed"]))
        assert reply is None or reply["status"] in (400, 403, 422), name
        assert await desk.title() == "", name


async def test_an_integration_that_there_is_not_is_refused(desk: Desk) -> None:
    """Its certificate may be good and its row gone."""
    reply = await desk.send("nobody", jws(new_key(), intent()))
    assert reply is not None and reply["status"] == 403


# --- integrations ---------------------------------------------------------------------------------------------------------------


async def test_an_integration_gets_a_certificate_and_is_listed(desk: Desk) -> None:
    """Its class in the certificate, its name in the file that Mosquitto's rules are made of."""
    file = desk.authority.directory.parent / "broker" / "integrations.json"
    assert json.loads(file.read_text()) == [{"name": f"by-{write}", "scoped": False} for write in ("none", "signed", "unsigned")]
    answer = await create(desk.db, desk.authority, {"name": "press-data", "csr": request(new_key())}, broker=BROKER, now=datetime.now(UTC))
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    assert [unit.value for unit in units] == ["integration"]
    assert (answer["write"], answer["broker"]) == ("none", {"host": "fleet.example", "port": 8883})
    assert [row["name"] for row in await list_all(desk.db)] == ["by-none", "by-signed", "by-unsigned", "press-data"]
    assert {"name": "press-data", "scoped": False} in json.loads(file.read_text())


async def test_the_same_request_again_gets_the_same_certificate(desk: Desk) -> None:
    """A lost answer burns nothing; another key under the name is a conflict."""
    key = new_key()
    body = {"name": "press-data", "write": "signed", "csr": request(key)}
    one, two = [await create(desk.db, desk.authority, body, broker=BROKER, now=datetime.now(UTC)) for _ in range(2)]
    assert one == two
    for other in (body | {"csr": request(new_key())}, body | {"write": "unsigned"}):
        with pytest.raises(Conflict, match="already"):
            await create(desk.db, desk.authority, other, broker=BROKER, now=datetime.now(UTC))


BAD_REQUESTS: list[Any] = [
    None, [], {}, {"name": "x"}, {"name": "svc-web"}, {"name": "host-01"}, {"name": "Up"}, {"name": "a/b"}, {"name": "+"}, {"name": ""},
    {"name": "x" * 100}, {"name": "ok", "write": "maybe"}, {"name": "ok", "csr": 5}, {"name": "ok", "more": 1},
]  # fmt: skip


async def test_a_bad_request_is_refused(desk: Desk) -> None:
    """Names of services and devices above all."""
    for body in BAD_REQUESTS:
        if isinstance(body, dict) and "csr" not in body and body.get("name") not in (None, "x"):
            body = body | {"csr": request(new_key())}
        with pytest.raises(Invalid) as refused:
            await create(desk.db, desk.authority, body, broker=BROKER, now=datetime.now(UTC))
        assert refused.value.errors, body

"""Integrations with a scope: their certificate's class, the events on topics of their own, and intents about what is inside alone."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from broker.topics import IntentTopic, Topics
from inventory import integrations, trail
from inventory.authority import Authority
from inventory.changes import Relay, position
from inventory.db import Connection, Database
from inventory.errors import Conflict, Invalid, NotFound
from inventory.integrations import change, check, create, list_all, publish_list, scopes
from inventory.intents import Intents
from inventory.publisher import Publisher
from inventory.revocation import listed
from inventory.store import Store
from tests.inventory_wire.installation import new_key, request, until
from tests.inventory_wire.test_intents import intent, jws
from tests.inventory_wire.test_publisher import Broker, running
from tests.two_sides import ADMIN, HANGING, OUTSIDE, SCOPE, two_sides

BROKER = ("fleet.example", 8883)
KEY = new_key()


async def _let_in(db: Database, authority: Authority, name: str = "line", scope: str = SCOPE) -> dict[str, Any]:
    body = {"name": name, "write": "signed", "scope": scope, "csr": request(KEY)}
    return await create(db, authority, body, broker=BROKER, now=datetime.now(UTC))


@pytest.fixture
def made(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    return authority


async def test_its_certificate_and_mosquittos_list_say_that_it_has_one(db: Database, made: Authority) -> None:
    """Which is what the brokers' rules go by; the same name with another scope is taken."""
    answer = await _let_in(db, made)
    subject = x509.load_pem_x509_certificate(answer["certificate"].encode()).subject
    assert [unit.value for unit in subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)] == ["integration-scoped"]
    await _let_in(db, made, "erp", "")
    listed = json.loads((made.directory.parent / "broker" / "integrations.json").read_text())
    assert listed == [{"name": "erp", "scoped": False}, {"name": "line", "scoped": True}]
    assert [(each["name"], each["scope"]) for each in await list_all(db)] == [("erp", ""), ("line", SCOPE)]
    assert await scopes(db) == {"line": SCOPE}
    assert (await _let_in(db, made))["certificate"] == answer["certificate"]
    for other in ("", 'labels.side = "elsewhere"'):
        with pytest.raises(Conflict, match="already"):
            await _let_in(db, made, scope=other)
    with pytest.raises(Invalid, match="scope: presence"):
        await check(db, {"name": "new", "scope": "presence = online", "csr": request(KEY)})


async def test_it_is_told_of_what_is_inside_on_its_own_topics(db: Database, store: Store, made: Authority) -> None:
    """What leaves comes as deleted; whoever has no scope is told everything as ever."""
    sides, broker = await two_sides(db), Broker()
    await _let_in(db, made)
    publisher = Publisher(db, Topics(), broker.publish, broker.connected)
    async with running(Relay(db).run, publisher.run):
        await store.patch("host", sides.inside.host, {"labels": {"side": "elsewhere"}}, ADMIN)
        await store.patch("host", sides.outside.host, {"title": "Unseen"}, ADMIN)
        await store.patch("region", "north", {"title": "Last"}, ADMIN)
        await until(lambda: any("/line/" in topic and body["resource"]["title"] == "Last" for topic, body in broker.got), "the last event")
        end = await position(db)
    own = [(topic, body) for topic, body in broker.got if topic.startswith("fleet/v1/integrations/line/events/")]
    assert OUTSIDE not in str(own)
    assert [body["op"] for topic, body in own if topic.endswith(f"/host/{sides.inside.host}")] == ["deleted"]
    assert {body["kind"] for _, body in own if body["op"] == "deleted"} == {"host", *HANGING}
    assert sum(topic.startswith("fleet/v1/events/host/") for topic, _ in broker.got) == 4
    assert end >= max(body["position"] for _, body in own)


async def test_the_list_has_those_that_were_made_at_the_same_time(db: Database, made: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever read the names before another one's commit does not write them down after it."""
    reading, may_write, read = asyncio.Event(), asyncio.Event(), integrations._names

    async def slow_for_the_first(connection: Connection) -> list[tuple[str, bool]]:
        found = await read(connection)
        if not reading.is_set():
            reading.set()
            await may_write.wait()
        return found

    monkeypatch.setattr(integrations, "_names", slow_for_the_first)
    async with asyncio.TaskGroup() as both:
        both.create_task(_let_in(db, made, "erp", ""))
        await reading.wait()
        both.create_task(_let_in(db, made))
        await until(lambda: _is_made(db, "line"), "the second one's commit")
        may_write.set()
    listed = json.loads((made.directory.parent / "broker" / "integrations.json").read_text())
    assert [each["name"] for each in listed] == ["erp", "line"]


async def _is_made(db: Database, name: str) -> bool:
    return any(each["name"] == name for each in await list_all(db))


OTHER = f'labels.side = "{OUTSIDE}"'


async def _changed(db: Database, store: Store, authority: Authority, scope: str) -> dict[str, Any]:
    """As the API does it."""
    now = datetime.now(UTC)
    found = await store.atomically(lambda w: change(w.tx, db, authority, "line", {"scope": scope}, now, ADMIN))
    await publish_list(db, authority.directory)
    return found


async def test_another_scope_holds_for_what_waited_for_the_broker(
    db: Database, store: Store, made: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was to be told while the broker was away is told by the scope of now."""
    monkeypatch.setattr("inventory.publisher.LOOK_S", 0.02)
    sides, broker = await two_sides(db), Broker()
    await _let_in(db, made)
    broker.away = True
    async with running(Relay(db).run, Publisher(db, Topics(), broker.publish, broker.connected).run):
        await until(lambda: broker.tries, "a try")
        await _changed(db, store, made, OTHER)
        tries = broker.tries
        await until(lambda: broker.tries > tries + 100, "further tries")
        broker.away = False
        await store.patch("region", "north", {"title": "Last"}, ADMIN)
        await until(lambda: any("/events/region/" in topic and body["resource"]["title"] == "Last" for topic, body in broker.got), "it")
    own = {body["id"] for topic, body in broker.got if "/line/" in topic and body["kind"] == "host"}
    assert own == {sides.outside.host}


async def _revoked(db: Database) -> dict[str, bool]:
    """By serial, whether a certificate that it has had is taken back."""
    return {row["serial"]: row["why"] is not None for row in await listed(db, datetime.now(UTC), "", 10) if row["name"] == "line"}


async def test_another_scope_holds_from_the_next_event_and_the_next_intent(db: Database, store: Store, made: Authority) -> None:
    """With the certificate that it has; the audit tells it."""
    sides, broker = await two_sides(db), Broker()
    await _let_in(db, made)
    before = (await list_all(db))[0]
    found = await _changed(db, store, made, OTHER)
    assert found == {**before, "scope": OTHER} == (await list_all(db))[0]
    publisher = Publisher(db, Topics(), broker.publish, broker.connected)
    async with running(Relay(db).run, publisher.run):
        for side in (sides.inside, sides.outside):
            await store.patch("host", side.host, {"title": "Told"}, ADMIN)
        await until(lambda: any("/line/" in topic and body["resource"].get("title") == "Told" for topic, body in broker.got), "the event")
    assert {body["id"] for topic, body in broker.got if "/line/" in topic and body["kind"] == "host"} == {sides.outside.host}
    assert await _asked(store, sides.inside.host, sides.outside.host) == [404, 200]
    assert await _revoked(db) == {found["serial"]: False}
    told = (await trail.page(db, trail.Wanted(kinds=("integration",)), before=None, limit=1)).items[0]
    assert (told["op"], told["changed"], told["actor"]["name"]) == ("updated", ["scope"], ADMIN.name)


async def _asked(store: Store, *hosts: str) -> list[int]:
    """How its intents about these are answered."""
    replies: list[int] = []

    async def publish(_: str, payload: bytes) -> None:
        replies.append(json.loads(payload)["status"])

    for host in hosts:
        await Intents(store, Topics(), publish).handle(IntentTopic("line", "host", host), jws(KEY, intent(f"c-{host}", title="Mine")))
    return replies


async def test_a_first_scope_and_the_end_of_the_last_take_another_certificate(db: Database, store: Store, made: Authority) -> None:
    """Brokers go by its class, so what it had is taken back; with its key it gets the new one."""
    last = (await _let_in(db, made, scope=""))["certificate"]
    for scope, unit in ((SCOPE, "integration-scoped"), ("", "integration")):
        found = await _changed(db, store, made, scope)
        again = (await _let_in(db, made, scope=scope))["certificate"]
        assert again != last
        last, certificate = again, x509.load_pem_x509_certificate(again.encode())
        assert f"{certificate.serial_number:x}" == found["serial"] == (await list_all(db))[0]["serial"]
        assert [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)] == [unit]
        assert certificate.public_key() == KEY.public_key()
        assert [serial for serial, revoked in (await _revoked(db)).items() if not revoked] == [found["serial"]]
        file = json.loads((made.directory.parent / "broker" / "integrations.json").read_text())
        assert file == [{"name": "line", "scoped": bool(scope)}]


async def test_a_scope_that_is_none_changes_nothing(db: Database, store: Store, made: Authority) -> None:
    """Nor does an unknown name, or a patch that says nothing."""
    await _let_in(db, made)
    before = await list_all(db)
    with pytest.raises(Invalid, match="scope: presence"):
        await _changed(db, store, made, "presence = online")
    now = datetime.now(UTC)
    async with db.transaction() as tx:
        for name in ("nobody", "a\0b"):
            with pytest.raises(NotFound):
                await change(tx, db, made, name, {"scope": ""}, now, ADMIN)
        with pytest.raises(Invalid, match="write"):
            await change(tx, db, made, "line", {"write": "signed"}, now, ADMIN)
        assert await change(tx, db, made, "line", {}, now, ADMIN) == before[0]
    assert await list_all(db) == before


async def test_its_intents_are_about_what_is_inside(db: Database, store: Store, made: Authority) -> None:
    """Outside is 404, what is of no host 403, and so is a patch that would lead out."""
    sides = await two_sides(db)
    await _let_in(db, made)
    replies: list[dict[str, Any]] = []

    async def publish(_: str, payload: bytes) -> None:
        replies.append(json.loads(payload))

    intents = Intents(store, Topics(), publish)
    asked: list[tuple[str, str, dict[str, Any], int]] = [
        ("host", sides.inside.host, {"title": "Mine"}, 200),
        ("host", sides.outside.host, {"title": "Mine"}, 404),
        ("host", "outside-press", {"title": "Mine"}, 404),
        ("notification", sides.outside.ids["notification"], {"read_at": "2026-01-01T00:00:00Z"}, 404),
        ("region", "north", {"title": "Mine"}, 403),
        ("host", sides.inside.host, {"labels": {"side": "elsewhere"}}, 403),
    ]
    for number, (kind, id, patch, status) in enumerate(asked):
        await intents.handle(IntentTopic("line", kind, id), jws(KEY, intent(f"c-{number}", **patch)))
        assert replies[-1]["status"] == status, (kind, id, replies[-1])
    assert (await store.get("host", sides.inside.host))["labels"] == {"side": "inside"}
    assert (await store.get("host", sides.outside.host))["title"] == ""

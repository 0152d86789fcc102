"""Certificates that are taken back, on the wire, on both brokers: what is connected ends, and nothing comes back with them."""

import asyncio
import json
from pathlib import Path

import pytest

from broker.acl import CONTROL, Class
from broker.following import NAMES_A_MESSAGE, cutting
from broker.mosquitto import Mosquitto, MosquittoMissing
from broker.revocations import RevocationList, Revoked, parts_of
from broker.topics import Topics
from tests.broker.certificates import CertFactory
from tests.broker.conftest import Place, made_broker
from tests.broker.wire import Wire, until
from tests.waiting import Deadline, Stopwatch

T = Topics()
TOPIC = T.broker("revoked")
WITHIN_S = 5.0

PEOPLE = {"host-a": Class.DEVICE, "mes": Class.INTEGRATION, "svc-web": Class.SERVICE}


def listing(certs: CertFactory, number: int, *names: str) -> RevocationList:
    revoked = tuple(Revoked(certs.serial(name), name) for name in names)
    return RevocationList(number, revoked, certs.crl(number, *names))


async def tell(speaker: Wire, told: RevocationList) -> None:
    for part in parts_of(told):
        await speaker.publish(TOPIC, part)


async def told(place: Place, inventory: Wire, list_: RevocationList) -> None:
    """Until the broker knows: Mosquitto's follower may just be about to connect, and Inventory says it again then."""
    deadline = Deadline(WITHIN_S)
    while place.broker.revoked.number < list_.number:
        assert not deadline.over(), "the broker does not take the list"
        await tell(inventory, list_)
        await asyncio.sleep(0.05)


async def code_of(place: Place, name: str, kind: Class | str = Class.DEVICE) -> int | None:
    """Of CONNACK; None where there is none."""
    wire = place.client(name, kind)
    try:
        code = await wire.connect(name)
    except (EOFError, OSError):
        return None
    finally:
        await wire.abort()
    return code


async def let_in(place: Place, name: str, kind: Class | str = Class.DEVICE) -> None:
    """Wait until it may connect."""
    deadline = Deadline(WITHIN_S)
    while await code_of(place, name, kind) != 0:
        assert not deadline.over(), f"{name} is not let in"
        await asyncio.sleep(0.02)


@pytest.fixture
async def inventory(place: Place) -> Wire:
    return await place.connected("svc-inventory", Class.SERVICE)


@pytest.mark.parametrize("name", PEOPLE)
async def test_a_revoked_certificate_ends_its_connection_and_is_refused(place: Place, inventory: Wire, name: str) -> None:
    """Of a device, an integration or a service: cut within 5 s, not let in again however fast it asks; everybody else stays, and it is
    let in again when it is taken off the list."""
    kind = PEOPLE[name]
    revoked, other = await place.connected(name, kind), await place.connected("host-b")
    watch = Stopwatch()
    await told(place, inventory, listing(place.certs, 10, name))
    assert await revoked.closed(WITHIN_S)
    assert watch.seconds() < WITHIN_S
    for _ in range(30):
        assert await code_of(place, name, kind) in (None, 5)
        await asyncio.sleep(0.03)
    await other.ping()
    await inventory.ping()
    await told(place, inventory, listing(place.certs, 11))
    await let_in(place, name, kind)


async def test_who_connects_again_at_once_is_not_overlooked(place: Place, inventory: Wire) -> None:
    """Ten devices that do nothing but connect: none stays in once the list is there, though handshakes are under way meanwhile."""
    names = [f"host-eager-{n}" for n in range(10)]
    for name in names:
        place.certs.client(name, Class.DEVICE)
    holding: dict[str, Wire | None] = dict.fromkeys(names)
    stop = asyncio.Event()

    async def insist(name: str) -> None:
        while not stop.is_set():
            wire = place.client(name)
            try:
                holding[name] = wire if await wire.connect(name) == 0 else None
                while not stop.is_set() and holding[name] is not None and not await wire.closed(0.05):
                    pass
            except (EOFError, OSError):
                await asyncio.sleep(0)
            holding[name] = None
            await wire.abort()

    tasks = [asyncio.create_task(insist(name)) for name in names]
    await until(lambda: all(holding.values()))
    await told(place, inventory, listing(place.certs, 12, *names))
    await until(lambda: not any(holding.values()), WITHIN_S)
    seen: set[str] = set()
    for _ in range(150):
        await asyncio.sleep(0.01)
        seen |= {name for name, wire in holding.items() if wire is not None}
    stop.set()
    await asyncio.gather(*tasks)
    assert seen == set()


@pytest.mark.parametrize(("name", "kind"), [("host-b", Class.DEVICE), ("erp", Class.INTEGRATION), ("svc-managers", Class.SERVICE)])
async def test_only_inventory_takes_back(place: Place, name: str, kind: Class) -> None:
    """A list that anybody else publishes is dropped like any message that is not theirs; nobody but the broker may read the topic."""
    inventory, forger = await place.connected("svc-inventory", Class.SERVICE), await place.connected(name, kind)
    victim = await place.connected("host-a")
    await forger.subscribe(TOPIC)
    await tell(forger, listing(place.certs, 20, "host-a"))
    if place.kind == "mosquitto":
        for payload in cutting(["host-a"]):
            await forger.publish(CONTROL, payload)
    await told(place, inventory, listing(place.certs, 15, "svc-web"))
    await victim.ping()
    assert await code_of(place, "svc-web", Class.SERVICE) in (None, 5)
    await forger.ping()
    assert not forger._kept


async def test_a_broker_that_starts_again_refuses_whom_it_refused(place: Place, inventory: Wire, tmp_path: Path) -> None:
    """Before anybody has told it anything."""
    await told(place, inventory, listing(place.certs, 30, "host-a"))
    kept = tmp_path / "revoked.json"
    await until(kept.exists)
    await place.broker.stop()
    place.broker = made_broker(place.kind, place.certs, tmp_path)
    place.port = await place.broker.start("127.0.0.1", 0)
    assert await code_of(place, "host-a") in (None, 5)
    assert await code_of(place, "host-b") == 0


@pytest.mark.mosquitto
@pytest.mark.parametrize("place", ["mosquitto"], indirect=True)
async def test_mosquitto_asks_for_the_list(place: Place, inventory: Wire) -> None:
    """At each connection of ours to it, as nobody keeps a message for who is away: with the number of the one that it has."""
    await inventory.subscribe(T.broker("ask"))
    await told(place, inventory, listing(place.certs, 40))
    # Its own connection is cut, which it survives.
    await told(place, inventory, RevocationList(41, (Revoked("1", "svc-broker"),), place.certs.crl(41)))
    while (asked := json.loads((await inventory.message(10)).payload)["number"]) != 41:
        assert asked in (0, 40)
    await told(place, inventory, listing(place.certs, 42, "host-a"))
    await until_refused(place, "host-a")


async def until_refused(place: Place, name: str) -> None:
    deadline = Deadline(WITHIN_S)
    while await code_of(place, name) == 0:
        assert not deadline.over(), f"{name} is still let in"
        await asyncio.sleep(0.02)


@pytest.mark.mosquitto
@pytest.mark.parametrize("place", ["mosquitto"], indirect=True)
async def test_a_list_without_a_crl_cuts_all_the_same(place: Place, inventory: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """Where Inventory has no CA's key: what can be done is done, and the log says what is missing."""
    device = await place.connected("host-a")
    await told(place, inventory, RevocationList(50, (Revoked(place.certs.serial("host-a"), "host-a"),)))
    assert await device.closed(WITHIN_S)
    assert "Inventory signs no CRL" in caplog.text


@pytest.mark.mosquitto
async def test_a_crl_that_can_not_be_written_is_said(certs: CertFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the next list is taken as if nothing had been."""
    broker = made_broker("mosquitto", certs, tmp_path / "data")
    assert isinstance(broker, Mosquitto)
    place = Place("mosquitto", await broker.start("127.0.0.1", 0), broker, certs)
    inventory = await place.connected("svc-inventory", Class.SERVICE)
    (tmp_path / "data" / "mosquitto.crl.new").mkdir()
    await told(place, inventory, listing(certs, 60, "host-a"))
    await until(lambda: "the CRL can't be written" in caplog.text)
    (tmp_path / "data" / "mosquitto.crl.new").rmdir()
    await told(place, inventory, listing(certs, 61, "host-a"))
    await until_refused(place, "host-a")
    for wire in place.made:
        await wire.abort()
    await broker.stop()


@pytest.mark.mosquitto
async def test_without_the_plugin_mosquitto_does_not_start(certs: CertFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking back would only keep out who is not connected; it says what to install."""
    monkeypatch.setattr("broker.mosquitto._PLUGIN_PLACES", ())
    with pytest.raises(MosquittoMissing, match="dynamic_security"):
        await made_broker("mosquitto", certs, tmp_path).start("127.0.0.1", 0)


def test_cuts_are_messages_of_a_bounded_size() -> None:
    """In the order that cuts and leaves nothing: a client is made, disabled, and deleted again."""
    messages = [json.loads(payload)["commands"] for payload in cutting([f"host-{n}" for n in range(NAMES_A_MESSAGE + 1)])]
    assert [len(commands) for commands in messages] == [3 * NAMES_A_MESSAGE, 3]
    assert messages[1] == [
        {"command": step, "username": f"host-{NAMES_A_MESSAGE}"} for step in ("createClient", "disableClient", "deleteClient")
    ]

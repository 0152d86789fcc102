"""Who hears and says what, tried on the wire against both brokers: devices and integrations against each other's topics.

The attacker tries publish, subscribe (exact, `+`, `#`, `$share`) and Will; spies who may hear a topic would see what got through, and the
rightful senders publish what the attacker must not hear. A last message on each spy's and the attacker's own topic ends the waiting.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from broker.acl import Class
from broker.packets import Will
from broker.topics import DeviceTopic, EventTopic, IntentTopic, NotificationTopic, ReplyTopic, Topics
from tests.broker.conftest import Place
from tests.broker.wire import Wire, publish

T = Topics()
UP, DOWN, COMMAND = (T.build(DeviceTopic("host-b", channel)) for channel in ("up/facts", "down/ack", "down/command"))
EVENT, COPY = T.build(EventTopic("host", "host-b")), T.build(EventTopic("host", "host-b", "line4"))
NOTE, INTENT, REPLY = T.build(NotificationTopic("error")), T.build(IntentTopic("erp", "host", "host-b")), T.build(ReplyTopic("erp", "c1"))
FOREIGN = (UP, DOWN, COMMAND, EVENT, COPY, NOTE, INTENT, REPLY)
"""Of device host-b, the integrations erp and line4, and Inventory."""

OWN_DOWN = T.build(DeviceTopic("host-a", "down/ack"))


@dataclass
class Stage:
    """A broker with everyone on it. `say` publishes on a topic as who may."""

    connect: Callable[[str, Class], Wire]
    inventory: Wire
    managers: Wire
    device: Wire
    erp: Wire
    line4: Wire

    async def say(self, topic: str, payload: bytes) -> None:
        speaker = {UP: self.device, COMMAND: self.managers, INTENT: self.erp}.get(topic, self.inventory)
        await speaker.publish(topic, payload)

    async def heard(self) -> list[bytes]:
        """What the spies have been sent, up to a last message to each."""
        payloads = []
        for spy, last in ((self.inventory, UP), (self.device, DOWN), (self.erp, EVENT), (self.line4, COPY)):
            speaker = {UP: self.device}.get(last, self.inventory)
            speaker.send(publish(last, b"last", packet_id=999))
            while (payload := (await spy.message()).payload) != b"last":
                payloads.append(payload)
        return payloads


@pytest.fixture
async def stage(place: Place) -> Stage:
    people = {
        "inventory": await place.connected("svc-inventory", Class.SERVICE),
        "managers": await place.connected("svc-managers", Class.SERVICE),
        "device": await place.connected("host-b"),
        "erp": await place.connected("erp", Class.INTEGRATION),
        "line4": await place.connected("line4", Class.INTEGRATION_SCOPED),
    }
    await people["inventory"].subscribe(T.uplinks(), T.intents())
    await people["device"].subscribe(T.downlinks("host-b"))
    await people["erp"].subscribe(T.events(), T.notifications(), T.replies("erp"))
    await people["line4"].subscribe(T.events("line4"), T.replies("line4"))
    return Stage(place.client, **people)


async def attacker(stage: Stage, kind: Class, will: Will | None = None) -> tuple[Wire, int]:
    """A device host-a, or the integration mes, and the return code of its CONNACK."""
    name = "host-a" if kind is Class.DEVICE else "mes"
    wire = stage.connect(name, kind)
    return wire, await wire.connect(name, will=will)


async def test_everyone_hears_what_is_theirs(stage: Stage) -> None:
    """The rules let the product work: each of the topics reaches who it is for."""
    for topic in FOREIGN:
        await stage.say(topic, topic.encode())
    assert sorted(await stage.heard()) == sorted(topic.encode() for topic in FOREIGN)


@pytest.mark.parametrize("kind", [Class.DEVICE, Class.INTEGRATION])
async def test_what_is_published_on_anothers_topic_reaches_nobody(stage: Stage, kind: Class) -> None:
    """Acknowledged, so that the attacker's client goes on, and dropped: on every foreign topic, at QoS 0 and 1."""
    wire, code = await attacker(stage, kind)
    assert code == 0
    for topic in FOREIGN:
        await wire.publish(topic, b"forged", qos=0)
        await wire.publish(topic, b"forged", qos=1)
    assert await stage.heard() == []


FORMS: dict[str, Callable[[str], str]] = {
    "exact": lambda topic: topic,
    "plus": lambda topic: "/".join(["fleet", "v1", *["+" for _ in topic.split("/")[2:]]]),
    "all": lambda _: "#",
    "below": lambda topic: "/".join([*topic.split("/")[:3], "#"]),
    "share": lambda topic: f"$share/g/{topic}",
    "share-all": lambda _: "$share/g/#",
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_device_hears_nothing_of_others(stage: Stage, form: str) -> None:
    """Whatever it subscribes to, only its own downlink arrives, and the others still get their messages."""
    wire, code = await attacker(stage, Class.DEVICE)
    assert code == 0
    for topic in FOREIGN:
        await wire.subscribe(FORMS[form](topic))
    await wire.subscribe(T.downlinks("host-a"))
    for topic in FOREIGN:
        await stage.say(topic, b"secret")
    await stage.inventory.publish(OWN_DOWN, b"own")
    assert (await wire.message()).payload == b"own"
    assert await stage.heard() == [b"secret"] * len(FOREIGN)


@pytest.mark.parametrize("form", FORMS)
async def test_an_integration_hears_only_events_and_its_own_replies(stage: Stage, form: str) -> None:
    """Neither devices, nor another's intents and replies, nor a scoped integration's copies."""
    wire, code = await attacker(stage, Class.INTEGRATION)
    assert code == 0
    others = [topic for topic in FOREIGN if topic not in (EVENT, NOTE)]
    for topic in others:
        await wire.subscribe(FORMS[form](topic))
    await wire.subscribe(T.replies("mes"))
    for topic in others:
        await stage.say(topic, b"secret")
    await stage.inventory.publish(T.build(ReplyTopic("mes", "c1")), b"own")
    assert (await wire.message()).payload == b"own"


@pytest.mark.parametrize("kind", [Class.DEVICE, Class.INTEGRATION])
async def test_a_will_on_anothers_topic_reaches_nobody(stage: Stage, kind: Class) -> None:
    """Refused at CONNECT, or dropped when it fires: nobody hears it. Connecting anew makes sure that the one before has fired."""
    for topic in FOREIGN:
        wire, _ = await attacker(stage, kind, Will(topic, b"forged", 1, False))
        await wire.abort()
    await attacker(stage, kind)
    assert await stage.heard() == []


async def test_a_will_on_ones_own_topic_fires(stage: Stage) -> None:
    """Connecting anew ends the connection before, and its Will has been sent when the new one has its CONNACK."""
    presence = T.build(DeviceTopic("host-a", "up/presence"))
    wire, _ = await attacker(stage, Class.DEVICE, Will(presence, b"gone", 1, False))
    await wire.abort()
    await attacker(stage, Class.DEVICE)
    assert await stage.heard() == [b"gone"]


async def test_a_certificate_takes_over_no_other_ones_connection(stage: Stage) -> None:
    """host-a's certificate with host-b's client id: host-b stays and goes on."""
    wire = stage.connect("host-a", Class.DEVICE)
    await wire.connect("host-b")
    await stage.say(DOWN, b"for b")
    assert (await stage.device.message()).payload == b"for b"

"""The isolation of devices as a matrix, on the wire, on both brokers: attacker × victim × channel × what can be tried.

Five devices try everything against each channel of five others: publish, a Will, a retained message; subscribe to it exactly, by `+`, by
`#`, and shared. What they say carries the cell it was said in, so that whoever hears any of it names the breach; what they must not hear is
said by whom it is for to say, and has to arrive where it should, once, or the matrix would prove nothing.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from broker.acl import Class
from broker.packets import Will
from broker.topics import CHANNELS, DeviceTopic, Topics
from tests.broker.conftest import Place
from tests.broker.wire import Wire, publish

T = Topics()
ATTACKERS = tuple(f"host-attacker-{n}" for n in range(5))
VICTIMS = tuple(f"host-victim-{n}" for n in range(5))
TOPICS = tuple(T.build(DeviceTopic(victim, channel)) for victim in VICTIMS for channel in sorted(CHANNELS))
LISTENING: dict[str, Callable[[str], str]] = {
    "subscribe": lambda topic: topic,
    "+": lambda topic: "/".join([*topic.split("/")[:3], "+", "+", *topic.split("/")[5:]]),
    "#": lambda topic: "/".join([*topic.split("/")[:5], "#"]),
    "$share": lambda topic: f"$share/g/{topic}",
}
SPEAKING = ("publish", "Will", "retained")
LAST = b"last"


@dataclass
class Heard:
    """What everybody was sent, and which cells were tried."""

    tried: set[tuple[str, str, str]] = field(default_factory=set)
    breaches: list[tuple[str, str, bytes]] = field(default_factory=list)
    arrived: list[tuple[str, bytes]] = field(default_factory=list)

    def cell(self, attacker: str, topic: str, action: str) -> bytes:
        """Note that it is tried; what is said in it."""
        self.tried.add((attacker, topic, action))
        return f"breach: {attacker} {action} {topic}".encode()

    async def drain(self, who: str, wire: Wire, mine: Callable[[str], bool]) -> None:
        """Up to the last message. `mine`: whether a topic may be heard by who this is."""
        while (came := await wire.message()).payload != LAST:
            rightful = mine(came.topic) and came.payload == came.topic.encode()
            if rightful:
                self.arrived.append((came.topic, came.payload))
            else:
                self.breaches.append((who, came.topic, came.payload))


async def test_no_device_reaches_or_hears_another(place: Place) -> None:
    """Nothing crosses from a device to another in more than 2,000 cells, while all that is rightful arrives, once."""
    heard = Heard()
    inventory, late = [await place.connected(name, Class.SERVICE) for name in ("svc-inventory", "svc-inventory.2")]
    managers = await place.connected("svc-managers", Class.SERVICE)
    victims = {name: await place.connected(name) for name in VICTIMS}
    await inventory.subscribe(T.uplinks())
    for name, wire in victims.items():
        await wire.subscribe(T.downlinks(name))

    await asyncio.gather(*(_wills_and_retained(place, heard, name) for name in ATTACKERS))
    attackers = {name: await place.connected(name) for name in ATTACKERS}
    await asyncio.gather(*(_listen_and_publish(heard, name, wire) for name, wire in attackers.items()))
    # Who subscribes now would be sent what was retained.
    await late.subscribe(T.uplinks())
    for name, wire in victims.items():
        await wire.subscribe(T.downlinks(name))

    for topic in TOPICS:
        await _rightful(topic, inventory, managers, victims).publish(topic, topic.encode())
    await _say_last(inventory, victims, attackers)
    await heard.drain("svc-inventory", inventory, lambda topic: "/up/" in topic)
    await heard.drain("svc-inventory.2", late, lambda topic: "/up/" in topic)
    for name, wire in victims.items():
        await heard.drain(name, wire, partial(_is_downlink, name))
    for name, wire in attackers.items():
        await heard.drain(name, wire, lambda _: False)

    assert heard.breaches == []
    assert sorted(heard.arrived) == sorted((topic, topic.encode()) for topic in TOPICS for _ in range(2 if "/up/" in topic else 1))
    assert heard.tried == {(who, topic, action) for who in ATTACKERS for topic in TOPICS for action in (*SPEAKING, *LISTENING)}
    assert len(heard.tried) >= 2000


def _is_downlink(device: str, topic: str) -> bool:
    return topic.startswith(f"{T.device_prefix(device)}/down/")


async def _wills_and_retained(place: Place, heard: Heard, attacker: str) -> None:
    """A connection for each Will: refused at CONNECT, or dropped when it fires; the next connection makes sure that it has. On it, or on
    one without a Will, a retained message, for which Mosquitto ends the connection."""
    for topic in TOPICS:
        wire = place.client(attacker)
        code = await wire.connect(attacker, will=Will(topic, heard.cell(attacker, topic, "Will"), 1, False))
        if code != 0:
            wire = await place.connected(attacker)
        wire.send(publish(topic, heard.cell(attacker, topic, "retained"), retain=True))
        await _flushed(wire)
        await wire.abort()


async def _flushed(wire: Wire) -> None:
    """Everything sent has been taken, or the connection was ended for it."""
    try:
        await wire.ping()
    except EOFError:
        pass  # that is an answer


async def _listen_and_publish(heard: Heard, attacker: str, wire: Wire) -> None:
    for action, form in LISTENING.items():
        for filters in _in_packets(sorted({form(topic) for topic in TOPICS})):
            await wire.subscribe(*filters)
        for topic in TOPICS:
            heard.cell(attacker, topic, action)
    await wire.subscribe(T.downlinks(attacker))
    for topic in TOPICS:
        await wire.publish(topic, heard.cell(attacker, topic, "publish"))


def _in_packets(filters: list[str], size: int = 20) -> Iterator[list[str]]:
    for start in range(0, len(filters), size):
        yield filters[start : start + size]


def _rightful(topic: str, inventory: Wire, managers: Wire, victims: dict[str, Wire]) -> Wire:
    """Whose it is to publish there."""
    device = topic.split("/")[4]
    if "/up/" in topic:
        return victims[device]
    return managers if topic.endswith("/command") else inventory


async def _say_last(inventory: Wire, victims: dict[str, Wire], attackers: dict[str, Wire]) -> None:
    """To everybody, on a topic that is theirs."""
    for name in (*victims, *attackers):
        await inventory.publish(T.build(DeviceTopic(name, "down/ack")), LAST)
    await victims[VICTIMS[0]].publish(T.build(DeviceTopic(VICTIMS[0], "up/log")), LAST)

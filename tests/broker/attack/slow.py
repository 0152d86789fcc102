"""Readers that do not read: they are sent much and take nothing, or take everything and acknowledge nothing.

Bounds: each is cut once its outbox is full (docs/broker.md), so that the broker holds no more than that for it; who publishes to them, and
others, notice nothing.
"""

import asyncio
import random
from contextlib import suppress

from broker.acl import Class
from broker.limits import Limits
from broker.topics import DeviceTopic
from tests.broker.attack.ground import MIB, Finding, Ground, T, watched
from tests.broker.wire import Wire, publish, until

MEMORY_MIB = 20.0
SIZE = 20_000_000
PAYLOAD = 128 * 1024


async def attack(ground: Ground, count: int, chance: random.Random) -> list[Finding]:
    """20 MB to each of `count` readers, one after the other, and as many messages as it takes to one that acknowledges none."""

    async def unread() -> list[Finding]:
        cut = [await _unread(ground, f"sleeper-{n}") for n in range(count)]
        findings = [Finding(f"{count} × {SIZE // 10**6} MB unread: the reader is cut", f"{sum(cut)} of {count} cut", all(cut))]
        ungrateful = await _unacknowledged(ground)
        return [*findings, Finding("10,000 messages unacknowledged: the reader is cut", "cut" if ungrateful else "not cut", ungrateful)]

    return await watched(ground, unread, MEMORY_MIB + Limits().outbox_bytes / MIB)


async def _unread(ground: Ground, name: str) -> bool:
    """Whether it was cut. Each publish has its PUBACK within 5 s, or TimeoutError."""
    sleeper, inventory = ground.wire(name), ground.wire("svc-inventory", Class.SERVICE)
    topic = T.build(DeviceTopic(name, "down/ack"))
    await sleeper.let_in(name)
    await sleeper.subscribe(topic)
    await inventory.let_in(f"to-{name}")
    sleeper.pause()
    for _ in range(SIZE // PAYLOAD):
        await inventory.publish(topic, bytes(PAYLOAD))
        if _was_cut(ground, name):
            break
    await inventory.ping()
    await _settled(ground, name)
    for each in (sleeper, inventory):
        await each.abort()
    return _was_cut(ground, name)


async def _unacknowledged(ground: Ground) -> bool:
    name, most = "ungrateful", Limits().unacknowledged
    reader, inventory = ground.wire(name), ground.wire("svc-inventory", Class.SERVICE)
    topic = T.build(DeviceTopic(name, "down/ack"))
    await reader.let_in(name)
    await reader.subscribe(topic)
    await inventory.let_in(f"to-{name}")
    taking = asyncio.create_task(_take(reader))
    for n in range(most + 100):
        inventory.send(publish(topic, b"x", packet_id=1 + n))
    await inventory.ping()
    await _settled(ground, name)
    taking.cancel()
    for each in (reader, inventory):
        await each.abort()
    return _was_cut(ground, name)


async def _take(reader: Wire) -> None:
    while True:
        await reader.receive(60)


def _was_cut(ground: Ground, name: str) -> bool:
    return any(line["client"] == name and line["reason"].startswith("slow reader") for line in ground.said("client cut"))


async def _settled(ground: Ground, name: str) -> None:
    """The broker's log is read by another task: it is waited for a little."""
    with suppress(TimeoutError):
        await until(lambda: _was_cut(ground, name), 10.0)

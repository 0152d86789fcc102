"""Floods of 20 MB: whatever a device can say, as fast as it can say it, and noise of strangers.

Bounds: the broker takes it at its own pace with at most 20 MiB more memory, and others have their messages and connections within 1 s.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress

from broker.acl import Class
from broker.packets import connect, data, packet
from broker.topics import DeviceTopic
from tests.broker.attack.ground import MIB, Finding, Ground, T, watched
from tests.broker.wire import publish

MEMORY_MIB = 20.0
SECONDS = 8.0
"""How long a flood is kept up where the broker takes less than all of it: it reads a client that is too fast more slowly."""
_PIECE = 64 * 1024


def _own(payload: int, qos: int) -> Callable[[str], bytes]:
    return lambda name: publish(T.build(DeviceTopic(name, "up/metrics")), bytes(payload), qos)


def _filters(name: str) -> bytes:
    mine, others = T.downlinks(name).encode(), T.downlinks("bystander").encode()
    return packet(8, 2, b"\x00\x05" + (data(mine) + b"\x01" + data(others) + b"\x01") * 50)


FLOODS: dict[str, Callable[[str], bytes]] = {
    "small messages": _own(20, 0),
    "small messages of QoS 1": _own(20, 1),
    "large messages": _own(256 * 1024, 0),
    "messages on a bystander's topic": lambda _: publish(T.build(DeviceTopic("bystander", "up/log")), b"forged", 0),
    "messages of QoS 2 and their releases": lambda name: _own(20, 2)(name) + b"\x62\x02\x00\x07",
    "pings": lambda _: b"\xc0\x00" * 1000,
    "releases of nothing": lambda _: b"\x62\x02\x00\x09" * 1000,
    "subscriptions": _filters,
    "noise of a stranger within TLS": lambda _: b"\x16\x03\x01\x40\x00" + bytes(0x4000),
    "noise of a stranger": lambda _: b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02ab",
}


async def attack(ground: Ground, size: int, chance: random.Random) -> list[Finding]:
    """`size` bytes a flood, one after the other, each by two at once."""
    findings = []
    for what, said in FLOODS.items():

        async def flood(what: str = what, said: Callable[[str], bytes] = said) -> list[Finding]:
            sent = sum(await asyncio.gather(*(_flood(ground, what, said, n, size) for n in range(2))))
            return [Finding(f"2 × {size // 10**6} MB", f"{sent / MIB:.1f} MiB sent", sent > 0)]

        findings += [Finding(f"{what}: {each.what}", each.seen, each.held) for each in await watched(ground, flood, MEMORY_MIB)]
    return findings


async def _flood(ground: Ground, what: str, said: Callable[[str], bytes], number: int, size: int) -> int:
    """Bytes that the broker took. A stranger who is ended comes back until all is sent."""
    name = f"{what.replace(' ', '-')}-{number}"
    stranger = "stranger" in what
    context = None if stranger else ground.certs.client_context(name, Class.DEVICE)
    piece = said(name)
    piece *= max(1, _PIECE // len(piece))
    sent, end = 0, time.monotonic() + SECONDS
    while sent < size and time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", ground.port, ssl=context)
            reading = asyncio.create_task(_discard(reader))
            writer.write(b"" if stranger else connect(name, None))
            while sent < size and time.monotonic() < end and not (writer.is_closing() or reader.at_eof()):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)  # so that the end is noticed
                sent += len(piece)
            writer.transport.abort()
            reading.cancel()
        except OSError:
            sent += len(piece)  # ended, which is an answer too
    return sent


async def _discard(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):  # the end, which whoever writes sees as well
        while await reader.read(65536):
            pass

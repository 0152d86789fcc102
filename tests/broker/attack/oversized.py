"""Packets of 200 MB, announced and sent: by a device, as the CONNECT itself, and by strangers outside TLS.

Bounds: the broker ends it from the length field, holds nothing of it, and others notice nothing.
"""

import asyncio
import random
from collections.abc import Callable

from broker.acl import Class
from broker.packets import connect, data
from broker.topics import DeviceTopic
from tests.broker.attack.ground import MIB, Finding, Ground, T, watched

MEMORY_MIB = 20.0
TAKEN_MIB = 16.0
"""What may have left the sender before it learns of the end: the kernel's buffers on both sides."""
_PIECE = bytes(65536)
_LARGEST = b"\xff\xff\xff\x7f"
"""The largest length that MQTT can say: 256 MB."""

Begin = Callable[[str, bytes], bytes]
"""What is said, by whom and of what length, before the mass of zeros."""


def _published(flags: int) -> Begin:
    topic = T.build(DeviceTopic("NAME", "up/log"))
    return lambda name, length: connect(name, None) + bytes([0x30 | flags]) + length + data(topic.encode()) + b"\x00\x01"


KINDS: dict[str, Begin] = {
    "PUBLISH": _published(2),
    "PUBLISH of QoS 2": _published(4),
    "SUBSCRIBE": lambda name, length: connect(name, None) + b"\x82" + length + b"\x00\x01",
    "CONNECT": lambda _, length: b"\x10" + length + data(b"MQTT") + b"\x04\x02\x00\x00",
    "the largest there is": lambda name, _: connect(name, None) + b"\x30" + _LARGEST,
    "a stranger without TLS": lambda _, length: b"\x10" + length + data(b"MQTT") + b"\x04\x02\x00\x00",
    "a stranger within TLS": lambda *_: b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc",
}


async def attack(ground: Ground, size: int, chance: random.Random) -> list[Finding]:
    """`size` bytes each, all at once."""

    async def send() -> list[Finding]:
        sent = await asyncio.gather(*(_send(ground, size, *kind) for kind in KINDS.items()))
        return [
            Finding(f"{size // 10**6} MB, {kind}: ended early", f"after {taken / MIB:.1f} MiB", taken < min(size, TAKEN_MIB * MIB))
            for kind, taken in zip(KINDS, sent, strict=True)
        ]

    return await watched(ground, send, MEMORY_MIB)


def length(value: int) -> bytes:
    """A length field (MQTT 3.1.1 section 2.2.3)."""
    written = bytearray()
    while True:
        value, byte = divmod(value, 128)
        written.append(byte | 0x80 if value else byte)
        if not value:
            return bytes(written)


async def _send(ground: Ground, size: int, kind: str, begin: Begin) -> int:
    """Bytes that the sender got rid of before the broker ended the connection."""
    name = kind.replace(" ", "-")
    context = None if "stranger" in kind else ground.certs.client_context(name, Class.DEVICE)
    sent = 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", ground.port, ssl=context)
        writer.write(begin(name, length(size)))
        while sent < size and not (writer.is_closing() or reader.at_eof()):
            writer.write(_PIECE)
            await writer.drain()
            await asyncio.sleep(0)  # so that the end is noticed
            sent += len(_PIECE)
        writer.transport.abort()
    except OSError:
        pass  # the end that was waited for
    return sent

"""A raw MQTT 3.1.1 client for tests: it says exactly what a test wants said, right or wrong, and shows each packet that comes back."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from broker.packets import Will, data, packet
from tests.waiting import patience

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP = 2, 3, 4, 5, 6, 7, 9, 11, 13


@dataclass(frozen=True, slots=True)
class Came:
    """A packet from the broker: type, flags, body."""

    kind: int
    flags: int
    body: bytes

    @property
    def topic(self) -> str:
        """Of a PUBLISH."""
        return self.body[2 : 2 + int.from_bytes(self.body[:2], "big")].decode()

    @property
    def payload(self) -> bytes:
        """Of a PUBLISH."""
        end = 2 + int.from_bytes(self.body[:2], "big")
        return self.body[end + (2 if self.flags & 6 else 0) :]


class Wire:
    """One connection. Every wait has a deadline."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._kept: deque[Came] = deque()

    async def open(self) -> "Wire":
        """TCP and TLS, nothing more."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        return self

    async def connect(
        self,
        client_id: str,
        *,
        clean: bool = True,
        keepalive: int = 0,
        will: Will | None = None,
        level: int = 4,
        username: str | None = None,
        within: float = 5.0,
    ) -> int:
        """CONNECT; returns the return code of CONNACK."""
        await self.open()
        flags = 2 if clean else 0
        payload = data(client_id.encode())
        if will is not None:
            flags |= 4 | will.qos << 3 | (0x20 if will.retain else 0)
            payload += data(will.topic.encode()) + data(will.payload)
        if username is not None:
            flags |= 0xC0
            payload += data(username.encode()) + data(b"a password")
        self.send(packet(1, 0, data(b"MQTT") + bytes([level, flags]) + keepalive.to_bytes(2, "big") + payload))
        return (await self.expect(CONNACK, within)).body[1]

    async def let_in(self, client_id: str, will: Will | None = None, within: float = 20.0) -> int:
        """CONNECT as an agent does it: who loses its place because this machine is too busy for a handshake comes again (docs/adr/0019)."""
        async with patience(within):
            while True:
                try:
                    return await self.connect(client_id, will=will, within=within)
                except (EOFError, ConnectionError, ssl.SSLError):
                    await self.abort()

    def send(self, raw: bytes) -> None:
        assert self._writer is not None
        self._writer.write(raw)

    async def publish(self, topic: str, payload: bytes, qos: int = 1, packet_id: int = 7, retain: bool = False) -> None:
        """At QoS 1, until PUBACK has come."""
        self.send(publish(topic, payload, qos, packet_id, retain))
        if qos == 1:
            await self.expect(PUBACK)

    async def subscribe(self, *filters: str, qos: int = 1) -> list[int]:
        """The return codes of SUBACK."""
        self.send(packet(8, 2, b"\x00\x05" + b"".join(data(each.encode()) + bytes([qos]) for each in filters)))
        return list((await self.expect(SUBACK)).body[2:])

    async def receive(self, within: float = 5.0) -> Came:
        """The next packet. Raises EOFError where the broker has closed, TimeoutError where nothing comes."""
        assert self._reader is not None
        async with patience(within):
            try:
                first = (await self._reader.readexactly(1))[0]
                length = shift = 0
                while True:
                    byte = (await self._reader.readexactly(1))[0]
                    length |= (byte & 0x7F) << shift
                    shift += 7
                    if not byte & 0x80:
                        break
                return Came(first >> 4, first & 15, await self._reader.readexactly(length))
            except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                raise EOFError from None

    async def expect(self, kind: int, within: float = 5.0) -> Came:
        """The next packet of a type; a PUBLISH before it is kept for `message`, anything else passed over."""
        if kind == PUBLISH and self._kept:
            return self._kept.popleft()
        async with patience(within):
            while True:
                came = await self.receive(within)
                if came.kind == kind:
                    return came
                if came.kind == PUBLISH:
                    self._kept.append(came)

    async def message(self, within: float = 5.0) -> Came:
        """The next PUBLISH, acknowledged at QoS 1."""
        came = await self.expect(PUBLISH, within)
        if came.flags & 6 == 2:
            end = 2 + int.from_bytes(came.body[:2], "big")
            self.send(packet(4, 0, came.body[end : end + 2]))
        return came

    async def closed(self, within: float = 5.0) -> bool:
        """Whether the broker closes the connection in time, whatever it still sends before."""
        try:
            async with patience(within):
                while True:
                    await self.receive(within)
        except EOFError:
            return True
        except TimeoutError:
            return False

    async def ping(self) -> None:
        """PINGREQ, until PINGRESP: everything sent before has been taken by the broker."""
        self.send(b"\xc0\x00")
        await self.expect(PINGRESP)

    async def leave(self) -> None:
        """DISCONNECT, and close."""
        self.send(b"\xe0\x00")
        await self.abort()

    async def abort(self) -> None:
        """Close without DISCONNECT."""
        if self._writer is not None:
            self._writer.transport.abort()
            with suppress(OSError, ssl.SSLError):
                await self._writer.wait_closed()

    def pause(self) -> None:
        """Read nothing any more."""
        assert self._writer is not None
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]


def publish(topic: str, payload: bytes, qos: int = 1, packet_id: int = 7, retain: bool = False) -> bytes:
    identifier = packet_id.to_bytes(2, "big") if qos else b""
    return packet(3, qos << 1 | retain, data(topic.encode()) + identifier + payload)


async def until(true: Callable[[], object], within: float = 5.0) -> None:
    """Wait for a predicate, with a deadline."""
    async with patience(within):
        while not true():
            await asyncio.sleep(0.01)

"""A hostile broker: MQTT 3.1.1 over TLS with the fleet's own certificate, and nothing of what a broker promises.

Devices connect to it as to any broker; the server's messages come in by `send`, as from `broker.client`. It keeps copies of everything,
lets through what `passes` lets through, and sends whoever is connected whatever a test wants (`inject`), on any topic. Its framing is that
of `broker.packets`, which is tested elsewhere.
"""

import asyncio
import itertools
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from broker import packets
from broker.packets import Framer, Kind, Outgoing, Packet
from broker.topics import DeviceTopic, Topics

LIMIT = 512 * 1024
DRAIN_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Carried:
    """A message as it came by."""

    device: str
    channel: str
    topic: str
    payload: bytes


@dataclass(slots=True, eq=False)
class Line:
    """The connection of one device."""

    device: str
    writer: asyncio.StreamWriter
    ids: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(1, 65536)))
    subscribed: bool = False

    def publish(self, topic: str, payload: bytes) -> None:
        self.writer.write(Outgoing.of(topic, payload).at_least_once(next(self.ids)))


class HostileBroker:
    """`up` takes what devices publish. `down` and `heard` hold everything that came from either side, in order."""

    def __init__(self, secrets: Path, up: Callable[[Carried], None]) -> None:
        self._secrets = secrets
        self._up = up
        self._server: asyncio.Server | None = None
        self._lines: dict[str, Line] = {}
        self.port = 0
        self.down: list[Carried] = []
        self.heard: list[Carried] = []
        self.passes: Callable[[Carried], bool] = lambda message: True
        self.connected_since: datetime | None = datetime.now(UTC)

    async def start(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._secrets / "broker.crt", self._secrets / "broker.key")
        context.load_verify_locations(self._secrets / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for line in list(self._lines.values()):
            line.writer.close()
        await self._server.wait_closed()

    # --- what the server sends ---

    async def send(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """As `broker.client.Session.send`."""
        parsed = Topics().parse(topic)
        assert isinstance(parsed, DeviceTopic)
        message = Carried(parsed.device, parsed.channel, topic, payload)
        self.down.append(message)
        if self.passes(message):
            self.deliver(message)

    def deliver(self, message: Carried) -> None:
        """To the device that it is for, if that is here."""
        line = self._lines.get(message.device)
        if line is not None and line.subscribed:
            line.publish(message.topic, message.payload)

    async def inject(self, device: str, topic: str, payload: bytes) -> None:
        """To a device, on whatever topic."""
        line = self._lines[device]
        line.publish(topic, payload)
        if line.writer.transport.get_write_buffer_size() > DRAIN_BYTES:
            await line.writer.drain()

    # --- what devices send ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        framer, line = Framer(LIMIT), Line("", writer)
        try:
            while received := await reader.read(65536):
                for packet in framer.feed(received):
                    self._answer(line, packet)
        except (ConnectionError, ssl.SSLError):
            pass  # a device that goes away
        finally:
            if self._lines.get(line.device) is line:
                del self._lines[line.device]
            writer.close()

    def _answer(self, line: Line, packet: Packet) -> None:
        match packet.kind:
            case Kind.CONNECT:
                line.device = packets.read_connect(packet.body).client_id
                self._lines[line.device] = line
                line.writer.write(b"\x20\x02\x00\x00")
            case Kind.SUBSCRIBE:
                id, wanted = packets.read_subscribe(packet.body, most=1)
                line.subscribed = True
                line.writer.write(packets.packet(9, 0, id.to_bytes(2, "big") + bytes(qos for _, qos in wanted)))
            case Kind.PUBLISH:
                self._heard(line, packets.read_publish(packet.flags, packet.body))
            case Kind.PINGREQ:
                line.writer.write(b"\xd0\x00")
            case _:
                pass

    def _heard(self, line: Line, publish: packets.Publish) -> None:
        if publish.qos:
            line.writer.write(packets.puback(publish.packet_id))
        parsed = Topics().parse(publish.topic)
        assert isinstance(parsed, DeviceTopic)
        message = Carried(line.device, parsed.channel, publish.topic, publish.payload)
        self.heard.append(message)
        if self.passes(message):
            self._up(message)

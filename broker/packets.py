"""MQTT 3.1.1 control packets as bytes: cutting a stream into packets, reading what a client sends, writing what it gets.

Pure, and strict: whatever breaks the specification is `Malformed`, whatever is larger than allowed `TooLarge`, from its length field on,
before it has arrived. The guard (`broker.guard`) reads with it everything that a client sends; amqtt sees only what has passed here.

Source: MQTT 3.1.1 sections 2 and 3.
"""

import re
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from enum import IntEnum

from broker.filters import valid_filter, valid_topic


class Malformed(Exception):
    """The client breaks MQTT 3.1.1; the text says how. The connection is closed."""


class TooLarge(Malformed):
    """A packet's length field announces more than is allowed."""


class Kind(IntEnum):
    """Control packet types that a client may send (section 2.2.1)."""

    CONNECT = 1
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    UNSUBSCRIBE = 10
    PINGREQ = 12
    DISCONNECT = 14


_KINDS = {kind.value: kind for kind in Kind}

_FLAGS = {Kind.PUBREL: 2, Kind.SUBSCRIBE: 2, Kind.UNSUBSCRIBE: 2}
"""Reserved bits of the fixed header; 0 for all others but PUBLISH."""


class Refusal(IntEnum):
    """Return codes of CONNACK that refuse (section 3.2.2.3)."""

    VERSION = 1
    IDENTIFIER = 2
    UNAVAILABLE = 3
    NOT_AUTHORIZED = 5


@dataclass(frozen=True, slots=True)
class Packet:
    """A whole packet: its first byte's low bits, and what follows the length."""

    kind: Kind
    flags: int
    body: bytes

    def encode(self) -> bytes:
        return packet(self.kind, self.flags, self.body)


@dataclass(frozen=True, slots=True)
class Will:
    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Connect:
    """`level` is 4 for MQTT 3.1.1; the rest is read for that level only. User name and password are passed over: certificates count."""

    level: int
    client_id: str = ""
    clean: bool = True
    keepalive_s: int = 0
    will: Will | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    packet_id: int
    """0 at QoS 0."""


class Framer:
    """Cuts a client's bytes into packets. Feed what arrives, take what is whole, all of it or some now and some later."""

    def __init__(self, limit: int) -> None:
        """`limit`: largest length field allowed, in bytes; it may be changed between packets."""
        self.limit = limit
        self._buffer = b""
        self._at = 0
        """Up to there it has been taken."""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """More of the stream. Returns `packets()`."""
        self._buffer = self._buffer[self._at :] + data if self.more else data
        self._at = 0
        return self.packets()

    @property
    def more(self) -> bool:
        """Whether anything was not taken yet, if only a part of a packet."""
        return self._at < len(self._buffer)

    def packets(self) -> Iterator[Packet]:
        """Yields what is whole and was not taken yet; whoever stops goes on with another call. Raises Malformed or TooLarge; the packets
        before it have then been yielded."""
        while (end := self._end(self._buffer, self._at)) is not None:
            body_at, stop = end
            if stop > len(self._buffer):
                break
            first, body, self._at = self._buffer[self._at], self._buffer[body_at:stop], stop
            if not self.more:
                self._buffer, self._at = b"", 0  # a client's next packet may be half a minute away
            yield _packet_of(first, body)

    def _end(self, buffer: bytes, start: int) -> tuple[int, int] | None:
        """Where the body of the packet at `start` begins and ends; None while its header is not whole."""
        length = 0
        for n in range(4):
            at = start + 1 + n
            if at >= len(buffer):
                return None
            length |= (buffer[at] & 0x7F) << (7 * n)
            if length > self.limit:
                raise TooLarge(f"a packet of {length} bytes or more; {self.limit} are allowed")
            if not buffer[at] & 0x80:
                return at + 1, at + 1 + length
        raise Malformed("the length field has more than 4 bytes")


def _packet_of(first: int, body: bytes) -> Packet:
    kind = _KINDS.get(first >> 4)
    if kind is None:
        raise Malformed(f"packet type {first >> 4} is not for clients to send")
    flags = first & 0x0F
    if kind is not Kind.PUBLISH and flags != _FLAGS.get(kind, 0):
        raise Malformed(f"{kind.name} with flags {flags:04b}")
    return Packet(kind, flags, body)


class _Fields:
    """Reads a body from its beginning."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._body[self._at : self._at + count]
        if len(taken) != count:
            raise Malformed("a packet ends within a field")
        self._at += count
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def byte(self) -> int:
        return self.take(1)[0]

    def data(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return _utf8(self.data())

    @property
    def more(self) -> bool:
        return self._at < len(self._body)

    def end(self) -> None:
        if self.more:
            raise Malformed("a packet goes on after its last field")


_UNFIT = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef" + "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF)) + "]"
)
"""Control characters, NUL among them, and what Unicode has made no characters: a server may end who sends them, and Mosquitto does too."""


def _utf8(raw: bytes) -> str:
    """Section 1.5.3: well-formed (so without surrogates), and without what nobody needs in a topic or a name."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a text is not UTF-8") from None
    if _UNFIT.search(text):
        raise Malformed("a text holds a control character, or none that Unicode has")
    return text


def read_connect(body: bytes) -> Connect:
    """Section 3.1. Raises Malformed."""
    fields = _Fields(body)
    if fields.data() != b"MQTT":
        raise Malformed("the protocol's name is not MQTT")
    level = fields.byte()
    if level != 4:
        return Connect(level)
    flags = fields.byte()
    _check_connect_flags(flags)
    keepalive = fields.number()
    client_id = fields.text()
    will = None
    if flags & 0x04:
        topic, payload = fields.text(), fields.data()
        if not valid_topic(topic):
            raise Malformed("the Will's topic is none")
        will = Will(topic, payload, flags >> 3 & 3, bool(flags & 0x20))
    if flags & 0x80:
        fields.text()
    if flags & 0x40:
        fields.data()
    fields.end()
    return Connect(level, client_id, bool(flags & 0x02), keepalive, will)


def _check_connect_flags(flags: int) -> None:
    if flags & 0x01:
        raise Malformed("the reserved flag of CONNECT is set")
    if flags & 0x38 and not flags & 0x04:
        raise Malformed("flags of a Will without a Will")
    if flags & 0x18 == 0x18:
        raise Malformed("a Will of QoS 3")
    if flags & 0x40 and not flags & 0x80:
        raise Malformed("a password without a user name")


def read_publish(flags: int, body: bytes) -> Publish:
    """Section 3.3. Raises Malformed."""
    qos = flags >> 1 & 3
    if qos == 3:
        raise Malformed("PUBLISH of QoS 3")
    end = 2 + int.from_bytes(body[:2], "big")
    start = end + (2 if qos else 0)
    if start > len(body):
        raise Malformed("a packet ends within a field")
    topic = _utf8(body[2:end])
    if not valid_topic(topic):
        raise Malformed("the topic of PUBLISH is none")
    packet_id = int.from_bytes(body[end:start], "big")
    if qos and not packet_id:
        raise Malformed("packet id 0")
    return Publish(topic, body[start:], qos, bool(flags & 1), packet_id)


def read_subscribe(body: bytes, most: int) -> tuple[int, list[tuple[str, int]]]:
    """Section 3.8: packet id, and up to `most` filters with the QoS asked for. Raises Malformed, also for a filter that is none."""
    fields = _Fields(body)
    packet_id = _packet_id(fields)
    wanted = []
    while fields.more:
        filter_, qos = fields.text(), fields.byte()
        if qos > 2 or not valid_filter(filter_):
            raise Malformed("a filter of SUBSCRIBE is none, or its QoS")
        wanted.append((filter_, qos))
        _bound(wanted, most)
    if not wanted:
        raise Malformed("SUBSCRIBE without a filter")
    return packet_id, wanted


def read_unsubscribe(body: bytes, most: int) -> tuple[int, list[str]]:
    """Section 3.10: packet id, and up to `most` filters. Raises Malformed, also for a filter that is none."""
    fields = _Fields(body)
    packet_id = _packet_id(fields)
    filters = []
    while fields.more:
        filters.append(fields.text())
        _bound(filters, most)
    if not filters or not all(map(valid_filter, filters)):
        raise Malformed("UNSUBSCRIBE without a filter, or with one that is none")
    return packet_id, filters


def _bound(filters: Sized, most: int) -> None:
    if len(filters) > most:
        raise Malformed(f"more than {most} filters in a packet")


def read_packet_id(body: bytes) -> int:
    """All there is in PUBACK, PUBREC, PUBREL and PUBCOMP. Raises Malformed."""
    fields = _Fields(body)
    packet_id = _packet_id(fields)
    fields.end()
    return packet_id


def read_nothing(body: bytes) -> None:
    """PINGREQ and DISCONNECT. Raises Malformed."""
    _Fields(body).end()


def _packet_id(fields: _Fields) -> int:
    packet_id = fields.number()
    if not packet_id:
        raise Malformed("packet id 0")
    return packet_id


# --- writing ------------------------------------------------------------------------------------------------------------------


def packet(kind: int, flags: int, body: bytes) -> bytes:
    """Fixed header and body (section 2.2)."""
    length = len(body)
    header = bytearray([kind << 4 | flags])
    while True:
        length, byte = divmod(length, 128)
        header.append(byte | 0x80 if length else byte)
        if not length:
            return bytes(header) + body


def data(value: bytes) -> bytes:
    """A field preceded by its length; at most 65,535 bytes."""
    return len(value).to_bytes(2, "big") + value


def connack(code: Refusal) -> bytes:
    """A refusal; amqtt writes the other CONNACKs."""
    return bytes([0x20, 2, 0, code])


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def pubrec(packet_id: int) -> bytes:
    return b"\x50\x02" + packet_id.to_bytes(2, "big")


def pubcomp(packet_id: int) -> bytes:
    return b"\x70\x02" + packet_id.to_bytes(2, "big")


def suback(packet_id: int, codes: bytes) -> bytes:
    """A return code for each filter: the QoS granted, or 0x80."""
    return packet(9, 0, packet_id.to_bytes(2, "big") + codes)


def unsuback(packet_id: int) -> bytes:
    return b"\xb0\x02" + packet_id.to_bytes(2, "big")


PINGRESP = b"\xd0\x00"


def connect(client_id: str, will: Will | None) -> bytes:
    """The CONNECT that amqtt gets: clean session, no keepalive (the guard enforces it), the identity's own client id."""
    flags = 0x02
    payload = data(client_id.encode())
    if will is not None:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        payload += data(will.topic.encode()) + data(will.payload)
    return packet(Kind.CONNECT, 0, data(b"MQTT") + bytes([4, flags, 0, 0]) + payload)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A PUBLISH for many receivers: all but the packet id is written once. `topic` has its length before it."""

    topic: bytes
    payload: bytes

    @classmethod
    def of(cls, topic: str, payload: bytes) -> "Outgoing":
        return cls(data(topic.encode()), payload)

    def at_most_once(self) -> bytes:
        return packet(Kind.PUBLISH, 0, self.topic + self.payload)

    def at_least_once(self, packet_id: int) -> bytes:
        return packet(Kind.PUBLISH, 2, self.topic + packet_id.to_bytes(2, "big") + self.payload)

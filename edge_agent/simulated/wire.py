"""MQTT 3.1.1 for thousands of connections in one thread: CONNECT with a Will, one SUBSCRIBE, PUBLISH at QoS 0 and 1, PINGREQ.

The smallest client that a broker can't tell from the agent's paho: non-blocking TLS under a selector that belongs to `fleet`. It retries
nothing; the agent does. All connections share one TLS context: OpenSSL copies the certificate that is loaded at the moment when a
connection is made from it.

Source: MQTT 3.1.1 (OASIS), sections 2 and 3.
"""

import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge_agent.signals import Connect

MAX_PACKET = 300 * 1024
RECEIVE = 64 * 1024


class WireError(Exception):
    """The connection is no good any more; the text says why."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker has confirmed the subscription."""


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes


Arrival = Subscribed | Message


class Wire:
    """One connection. Call `advance` whenever its socket is ready; `wants_write` says what to wait for."""

    __slots__ = ("_client_id", "_connect", "_in", "_last_in", "_last_out", "_next_id", "_out", "_pinged", "_secured", "sock")

    def __init__(self, family: int, address: tuple[Any, ...], client_id: str, connect: Connect, now: float) -> None:
        """Begins to connect. Raises OSError."""
        raw = socket.socket(family, socket.SOCK_STREAM)
        raw.setblocking(False)
        try:
            raw.connect(address)
        except BlockingIOError:
            pass  # it goes on by itself; the selector tells
        except OSError:
            raw.close()
            raise
        self.sock: socket.socket | ssl.SSLSocket = raw
        self._secured = False
        self._client_id = client_id
        self._connect = connect
        self._in = bytearray()
        self._out = bytearray()
        self._next_id = 1
        self._last_in = self._last_out = now
        self._pinged: float | None = None

    @property
    def wants_write(self) -> bool:
        return bool(self._out) or not isinstance(self.sock, ssl.SSLSocket)

    @property
    def in_tls(self) -> bool:
        """Whether `secure` has been called."""
        return isinstance(self.sock, ssl.SSLSocket)

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """TCP stands: begin TLS with the certificate that the context holds now. Raises WireError."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise WireError(f"can't connect: error {error}")
        try:
            self.sock = context.wrap_socket(self.sock, server_hostname=host, do_handshake_on_connect=False)
        except OSError as failure:
            raise WireError(f"{type(failure).__name__}: {failure}") from failure
        self._out += _connect_packet(self._client_id, self._connect)

    def advance(self, now: float) -> Iterator[Arrival]:
        """Go on as far as the socket allows. Raises WireError."""
        try:
            if not self._secured and not self._handshake():
                return
            self._send(now)
            yield from self._receive(now)
            self._send(now)
        except OSError as error:
            raise WireError(f"{type(error).__name__}: {error}") from error

    def flush(self, now: float) -> None:
        """Send what is queued, as far as the socket takes it. Raises WireError."""
        if self._secured:
            try:
                self._send(now)
            except OSError as error:
                raise WireError(f"{type(error).__name__}: {error}") from error

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Queue a message for the next `advance`."""
        body = _text(topic)
        if qos:
            body += struct.pack("!H", self._packet_id())
        self._out += _packet(0x30 | qos << 1, body + payload)

    def ping_at(self) -> float:
        """When something is due for the keepalive."""
        keepalive = self._connect.keepalive_s
        if self._pinged is not None:
            return self._pinged + keepalive
        return min(self._last_in, self._last_out) + keepalive

    def keep_alive(self, now: float) -> None:
        """Ping when it is time. Raises WireError when the last ping got no answer."""
        if not self._secured or now < self.ping_at():
            return
        if self._pinged is not None:
            raise WireError("no answer to a ping")
        self._pinged = now
        self._out += b"\xc0\x00"

    def goodbye(self) -> None:
        """Queue DISCONNECT."""
        self._out += b"\xe0\x00"

    def close(self) -> None:
        self.sock.close()

    def _handshake(self) -> bool:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self._secured = True
        return True

    def _send(self, now: float) -> None:
        while self._out:
            try:
                sent = self.sock.send(self._out)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                return
            del self._out[:sent]
            self._last_out = now

    def _receive(self, now: float) -> Iterator[Arrival]:
        while True:
            try:
                chunk = self.sock.recv(RECEIVE)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                return
            if not chunk:
                raise WireError("closed by the broker")
            self._last_in = now
            self._in += chunk
            while (packet := self._take_packet()) is not None:
                yield from self._handle(*packet)

    def _take_packet(self) -> tuple[int, bytes] | None:
        length, shift = 0, 0
        for position in range(1, min(len(self._in), 5)):
            length |= (self._in[position] & 0x7F) << shift
            if not self._in[position] & 0x80:
                break
            shift += 7
        else:
            return None
        if length > MAX_PACKET:
            raise WireError(f"a packet of {length} bytes")
        end = position + 1 + length
        if len(self._in) < end:
            return None
        kind, body = self._in[0], bytes(self._in[position + 1 : end])
        del self._in[:end]
        return kind, body

    def _handle(self, kind: int, body: bytes) -> Iterator[Arrival]:
        match kind >> 4:
            case 2:
                if body[1] != 0:
                    raise WireError(f"CONNACK {body[1]}")
                request = struct.pack("!H", self._packet_id()) + _text(self._connect.subscribe) + b"\x01"
                self._out += _packet(0x82, request)
            case 3:
                yield self._message(kind, body)
            case 9:
                if body[2] & 0x80:
                    raise WireError("the subscription was refused")
                yield Subscribed()
            case 13:
                self._pinged = None
            case _:
                pass  # PUBACK: the agent waits for the other end's acknowledgement, not for the broker's

    def _message(self, kind: int, body: bytes) -> Message:
        size = struct.unpack_from("!H", body)[0]
        topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
        if kind >> 1 & 3:
            self._out += b"\x40\x02" + rest[:2]
            rest = rest[2:]
        return Message(topic, rest)

    def _packet_id(self) -> int:
        self._next_id = self._next_id % 65535 + 1
        return self._next_id


def _connect_packet(client_id: str, connect: Connect) -> bytes:
    """Clean session, Will at QoS 1 and not retained."""
    flags = 0x02 | 0x04 | 0x08
    head = _text("MQTT") + bytes((4, flags)) + struct.pack("!H", connect.keepalive_s)
    will = _text(connect.will_topic) + struct.pack("!H", len(connect.will)) + connect.will
    return _packet(0x10, head + _text(client_id) + will)


def _packet(kind: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, low = divmod(length, 128)
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes((kind,)) + bytes(encoded) + body


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("!H", len(raw)) + raw

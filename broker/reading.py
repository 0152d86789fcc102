"""What the broker sends, read many packets at a time: PUBLISH at QoS 0 and 1 straight to its taker, all else left to paho.

Paho reads a packet with four calls of the system, three of them for a byte, makes an object and a log line of each message, and writes each
PUBACK by itself: a quarter of what the ingest cost. Here a chunk is read at once and cut, and its PUBACKs leave as one write. Connecting,
subscribing, keepalive, and whatever else arrives stay paho's, which finds its packets where it would have read the socket.

Called by `broker.client`. Source: MQTT 3.1.1 sections 2.2 and 3.3.
"""

import ssl
from collections.abc import Callable, Iterator

import paho.mqtt.client as paho

CHUNK = 64 * 1024
"""Bytes read at once; TLS gives at most a record of 16 KiB."""
_PUBLISH = 3

Taker = Callable[[str, bytes], None]
"""Given the topic and payload of each message."""


class Malformed(Exception):
    """The broker's bytes are no MQTT: the connection is no good any more."""


class Reader:
    """Reads for one paho client, whose own reading of the socket it replaces. While `stopped`, which `take` may set, nothing is taken."""

    def __init__(self, client: paho.Client, take: Taker) -> None:
        self.stopped = False
        self._client = client
        self._take = take
        self._rest = b""
        self._others = bytearray()
        self._failure: OSError | None = None
        self._over = False
        client._sock_recv = self._handed  # type: ignore[method-assign]

    def read(self) -> None:
        """Take one chunk from the socket, if there is one. Raises Malformed; a connection that ended is told by paho's callbacks."""
        sock = self._client.socket()
        if sock is None:
            return
        try:
            chunk = sock.recv(CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._failure = error
            chunk = b""
        if not chunk:
            self._over = True
            self._client.loop_read()
            return
        self._client._last_bytes_received = paho.time_func()
        self._dispatch(self._rest + chunk if self._rest else chunk)

    def go_on(self) -> None:
        """Take what was read before it was stopped. Raises Malformed."""
        self._dispatch(self._rest)

    def _dispatch(self, buffer: bytes) -> None:
        acknowledgements = bytearray()
        end = 0
        for start, body, end in cut(buffer):
            qos = buffer[start] >> 1 & 3
            if buffer[start] >> 4 != _PUBLISH or qos > 1:
                self._others += buffer[start:end]
                self._client.loop_read()
                continue
            payload = body + 2 + int.from_bytes(buffer[body : body + 2], "big")
            topic = buffer[body + 2 : payload]
            if qos:
                acknowledgements += b"\x40\x02" + buffer[payload : payload + 2]
                payload += 2
            if payload > end:
                raise Malformed("a PUBLISH ends within a field")
            self._take(topic.decode(), buffer[payload:end])
            if self.stopped:
                break
        self._rest = buffer[end:]
        if acknowledgements and self._client.socket() is not None:
            self._client._packet_queue(paho.PUBACK, bytes(acknowledgements), 0, 0)

    def _handed(self, bufsize: int) -> bytes:
        """For paho, in place of the socket's bytes: those of the packets that are its. Raises BlockingIOError when there are no more."""
        if self._others:
            found = bytes(self._others[:bufsize])
            del self._others[:bufsize]
            return found
        if self._failure is not None:
            raise self._failure
        if self._over:
            return b""
        raise BlockingIOError


def cut(buffer: bytes) -> Iterator[tuple[int, int, int]]:
    """Where each whole packet begins, where its body does, and where it ends. Raises Malformed."""
    start, size = 0, len(buffer)
    while start + 2 <= size:
        length, shift, at = 0, 0, start + 1
        while True:
            byte = buffer[at]
            length |= (byte & 0x7F) << shift
            at += 1
            if not byte & 0x80:
                break
            shift += 7
            if shift > 21:
                raise Malformed("a length field has more than 4 bytes")
            if at == size:
                return
        if at + length > size:
            return
        yield start, at, at + length
        start = at + length

"""What a client of the embedded broker has been sent and not yet taken: the outgoing half of `broker.connection`, with its bounds.

A device or integration that reads too slowly is cut. A service is not, at first: those who publish to it are not read for a while, so
that an ingest under load slows the fleet down instead of losing what the fleet sends.
"""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

RECORD = 16 * 1024
"""Bytes given to TLS at once. What it makes of them waits in a buffer of OpenSSL's that never gets smaller: a message of 256 KiB written
whole would leave as much behind for as long as its client stays."""


class Sender(Protocol):
    """Who can be made to wait: a connection."""

    def hold(self, reason: Hashable) -> None: ...

    def release(self, reason: Hashable) -> None: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """`size`: bytes written and not taken; `unacknowledged`: QoS 1 messages; `patience_s`: how long senders may be made to wait for this
    client before it is cut, None: not at all."""

    size: int
    unacknowledged: int
    patience_s: float | None


class Outbox:
    """Writes to one transport. All of one turn of the event loop go out together, a TLS record at a time."""

    def __init__(self, transport: asyncio.Transport, bounds: Bounds, cut: Callable[[str], None]) -> None:
        self.unacknowledged = 0
        self._transport = transport
        self._bounds = bounds
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._packets: list[bytes] = []
        self._size = 0
        self._scheduled = False
        self._full = False
        self._waiting: set[Sender] = set()
        self._patience: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=bounds.size, low=bounds.size // 4)

    def write(self, packet: bytes) -> None:
        self._packets.append(packet)
        self._size += len(packet)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)
        if self._bounds.patience_s is None and self._congested():
            backlog = self._size + self._transport.get_write_buffer_size()
            self._cut(f"slow reader: {backlog} bytes and {self.unacknowledged} messages outstanding")

    def wait_for_room(self, sender: Sender) -> None:
        """Make who has just caused a write wait, where that write was too much."""
        if self._bounds.patience_s is not None and self._congested():
            sender.hold(self)
            self._waiting.add(sender)
            self._watch(self._bounds.patience_s)

    def flush(self) -> None:
        packets, self._packets, self._size, self._scheduled = self._packets, [], 0, False
        if packets and not self._transport.is_closing():
            self._send(b"".join(packets))
        self._let_go_if_emptied()

    def _send(self, data: bytes) -> None:
        if len(data) <= RECORD:
            self._transport.write(data)
            return
        rest = memoryview(data)
        while rest and not self._transport.is_closing():
            self._transport.write(rest[:RECORD])
            rest = rest[RECORD:]

    def acknowledged(self) -> None:
        """One of the QoS 1 messages has arrived."""
        self.unacknowledged -= 1
        self._let_go_if_emptied()

    def filled(self) -> None:
        """The transport's buffer has reached its bound."""
        self._full = True
        if self._bounds.patience_s is not None:
            self._watch(self._bounds.patience_s)

    def emptied(self) -> None:
        """The transport's buffer is a quarter of its bound."""
        self._full = False
        self._let_go_if_emptied()

    def end(self) -> None:
        """Drop what has not gone out, and let everyone go who waits."""
        self._packets.clear()
        self._let_go()

    def _congested(self, part: float = 1.0) -> bool:
        return self._full or self._size > self._bounds.size * part or self.unacknowledged > self._bounds.unacknowledged * part

    def _watch(self, patience_s: float) -> None:
        if self._patience is None:
            self._patience = self._loop.call_later(patience_s, self._cut, f"slow reader: others have waited {patience_s:g} s for it")

    def _let_go_if_emptied(self) -> None:
        if self._patience is not None and not self._congested(0.5):
            self._let_go()

    def _let_go(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        waiting, self._waiting = self._waiting, set()
        for sender in waiting:
            sender.release(self)

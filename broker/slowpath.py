"""The way from a connection to amqtt, for everything that the connection does not relay itself.

Deliberately not fast: it lets other tasks run between packets, so that a client that sends very many harms only itself.
"""

import asyncio
import weakref
from collections import deque

from broker.outbox import Sender


class Slowpath:
    """Packets on their way to amqtt, which takes them byte by byte. At its end it gives no more bytes."""

    def __init__(self, sender: Sender, most: int) -> None:
        """`most` packets may wait; then the sender does. It owns this way, and is known weakly, so that neither outlives the other."""
        self._sender: Sender = weakref.proxy(sender)
        self._most = most
        self._packets: deque[bytes] = deque()
        self._current = b""
        self._at = 0
        self._ended = False
        self._arrived = asyncio.Event()

    def put(self, packet: bytes) -> None:
        self._packets.append(packet)
        self._arrived.set()
        if len(self._packets) > self._most:
            self._sender.hold(self)

    def end(self) -> None:
        self._ended = True
        self._arrived.set()

    async def read(self, count: int) -> bytes:
        """`count` bytes of one packet, fewer only at the end. Other tasks run between packets, however many there are."""
        while self._at == len(self._current):
            if not self._packets:
                if self._ended:
                    return b""
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await asyncio.sleep(0)
            self._current, self._at = self._packets.popleft(), 0
            if not self._packets:
                self._sender.release(self)
        taken = self._current[self._at : self._at + count]
        self._at += len(taken)
        return taken

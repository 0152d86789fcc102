"""The gate that every request passes: so many are worked on at once, in turns by client, and each client may have so many waiting.

One client that floods then delays itself: the others' requests wait for at most one of its, and what it has beyond its share is refused at
once, with when to come back. A client is a token or a session that has been recognised before, or else an address, so that inventing
tokens gives nobody more turns. A slot is for work: a request takes one when its body has arrived (a stranger's before, to be refused), and
gives it back with the head of the answer, so that neither slow senders nor streams hold any.

It knows no HTTP: `web.admission` puts it before every request. All on one event loop.
"""

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from inventory.errors import TooManyRequests, Unavailable

RUNNING: int = 16
"""Requests worked on at once: the pool has 10 connections, and some requests need none."""
WAITING: int = 1024
"""Requests of one client that wait: a thousand browsers behind one proxy come back at once after a restart, when none is recognised yet,
and an event stream that is refused is not tried again. At 5 ms a request it is five seconds."""
WAITING_ALL: int = 4096
"""Requests of all clients that wait; beyond it everybody is asked to come back."""
RETRY_AFTER_S: int = 2
"""What a client that is refused is told to wait, in seconds."""
KNOWN: int = 10_000
"""Tokens and sessions remembered as recognised; those used longest ago are forgotten first, and count by their address until then."""


@dataclass(slots=True)
class Gate:
    """`refused`: how many, since the beginning."""

    running_most: int = RUNNING
    waiting_most: int = WAITING
    all_most: int = WAITING_ALL
    running: int = 0
    waiting: int = 0
    refused: int = 0
    _lines: OrderedDict[Hashable, "deque[asyncio.Future[None]]"] = field(default_factory=OrderedDict)
    """Who waits, by client; the client whose turn is next is first."""

    async def enter(self, client: Hashable) -> None:
        """Wait for a slot. Raises TooManyRequests or Unavailable; `leave` only after it has returned."""
        if self.running < self.running_most and not self._lines:
            self.running += 1
            return
        line = self._lines.get(client, ())
        if len(line) >= self.waiting_most:
            self.refused += 1
            raise TooManyRequests(f"{len(line)} requests of yours are waiting: send fewer at once", retry_after=RETRY_AFTER_S)
        if self.waiting >= self.all_most:
            self.refused += 1
            raise Unavailable("more requests are waiting than can be done soon: come back in a moment")
        await self._wait(client)

    async def _wait(self, client: Hashable) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(client, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()  # the slot came as the client went
            elif turn in (line := self._lines.get(client, deque())):
                self._drop(client, line, turn)
            raise

    def leave(self) -> None:
        """Give the slot to the next in turn, or back."""
        while self._lines:
            client, line = next(iter(self._lines.items()))
            turn = line[0]
            self._drop(client, line, turn)
            if line:
                self._lines.move_to_end(client)
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _drop(self, client: Hashable, line: "deque[asyncio.Future[None]]", turn: "asyncio.Future[None]") -> None:
        line.remove(turn)
        self.waiting -= 1
        if not line:
            del self._lines[client]


@dataclass(slots=True)
class Recognised:
    """Digests of the credentials that were good when they were last used."""

    most: int = KNOWN
    _digests: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def add(self, credential: str) -> None:
        self._digests[_digest(credential)] = None
        self._digests.move_to_end(_digest(credential))
        while len(self._digests) > self.most:
            self._digests.popitem(last=False)

    def __contains__(self, credential: str) -> bool:
        return _digest(credential) in self._digests

    def client(self, credential: str, address: str) -> Hashable:
        """Whose turn a request takes."""
        return _digest(credential) if credential in self else address


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()[:16]

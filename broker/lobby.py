"""Where accepted sockets wait before TLS and CONNECT: the embedded broker's defence against strangers who only hold connections open.

A socket that has said nothing costs a file descriptor and about a kilobyte here, no task and no TLS; it is shown out after `connect_s`, or,
where too many stand about, when it is the oldest. Whoever speaks gets one of a bounded number of places, in which TLS and CONNECT happen
(`broker.guard`). Places that others wait for, or that were waited for, are had for less long, and the next is by turns the one that has
waited longest and the one that came last: in a storm of reconnecting devices everybody gets on, and among strangers who hold every place
a device that connects need not wait until all of them have been shown out.

It knows nothing of TLS, MQTT or identities. Source: the accept loop of asyncio (bpo-27906); "adaptive LIFO" of Maurer, Fail at Scale
(ACM Queue 13/8, 2015).
"""

import asyncio
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from broker.limits import Limits

log = logging.getLogger(__name__)

_AT_ONCE = 100
"""Sockets accepted in a turn of the event loop."""
_TICK_S = 0.05
_RETRY_S = 0.1
"""Until sockets are accepted again after the system had no more file descriptors or memory."""
_COMPLAIN_S = 10.0
"""Between two lines of the log that say so."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(slots=True, eq=False)
class Place:
    """A socket's, from when it was accepted until it is authenticated or ended. `limit` is set by who does TLS and CONNECT in it; it is
    brought forward where others have to wait."""

    sock: socket.socket
    peer: str
    until: float
    """When it has to have spoken, in the loop's time."""
    allowed_s: float = 0.0
    """For TLS and CONNECT: what it has left of `connect_s` once it has spoken."""
    limit: asyncio.Timeout | None = None
    waited: bool = False
    """It had to, and so has less time: otherwise the last of a crowd would stay for the whole of it after all the waiting."""
    ticks: int = 0
    """Of a clock that goes not faster than the event loop turns, so that nobody has to answer for a busy broker; it goes while others wait,
    and for those who had to."""


class Lobby:
    """Listens and accepts. `let_in` gets each socket that has spoken, with its place, and gives that back by `leave`;
    `shown_out` is told of each that has not."""

    def __init__(self, limits: Limits, let_in: Callable[[Place], None], shown_out: Callable[[str, str], None]) -> None:
        self._limits = limits
        self._let_in = let_in
        self._shown_out = shown_out
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._paused = False
        self._retry: asyncio.TimerHandle | None = None
        self._silent: dict[Place, None] = {}
        """Those accepted first come first."""
        self._spoken: deque[Place] = deque()
        self._places: set[Place] = set()
        self._last_first = False
        self._complain_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._clock: asyncio.TimerHandle | None = None

    def open(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listeners.append(listener)
        self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Accept no more, and show out who has no place."""
        self._pause()
        for place in list(self._silent):
            self._hear_no_more(place)
            place.sock.close()
        for sock in (*self._listeners, *(place.sock for place in self._spoken)):
            sock.close()
        self._listeners, self._spoken = [], deque()
        for handle in (self._timer, self._clock, self._retry):
            if handle is not None:
                handle.cancel()

    def leave(self, place: Place) -> None:
        """Whoever had it is authenticated, or gone."""
        self._places.discard(place)
        self._fill()

    # --- accepting ------------------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if len(self._spoken) >= self._limits.lobby:
                self._pause()
                return
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if self._loop.time() >= self._complain_at:
                    log.warning("can't accept", extra={"reason": str(error)})
                    self._complain_at = self._loop.time() + _COMPLAIN_S
                if error.errno not in _EXHAUSTED:
                    return
                if not self._silent:
                    self._pause()
                    self._retry = self._loop.call_later(_RETRY_S, self._accept_again)
                    return
                self._show_out(next(iter(self._silent)), "out of file descriptors or memory")
                continue
            self._make_room()
            self._welcome(Place(sock, str(address[0]), self._loop.time() + self._limits.connect_s))

    def _make_room(self) -> None:
        """For one more, where there are too many: by the oldest that has really said nothing, not even in this turn of the loop."""
        if len(self._silent) + len(self._spoken) < self._limits.lobby:
            return
        for place in list(self._silent):
            if _said(place.sock) is None:
                self._show_out(place, "the oldest of too many that say nothing")
                return
            self._spoke(place)

    def _welcome(self, place: Place) -> None:
        place.sock.setblocking(False)
        self._silent[place] = None
        self._loop.add_reader(place.sock, self._spoke, place)
        if self._timer is None:
            self._timer = self._loop.call_at(place.until, self._expire)

    def _pause(self) -> None:
        self._paused = True
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def _accept_again(self) -> None:
        self._paused, self._retry = False, None
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    # --- the silent -----------------------------------------------------------------------------------------------------------

    def _spoke(self, place: Place) -> None:
        self._hear_no_more(place)
        if not _said(place.sock):
            place.sock.close()
            return
        place.allowed_s = place.until - self._loop.time()
        place.waited = bool(self._spoken) or len(self._places) >= self._limits.unauthenticated
        self._spoken.append(place)
        self._fill()

    def _expire(self) -> None:
        self._timer = None
        for place in list(self._silent):
            if place.until > self._loop.time():
                self._timer = self._loop.call_at(place.until, self._expire)
                return
            self._show_out(place, f"nothing said within {self._limits.connect_s:g} s")

    def _show_out(self, place: Place, reason: str) -> None:
        self._hear_no_more(place)
        place.sock.close()
        self._shown_out(place.peer, reason)

    def _hear_no_more(self, place: Place) -> None:
        del self._silent[place]
        self._loop.remove_reader(place.sock)

    # --- places ---------------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        while self._spoken and len(self._places) < self._limits.unauthenticated:
            self._last_first = not self._last_first
            place = self._spoken.pop() if self._last_first else self._spoken.popleft()
            self._places.add(place)
            self._let_in(place)
        if self._clock is None and (self._spoken or any(place.waited for place in self._places)):
            self._clock = self._loop.call_later(_TICK_S, self._tick)
        if self._paused and self._retry is None and len(self._spoken) < self._limits.lobby:
            self._accept_again()

    def _tick(self) -> None:
        self._clock = None
        for place in list(self._places):
            place.ticks += bool(self._spoken) or place.waited
            if place.ticks * _TICK_S >= self._limits.crowded_s and place.limit is not None and not place.limit.expired():
                place.limit.reschedule(self._loop.time())
        self._fill()


def _said(sock: socket.socket) -> bytes | None:
    """The first byte of what has come; empty at the end, which needs no TLS to be found out; None where nothing has."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""

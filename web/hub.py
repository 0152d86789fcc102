"""The change hub: one reader of the change log a process, any number of followers.

The hub follows the log with a single `Tail` and keeps the last `backlog` published changes, encoded once. A follower is a position: it
reads the database until it stands within the backlog, then waits with all the others. So a follower that reads slowly costs no memory;
one that falls out of the backlog is told `Cut` and comes back to the database with its position, and nobody is held up by anybody.

It is not a filter of who may see what (`inventory.seen` is), and it keeps nothing across a restart: positions do. Called by the event
stream and by pages.

    async for news in hub.follow(after=position, wanted=Wanted(kinds={"host"})):
        match news:
            case Changes(entries, position): ...
            case Quiet(position): ...
            case Cut(): ...
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from inventory import changes
from inventory.changes import Change
from inventory.db import Database
from inventory.errors import Gone, Unavailable
from inventory.kinds import KINDS
from web import json

log = logging.getLogger(__name__)

PUBLISHED = frozenset(kind.name for kind in KINDS if kind.published)
"""The kinds whose changes leave the inventory."""
PORTION: int = 256
"""Changes handed over at once, so that a follower far behind is answered in pieces."""
RETRY_S: float = 1.0
"""Pause before the log is tried again, in seconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A published change and its server-sent event."""

    change: Change
    frame: bytes

    @classmethod
    def of(cls, change: Change) -> "Entry":
        return cls(change, b"id: %d\n%s" % (change.position, cls.without_id(change)))

    @staticmethod
    def without_id(change: Change) -> bytes:
        return b"event: change\ndata: %s\n\n" % json.encode(change.body())


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes a follower asks for; empty: all that are published."""

    kinds: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()

    def takes(self, change: Change) -> bool:
        return (not self.kinds or change.kind in self.kinds) and (not self.ids or change.id in self.ids)


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened, oldest first, and the position that the follower has now seen."""

    entries: tuple[Entry, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing for a heartbeat's length; everything up to `position` has been looked at."""

    position: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The follower fell behind the backlog: it must come back with the last position it has seen."""


News = Changes | Quiet | Cut


class Hub:
    """`run` feeds it; `follow` reads it. All on one event loop."""

    def __init__(self, db: Database, *, backlog: int, heartbeat_s: float) -> None:
        self._db = db
        self._backlog = backlog
        self._heartbeat_s = heartbeat_s
        self._entries: deque[Entry] = deque()
        self._floor = 0
        self._position = 0
        self._news = asyncio.Event()
        self._closed = False
        self._started = False
        self.following = asyncio.Event()
        """Set while the log is being followed."""
        self.followers = 0
        self.cut = 0
        """How many followers have fallen behind since the start."""

    @property
    def position(self) -> int:
        """Up to where the log has been read."""
        return self._position

    async def run(self) -> None:
        """Until cancelled. A database that is away is waited for; a failure nobody thought of is logged, and the log followed on."""
        while True:
            try:
                await self._feed()
            except Unavailable as error:
                log.warning("the change hub waits for the database", extra={"reason": error.detail})
            except Gone as error:
                log.warning("the change hub starts anew", extra={"reason": error.detail})
                self._started = False
            except Exception:
                log.exception("the change hub failed")
            finally:
                self.following.clear()
            await asyncio.sleep(RETRY_S)

    async def _feed(self) -> None:
        if not self._started:
            self._entries.clear()
            self._floor = self._position = await changes.position(self._db)
            self._started = True
            self._tell()
        self.following.set()
        async for found in changes.Tail(self._db, self._position, kinds=PUBLISHED):
            self.add(found.changes, found.next)

    def add(self, found: list[Change], position: int) -> None:
        """Take changes in, oldest first, and wake everybody. `position`: up to where the log has now been read."""
        for change in found:
            self._entries.append(Entry.of(change))
        while len(self._entries) > self._backlog:
            self._floor = self._entries.popleft().change.position
        self._position = position
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def close(self) -> None:
        """End every follower, so that its response ends too."""
        self._closed = True
        self._tell()

    def wake(self) -> None:
        """Have every follower look whether it is over."""
        self._tell()

    async def follow(self, *, after: int, wanted: Wanted, over: Callable[[], bool] = lambda: False) -> AsyncIterator[News]:
        """News from a position on, until `over`, which is asked before each piece of news and at `wake`. Raises Gone below the floor of the
        log, Unavailable when it must be read and can't be."""
        self.followers += 1
        try:
            position = after
            async for news in self._stored(after, wanted):
                if over():
                    return
                position = news.position
                yield news
            while not self._closed and not over():
                if position < self._floor:
                    self.cut += 1
                    yield Cut()
                    return
                position, taken = self._portion(position, wanted)
                if taken:
                    yield Changes(taken, position)
                elif position >= self._position and not await self._wait():
                    yield Quiet(position)
        finally:
            self.followers -= 1

    async def _stored(self, after: int, wanted: Wanted) -> AsyncIterator[Changes]:
        """From the database, until the backlog reaches back far enough."""
        kinds = (wanted.kinds & PUBLISHED) if wanted.kinds else PUBLISHED
        position = after
        while position < self._floor and not self._closed:
            found = await changes.read(self._db, position, limit=PORTION, kinds=kinds, ids=wanted.ids or None)
            position = found.next
            yield Changes(tuple(map(Entry.of, found.changes)), position)

    def _portion(self, position: int, wanted: Wanted) -> tuple[int, tuple[Entry, ...]]:
        """What is wanted of the next changes in the backlog, and the position after them."""
        fresh = list(islice(self._after(position), PORTION))
        end = fresh[-1].change.position if len(fresh) == PORTION else max(position, self._position)
        return end, tuple(entry for entry in fresh if wanted.takes(entry.change))

    def _after(self, position: int) -> Iterator[Entry]:
        newest_first: list[Entry] = []
        for entry in reversed(self._entries):
            if entry.change.position <= position:
                break
            newest_first.append(entry)
        return reversed(newest_first)

    async def _wait(self) -> bool:
        """True when there is news, False when there was none for a heartbeat's length."""
        try:
            async with asyncio.timeout(self._heartbeat_s):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

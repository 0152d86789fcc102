"""Places for what is published and not yet acknowledged: who finds none waits, first come first served.

Not a semaphore: while the acknowledgements are not being read (the inbox is full, so the socket is left alone) waiting for one would wait
for ever, because what empties the inbox publishes answers. So places are lent then, and reckoned up later; what is lent is bounded by what
the inbox holds. Called by `broker.client`.
"""

import asyncio
from collections import deque


class Room:
    """`places` at once. The count of free ones is below zero while more are lent."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._lending = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """A place, once there is one."""
        if self._has_one():
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """One is free again."""
        self._free += 1
        self._let_in()

    def lend(self) -> None:
        """From now on nobody waits, those included who do."""
        self._lending = True
        self._let_in()

    def lend_no_more(self) -> None:
        self._lending = False

    def _has_one(self) -> bool:
        return self._lending or self._free > 0

    def _let_in(self) -> None:
        while self._waiting and self._has_one():
            place = self._waiting.popleft()
            if not place.done():
                self._free -= 1
                place.set_result(None)

"""What waits of many senders, taken in turns: one that floods delays itself and nobody else. Pure: the clock is handed in.

Each sender has a queue of its own, with a bound past which it is refused, and a pace: after a burst it is served no faster than that,
however idle everybody else is, because what it says is written down. A turn is a few items; the order of one sender's items is kept. Who is
refused must be able to say it again (devices do: go-back-N), or be told. `broker.client` keeps what it has read in one, and
`inventory.asked` the intents that are not done.

Source: Nagle, RFC 970 (queues by source, served in turns); ITU-T I.371 (the generic cell rate algorithm: one number a sender).
"""

import heapq
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_SWEEP_AT = 1024
"""Senders remembered before those that have nothing waiting and may burst again are looked for and forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of one sender. `items` and `size` (bytes) may wait; `burst` items pass at once, then `a_second`; `turn` at most in a turn."""

    items: int
    size: int
    burst: int
    a_second: float
    turn: int = 1


@dataclass(slots=True)
class _Sender(Generic[T]):
    share: Share
    waiting: deque[tuple[T, int]] = field(default_factory=deque)
    size: int = 0
    paid: float = 0.0
    """Up to when what it was served would have taken at its pace."""

    def may_at(self) -> float:
        """From when on it may be served."""
        return self.paid - (self.share.burst - 1) / self.share.a_second


class Turns(Generic[T]):
    """The queues together. `now` is in seconds, of a clock that never goes back."""

    def __init__(self) -> None:
        self._senders: dict[Hashable, _Sender[T]] = {}
        self._turns: deque[Hashable] = deque()
        self._paced: list[tuple[float, int, Hashable]] = []
        self._count = 0
        self._remembered = 0
        self._length = 0
        self.size = 0
        """Bytes that wait."""
        self.refused = 0
        """Items, since the beginning."""

    def __len__(self) -> int:
        return self._length

    def put(self, name: Hashable, share: Share, item: T, size: int, now: float) -> bool:
        """Let it wait. False: the sender has as much waiting as it may, and the item is not taken."""
        sender = self._senders.get(name)
        if sender is None:
            sender = self._remember(name, share, now)
        if len(sender.waiting) >= share.items or (sender.waiting and sender.size + size > share.size):
            self.refused += 1
            return False
        sender.waiting.append((item, size))
        sender.size += size
        self.size += size
        self._length += 1
        if len(sender.waiting) == 1:
            self._line_up(name, sender, now)
        return True

    def take(self, limit: int, now: float) -> list[T]:
        """Up to `limit` items, a turn a sender; none where all that wait have to be paced."""
        while self._paced and self._paced[0][0] <= now:
            self._turns.append(heapq.heappop(self._paced)[2])
        taken: list[T] = []
        while self._turns and len(taken) < limit:
            name = self._turns.popleft()
            sender = self._senders[name]
            for _ in range(min(sender.share.turn, limit - len(taken))):
                taken.append(self._serve(sender, now))
                if not sender.waiting or sender.may_at() > now:
                    break
            if sender.waiting:
                self._line_up(name, sender, now)
        return taken

    def due_in(self, now: float) -> float | None:
        """Seconds until `take` has something; 0: now. None: nothing waits."""
        if self._turns:
            return 0.0
        return max(0.0, self._paced[0][0] - now) if self._paced else None

    def _serve(self, sender: _Sender[T], now: float) -> T:
        item, size = sender.waiting.popleft()
        sender.size -= size
        self.size -= size
        self._length -= 1
        sender.paid = max(sender.paid, now) + 1 / sender.share.a_second
        return item

    def _line_up(self, name: Hashable, sender: _Sender[T], now: float) -> None:
        at = sender.may_at()
        if at <= now:
            self._turns.append(name)
        else:
            self._count += 1
            heapq.heappush(self._paced, (at, self._count, name))

    def _remember(self, name: Hashable, share: Share, now: float) -> _Sender[T]:
        """The bound doubles with those who have to be remembered, so that looking for others costs little."""
        if len(self._senders) >= max(_SWEEP_AT, 2 * self._remembered):
            self._senders = {each: sender for each, sender in self._senders.items() if sender.waiting or sender.paid > now}
            self._remembered = len(self._senders)
        sender = self._senders[name] = _Sender[T](share)
        return sender

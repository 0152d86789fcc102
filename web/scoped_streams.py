"""Event streams within a scope: what of the changes that pass is told there, asked of the database once for all streams of that scope.

A thousand browsers of one department get the same portion of changes within milliseconds of each other, and the answer is the same for all
of them. It is kept for FRESH_S and no longer: what is told depends on which hosts are inside now. Called by the event stream; all on one
event loop.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from inventory.changes import Change
from inventory.db import Database
from inventory.seen import Seen

FRESH_S: float = 1.0
"""For so long an answer is handed out again, in seconds."""


@dataclass(slots=True, weakref_slot=True)
class Lens:
    """One scope, for as long as a stream has it."""

    through: Seen
    mono: Callable[[], float] = time.monotonic
    _told: dict[int, list[Change]] = field(default_factory=dict)
    _since: float = 0.0
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def of(self, found: Sequence[Change]) -> list[Change]:
        """As `Seen.of`. Raises Unavailable."""
        async with self._asking:
            if self.mono() - self._since > FRESH_S:
                self._told, self._since = {}, self.mono()
            fresh = [change for change in found if change.position not in self._told]
            answers: dict[int, list[Change]] = {change.position: [] for change in fresh}
            for change in await self.through.of(fresh):
                answers[change.position].append(change)
            self._told |= answers
            return [told for change in found for told in self._told[change.position]]


@dataclass(slots=True)
class Lenses:
    """Of all scopes that have a stream open."""

    db: Database
    _open: WeakValueDictionary[str, Lens] = field(default_factory=WeakValueDictionary)

    def of(self, scope: str) -> Lens | None:
        """None: everything is told."""
        if not scope:
            return None
        lens = self._open.get(scope)
        if lens is None:
            lens = self._open[scope] = Lens(Seen(self.db, scope))
        return lens

"""Whether the credentials of open streams still stand, asked for all of them at once: a session that was revoked is dead in seconds.

A request looks its credential up when it begins; a stream goes on for hours after that. So each open stream is entered here, and every
`RECHECK_S` one statement asks the database which of the streams' credentials still stand and with what rights. A stream whose credential
is gone, or has other rights than when it began, is ended within that time and a little; its reader comes back and is asked who it is.
Asking, rather than being told by a notification: one that is lost would leave a stream open, and time ends sessions too.

While the database is away nothing is known to have ended. Called by the app (`run`) and by the event stream.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from inventory import accounts
from inventory.db import Database
from inventory.errors import Unavailable

log = logging.getLogger(__name__)

RECHECK_S: float = 2.0
"""How often is asked, in seconds: within 5 a stream is to be over."""


@dataclass(frozen=True, slots=True)
class Held:
    """A credential's digest, and the rights that a stream began with."""

    digest: str
    role: str
    scope: str


@dataclass(slots=True)
class Standing:
    """The credentials of this process's open streams. idle: after so long unused a session has ended. wake: called when one has fallen."""

    db: Database
    idle: timedelta
    wake: Callable[[], None]
    every_s: float = RECHECK_S
    _open: Counter[Held] = field(default_factory=Counter)
    _fallen: set[Held] = field(default_factory=set)

    @contextmanager
    def hold(self, held: Held) -> Iterator[Callable[[], bool]]:
        """Enter a stream for as long as the block runs; the value tells whether it is over."""
        self._open[held] += 1
        try:
            yield lambda: held in self._fallen
        finally:
            self._open[held] -= 1
            if not self._open[held]:
                del self._open[held]
                self._fallen.discard(held)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.every_s)
            try:
                await self.look(datetime.now(UTC))
            except Unavailable as error:
                log.warning("whether open streams may go on can't be asked", extra={"reason": error.detail})
            except Exception:
                log.exception("asking whether open streams may go on failed")

    async def look(self, now: datetime) -> None:
        """Ask once. Raises Unavailable."""
        asked = set(self._open)
        if not asked:
            return
        stands = await accounts.standing(self.db, sorted({held.digest for held in asked}), now, self.idle)
        fallen = {held for held in asked if stands.get(held.digest) != (held.role, held.scope)}
        self._fallen |= fallen & self._open.keys()
        if fallen:
            self.wake()

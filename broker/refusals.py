"""Who was refused, in the log, without letting strangers fill it: the first of a minute one by one, the rest as a number at its end.

`broker.guard` notes each; `Counters.refused` counts them all.
"""

import asyncio
import logging

log = logging.getLogger(__name__)

SHOWN = 20
"""Lines of a window that name a peer."""
WINDOW_S = 60.0


class Refusals:
    """A window begins with a refusal, and ends `window_s` later."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._noted = 0
        self._end: asyncio.TimerHandle | None = None

    def note(self, peer: str, reason: str) -> None:
        if self._end is None:
            self._end = asyncio.get_running_loop().call_later(self._window_s, self._sum_up)
        self._noted += 1
        if self._noted <= SHOWN:
            log.warning("client refused", extra={"peer": peer, "reason": reason})

    def close(self) -> None:
        """Say what is left to say."""
        if self._end is not None:
            self._end.cancel()
            self._sum_up()

    def _sum_up(self) -> None:
        if self._noted > SHOWN:
            log.warning("more clients refused", extra={"refused": self._noted - SHOWN, "seconds": self._window_s})
        self._noted, self._end = 0, None

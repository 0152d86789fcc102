"""Waiting in tests: for a predicate, with a deadline; never for a fixed time.

Deadlines, and what the product promises in seconds, are counted in calm seconds: without the time in which some process of this machine
was ready and got no CPU, as Linux measures it (pressure stall information). On a quiet machine they are seconds, give or take the 2 s
by which the kernel's count may lag; on a busy one they stretch as far as everything else does, so that a busy machine fails nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

LONGEST_S = 200.0
"""Nothing is waited for longer, however busy the machine: below pytest's own time-out, which says less about what was waited for."""
_PRESSURE = Path("/proc/pressure/cpu")
_LAG_S = 2.1
"""The kernel counts up its pressure every 2 s (PSI_FREQ), so that a difference may be off by that."""
_WITHOUT = 0.75
"""Where the kernel does not measure it, this share of all time counts as lost."""


def _lost() -> float:
    """Seconds, since some moment, in which something waited for a CPU."""
    try:
        return int(_PRESSURE.read_text().split("total=", 1)[1].split()[0]) / 1e6
    except OSError:
        return time.monotonic() * _WITHOUT


class Stopwatch:
    """Counts calm seconds since it was made."""

    def __init__(self) -> None:
        self._began, self._lost = time.monotonic(), _lost()

    def wall(self) -> float:
        return time.monotonic() - self._began

    def seconds(self) -> float:
        """Never too many: what the kernel may not have counted yet is taken as lost."""
        return self.wall() - (_lost() - self._lost) - _LAG_S


class Deadline:
    """So many calm seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._watch = seconds, Stopwatch()

    def over(self) -> bool:
        wall = self._watch.wall()
        return wall > self.seconds and (wall > LONGEST_S or self._watch.seconds() > self.seconds)


def until(predicate: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a predicate; fail with `what` when it does not come true in time."""
    deadline = Deadline(seconds)
    while not predicate():
        assert not deadline.over(), what
        time.sleep(0.02)


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout` in calm seconds, without a task of its own. Raises TimeoutError."""
    loop, deadline, timers = asyncio.get_running_loop(), Deadline(seconds), list[asyncio.TimerHandle]()
    async with asyncio.timeout(None) as limit:

        def look() -> None:
            if deadline.over():
                limit.reschedule(loop.time())
            else:
                timers[:] = [loop.call_later(0.1, look)]

        timers.append(loop.call_later(seconds, look))
        try:
            yield
        finally:
            timers[0].cancel()

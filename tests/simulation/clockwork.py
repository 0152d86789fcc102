"""Time that only moves when nobody has anything left to do: an asyncio event loop for one simulated world.

The product's own coroutines run on it unchanged. Nothing here waits: with no callback ready, the clock jumps to the next timer. There are
no sockets, no threads and no signals, so that the order of everything follows from the order in which it was asked for.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

BEGINNING = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
"""The wall clock of the servers when a world begins."""

OWNER: contextvars.ContextVar[Any] = contextvars.ContextVar("owner", default=None)
"""The simulated process that a task belongs to; children inherit it."""


class Overrun(Exception):
    """A world that does not come to an end: something goes round without time passing."""


class _NoSockets:
    """What BaseEventLoop asks for file descriptors: there are none, so waiting for them is a jump of the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Overrun("nothing is left to happen, and somebody still waits")
        if timeout > 0:
            self._loop.now += timeout
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """`now`: seconds since the world began. `tasks_of`: the tasks that each simulated process has started, in order."""

    def __init__(self, most_rounds: int = 200_000) -> None:
        super().__init__()
        self.now = 0.0
        self.tasks_of: dict[Any, dict[asyncio.Task[Any], None]] = {}
        self._selector = _NoSockets(self)
        self._clock_resolution = 1e-9
        self._left = most_rounds
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[asyncio.TimerHandle]
        self._stopping: bool
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def give_more(self) -> None:
        """Rounds for coming to an end, whatever has used up those before."""
        self._left = 10_000

    def time(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.now)

    def end_tasks_of(self, owner: Any) -> None:
        """As a kill does: none of them takes another step of its own."""
        for task in list(self.tasks_of.get(owner, ())):
            task.cancel()

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        tasks = self.tasks_of.setdefault(OWNER.get(), {})
        tasks[task] = None
        task.add_done_callback(lambda ended: tasks.pop(ended, None))
        return task

    def _run_once(self) -> None:
        """BaseEventLoop's round, without its bookkeeping for slow callbacks: a fifth of the time of a simulation."""
        self._left -= 1
        if self._left < 0:
            raise Overrun("it goes on and on")
        ready: deque[Any] = self._ready
        scheduled: list[Any] = self._scheduled
        if not ready:
            while scheduled and scheduled[0]._cancelled:
                heapq.heappop(scheduled)._scheduled = False
            if not scheduled and not self._stopping:
                raise Overrun("nothing is left to happen, and somebody still waits")
            if scheduled:
                self.now = max(self.now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self.now:
            due = heapq.heappop(scheduled)
            due._scheduled = False
            ready.append(due)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def later(seconds: float, act: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
    """Call `act` when so much time has passed."""
    return asyncio.get_running_loop().call_later(seconds, act, *args)

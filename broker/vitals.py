"""What a process of the server says of itself when asked with SIGUSR1: one log line that shows a leak and its place.

`vitals` with the fields `tasks` (asyncio's, all), `most` (how many by coroutine, the largest first), `threads`, and `blocks` (of memory
that Python has handed out). It costs a few milliseconds and changes nothing. Not a metric: for the leak that somebody looks for, and for
`make soak`. The entry points of broker, inventory, managers and web call `answer_signal`.
"""

import asyncio
import logging
import signal
import sys
import threading
from collections import Counter
from typing import Any

log = logging.getLogger(__name__)

SHOWN = 12
"""Coroutines named in a line."""


def answer_signal(loop: asyncio.AbstractEventLoop) -> None:
    """From now on SIGUSR1 writes the line. Call it in the main thread, once."""
    loop.add_signal_handler(signal.SIGUSR1, lambda: log.info("vitals", extra=vitals(loop)))


def vitals(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    tasks = Counter(_name(task) for task in asyncio.all_tasks(loop))
    return {
        "tasks": tasks.total(),
        "most": dict(tasks.most_common(SHOWN)),
        "threads": threading.active_count(),
        "blocks": sys.getallocatedblocks(),
    }


def _name(task: "asyncio.Task[Any]") -> str:
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", coroutine))

"""The memory of processes that run for weeks: what was freed goes back to the system, every few minutes, and what was made at the start is
left alone.

glibc gives back only the top of its heap by itself; the holes below it stay, and under a load of messages and rows of every size they add
up, though the number of objects stays the same. One call gives them back, and takes milliseconds. Another C library has no such call and
gets none. A full collection of garbage walks all objects, in a process at rest nearly all of them modules and what they hold: 66 ms in the
web process, in which everybody waits. So these are told apart once, when all is imported. The entry points of broker, inventory, managers
and web call `keep`.
"""

import asyncio
import ctypes
import functools
import gc
from collections.abc import Callable

EVERY_S = 300.0
"""Between two calls, in seconds: a hole is used again within that time more often than not, and no leak is hidden by it."""


@functools.cache
def _malloc_trim() -> "Callable[[int], int] | None":
    try:
        return ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return None


def trim() -> bool:
    """Once, now. Whether anything went back."""
    call = _malloc_trim()
    return call is not None and call(0) == 1


def keep(loop: asyncio.AbstractEventLoop) -> None:
    """From now on, for as long as the loop runs; what there is by now is taken to stay."""
    gc.freeze()
    _trim_again(loop)


def _trim_again(loop: asyncio.AbstractEventLoop) -> None:
    def again() -> None:
        trim()
        _trim_again(loop)

    loop.call_later(EVERY_S, again)

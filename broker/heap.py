"""Memory that was freed goes back to the system, every few minutes, in processes that run for weeks.

glibc gives back only the top of its heap by itself; the holes below it stay, and under a load of messages and rows of every size they add
up, though the number of objects stays the same. One call gives them back, and takes milliseconds. Another C library has no such call and
gets none. The entry points of broker, inventory, managers and web call `keep_trimmed`.
"""

import asyncio
import ctypes
import functools
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


def keep_trimmed(loop: asyncio.AbstractEventLoop) -> None:
    """From now on, for as long as the loop runs."""

    def again() -> None:
        trim()
        keep_trimmed(loop)

    loop.call_later(EVERY_S, again)

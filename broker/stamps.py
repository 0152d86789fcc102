"""Whether a file is another one by now: for those who read it again then (`broker.guard`, `broker.mosquitto`, `inventory.secret_files`)."""

from collections.abc import Iterable
from pathlib import Path

Stamps = tuple[tuple[int, int], ...]
"""Of each file the time of its last change, in nanoseconds, and its number; zeros where there is none."""


def stamps(paths: Iterable[Path]) -> Stamps:
    """Time alone would not do: two that take each other's place within a tick of the kernel's clock, some milliseconds, have the same.
    Raises OSError, but not for a file that is missing."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino

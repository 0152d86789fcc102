"""Reading /sys, /proc and /etc below a root, forgivingly: a file that is not there, or not for us, is None and never an exception.

Every probe gets a `Tree` of its own, which also notes what it could not see for lack of rights (`denied`) and what went wrong without
costing the whole section (`problems`). Below `/` this is the running system; tests give the root of a recorded one. It never follows
a path out of `/sys` by itself: absolute links are read as text (`link`), so that a recorded tree can't be left by accident.
"""

import os
from pathlib import Path

from edge_agent.discovery.calls import NoCalls, RunningKernel, SystemCalls
from edge_agent.discovery.cleaning import clean, decoded, natural, whole

VALUE_BYTES = 4096
"""A sysfs attribute is at most a page."""

FILE_BYTES = 1024 * 1024
"""Of a longer file the rest is not read."""


class Tree:
    """The file system below `root`. Paths are given as on the running system, from `/`."""

    def __init__(self, root: Path = Path("/"), calls: SystemCalls | None = None) -> None:
        absolute = os.path.realpath(root)
        self._root = "" if absolute == "/" else absolute
        self.calls = calls or (NoCalls() if self._root else RunningKernel())
        self.denied: set[str] = set()
        self.problems: list[str] = []

    def data(self, path: str, limit: int = FILE_BYTES) -> bytes | None:
        """The first `limit` bytes of a file."""
        try:
            # A FIFO in the place of a file must not hold us.
            handle = os.open(self._root + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError:
            self.denied.add(path)
            return None
        except (OSError, ValueError):
            return None
        try:
            return _read(handle, limit)
        except OSError:
            # Attributes answer EINVAL or EIO where there is nothing to say, such as the speed of a link that is down.
            return None
        finally:
            os.close(handle)

    def text(self, path: str) -> str | None:
        """A one-value file, cleaned; None where it is blank."""
        data = self.data(path, VALUE_BYTES)
        return (clean(decoded(data)) or None) if data is not None else None

    def number(self, path: str, base: int = 10) -> int | None:
        """A one-value file that holds a whole number."""
        return whole(self.text(path), base)

    def lines(self, path: str, limit: int = FILE_BYTES) -> list[str]:
        """The lines of a file, not cleaned."""
        data = self.data(path, limit)
        return decoded(data).split("\n") if data else []

    def required(self, path: str, limit: int = FILE_BYTES) -> str:
        """A file without which there is nothing to say. Raises LookupError."""
        data = self.data(path, limit)
        if not data:
            raise LookupError(f"{path} can't be read")
        return decoded(data)

    def names(self, path: str) -> list[str]:
        """Entries of a directory, in natural order."""
        try:
            return sorted(os.listdir(self._root + path), key=natural)
        except PermissionError:
            self.denied.add(path)
        except (OSError, ValueError):
            pass  # not there: this machine has none of it
        return []

    def inodes(self, path: str) -> list[tuple[str, int]]:
        """Entries of a directory with their inode numbers: sysfs gives a thing that comes back a new one."""
        try:
            with os.scandir(self._root + path) as entries:
                return sorted((entry.name, entry.inode()) for entry in entries)
        except (OSError, ValueError):
            return []

    def link(self, path: str) -> str | None:
        """Where a symbolic link points, as it is written."""
        try:
            return os.readlink(self._root + path)
        except (OSError, ValueError):
            return None

    def base(self, path: str) -> str | None:
        """The last component of a link's target: how sysfs says `driver` and `subsystem`."""
        target = self.link(path)
        return clean(os.path.basename(target)) or None if target else None

    def real(self, path: str) -> str | None:
        """The path with its links resolved, from `/`; None where it is not there, or leads out of the tree."""
        try:
            resolved = os.path.realpath(self._root + path, strict=True)
        except (OSError, ValueError):
            return None
        return resolved[len(self._root) :] if resolved.startswith(self._root + "/") else None

    def exists(self, path: str) -> bool:
        try:
            return os.path.exists(self._root + path)
        except ValueError:
            return False

    def stamp(self, path: str) -> tuple[int, int, int] | None:
        """Inode, size and modification time (ns) of a file or of the link itself: changes when it is replaced or rewritten."""
        try:
            found = os.lstat(self._root + path)
        except (OSError, ValueError):
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def outside(self, path: str) -> str:
        """The path as the system that runs us sees it, for libraries that open files themselves."""
        return self._root + path


def _read(handle: int, limit: int) -> bytes:
    """Up to `limit` bytes: files of /proc come in pieces."""
    pieces, left = [], limit
    while left > 0:
        piece = os.read(handle, min(left, 65536))
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)

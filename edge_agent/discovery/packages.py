"""How many packages are installed, counted in the package managers' own databases, without running them.

Each counter reads as little as it can and keeps nothing. Called by the software probe; the paths also by `watch`.

Source: dpkg's status file (dpkg(1), package states); rpm's sqlite backend; apk-installed(5); pacman's local database.
"""

import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.discovery.tree import Tree

# A literal beginning lets the search skip: a third of the time that "^" with MULTILINE takes.
_INSTALLED = re.compile(rb"\nStatus: \S+ \S+ installed(?=\n)")
_APK_PACKAGE = re.compile(rb"\nP:")


@dataclass(frozen=True, slots=True)
class PackageManager:
    """`paths`: where its database may be; the first that exists counts. `count` may raise OSError or sqlite3.Error."""

    name: str
    paths: tuple[str, ...]
    count: Callable[[Tree, str], int]


def installed(tree: Tree) -> tuple[str, int] | None:
    """The package manager and its count; None where there is none that we can read. Raises OSError, sqlite3.Error."""
    for manager in MANAGERS:
        for path in manager.paths:
            if tree.exists(path):
                count = manager.count(tree, path)
                # A database that another distribution's tool left empty says nothing.
                if count:
                    return manager.name, count
    return None


def _dpkg(tree: Tree, path: str) -> int:
    """Packages that are installed, not those whose configuration alone remains."""
    return _count_lines(tree, path, _INSTALLED)


def _apk(tree: Tree, path: str) -> int:
    return _count_lines(tree, path, _APK_PACKAGE)


def _count_lines(tree: Tree, path: str, pattern: re.Pattern[bytes]) -> int:
    """Matching lines of a file of megabytes, a piece at a time, cut at line ends."""
    count, line = 0, b"\n"
    with open(tree.outside(path), "rb") as file:
        while piece := file.read(64 * 1024):
            lines, newline, rest = (line + piece).rpartition(b"\n")
            count += len(pattern.findall(lines + newline))
            # A line without an end is cut: no line that counts is this long.
            line = (newline + rest)[:4096]
    return count + len(pattern.findall(line + b"\n"))


def _rpm(tree: Tree, path: str) -> int:
    """What `rpm -qa` would list. Writes nothing: the database belongs to rpm, and may be on a read-only file system.

    It is in WAL mode, where a reader makes files beside it unless it promises that nobody writes. As long as the log is empty that does
    no harm: should rpm begin in this moment, its change makes us look again.
    """
    log = tree.stamp(f"{path}-wal")
    promise = "" if log and log[1] else "&immutable=1"
    location = tree.outside(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{location}?mode=ro{promise}", uri=True, timeout=2.0)
    try:
        return int(connection.execute("SELECT count(*) FROM Packages").fetchone()[0])
    finally:
        connection.close()


def _pacman(tree: Tree, path: str) -> int:
    return sum(name != "ALPM_DB_VERSION" for name in tree.names(path))


MANAGERS = (
    PackageManager("dpkg", ("/var/lib/dpkg/status",), _dpkg),
    PackageManager("rpm", ("/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite"), _rpm),
    PackageManager("apk", ("/usr/lib/apk/db/installed", "/lib/apk/db/installed"), _apk),
    PackageManager("pacman", ("/var/lib/pacman/local",), _pacman),
    PackageManager("opkg", ("/usr/lib/opkg/status", "/var/lib/opkg/status"), _dpkg),
)
"""In the order in which they are looked for: an rpm database on Debian is a tool's, not the system's."""

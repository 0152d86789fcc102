"""Whose the supervised PostgreSQL is, and whether that user can get where its files are.

Postgres refuses to run as root. Root therefore hands one directory to an unprivileged user; it never opens a directory that is not
Fleetward's own to others. `fleetward.postgres` and `fleetward.layout` use it. Decision: docs/adr/0003.
"""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

_CANDIDATES = ("fleetward", "nobody")
"""Users that root's cluster may belong to, the first that exists."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The user that Postgres runs as."""

    name: str
    uid: int
    gid: int

    @property
    def other(self) -> bool:
        """Whether that is someone else than this process."""
        return self.uid != os.geteuid()

    @property
    def user(self) -> tuple[int, int] | None:
        """Whom to become, in the terms of `launch.through`."""
        return (self.uid, self.gid) if self.other else None


def owner() -> Owner:
    """This process's user, or for root an unprivileged one. Raises LookupError where there is none."""
    if os.geteuid() != 0:
        me = pwd.getpwuid(os.geteuid())
        return Owner(me.pw_name, me.pw_uid, me.pw_gid)
    for name in _CANDIDATES:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Owner(user.pw_name, user.pw_uid, user.pw_gid)
    raise LookupError("PostgreSQL does not run as root: create a user for it (useradd --system fleetward)")


def traversable(path: Path, who: Owner) -> bool:
    """Whether `who` may pass through each directory above `path`."""
    return all(_may_enter(parent, who) for parent in path.resolve().parents)


def _may_enter(directory: Path, who: Owner) -> bool:
    found = directory.stat()
    if found.st_uid == who.uid:
        return bool(found.st_mode & 0o100)
    return bool(found.st_mode & (0o010 if found.st_gid == who.gid else 0o001))


def give(path: Path, who: Owner) -> None:
    """Make it theirs, where they are not us."""
    if who.other:
        os.chown(path, who.uid, who.gid)

"""Has somebody else changed an applied file? A stat every few seconds; contents are read only when the stat differs from the last time, or
was taken so soon after a change that another one might not show in it."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from broker.messages import Item
from edge_agent.appliers import Refusal, rooted
from edge_agent.appliers.ledger import Applied, AppliedFile, Ledger

KIND = "host-config"

Fingerprint = tuple[int, ...] | None

_CHANGED = 4
"""Where a fingerprint has the time of the last change, in nanoseconds."""
_TICK_S = 2.0
"""File systems tell times in ticks, of milliseconds mostly, of two seconds on FAT: a file that is changed twice within one at the same size
has one stat for both."""


@dataclass(slots=True)
class _Seen:
    """What was found out about one config: the entry it was for, the fingerprints of its files, and the item that came of it."""

    entry: Applied
    prints: dict[str, Fingerprint] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


class Watch:
    """Remembers what it has seen, so that an unchanged file costs a stat."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._last: tuple[Item, ...] | None = None

    def forget(self, id: str) -> None:
        """A command has touched this config: look properly next time."""
        self._seen.pop(id, None)

    def look(self, ledger: Ledger, roots: tuple[Path, ...]) -> tuple[Item, ...] | None:
        """The items of all configs, or None when they are what they were."""
        items = tuple(self._item(entry, ledger, roots) for entry in ledger.applied.values())
        self._seen = {id: seen for id, seen in self._seen.items() if id in ledger.applied}
        if items == self._last:
            return None
        self._last = items
        return items

    def _item(self, entry: Applied, ledger: Ledger, roots: tuple[Path, ...]) -> Item:
        if entry.dirty:
            return item_of(entry, "failed", "Internal", "the last change to it was not completed")
        seen = self._seen.get(entry.id)
        if seen is None or seen.entry is not entry:
            seen = self._seen[entry.id] = _Seen(entry)
        for file in entry.files:
            if ledger.owner(file.path) == entry.id:
                _check(file, seen, roots)
        problems = [seen.problems[path] for path in sorted(seen.problems)]
        if problems:
            return item_of(entry, "drifted", "Drifted", "; ".join(problems))
        if entry.due:
            return item_of(entry, "failed", "OnChangeFailed", "its on_change has not succeeded yet")
        return item_of(entry, "present")


def _check(file: AppliedFile, seen: _Seen, roots: tuple[Path, ...]) -> None:
    now = _fingerprint(file.path)
    if file.path in seen.prints and seen.prints[file.path] == now:
        return
    problem = _compare(file, roots)
    seen.prints.pop(file.path, None)
    if _tells(now):
        seen.prints[file.path] = now
    if problem:
        seen.problems[file.path] = f"{file.path} {problem}"
    else:
        seen.problems.pop(file.path, None)


def _compare(file: AppliedFile, roots: tuple[Path, ...]) -> str:
    """What is wrong with a file; empty when nothing is."""
    try:
        found = rooted.read(rooted.locate(file.path, roots))
    except Refusal as error:
        return f"is not as it was applied: {error}"
    except OSError as error:
        return f"can't be read: {error.strerror}"
    if found is None:
        return "is missing"
    if found.sha256 != file.sha256:
        return "has other content"
    if found.mode != file.mode:
        return f"has mode {found.mode:04o} instead of {file.mode:04o}"
    if (found.uid, found.gid) != (file.uid, file.gid):
        return "has another owner"
    return ""


def _fingerprint(path: str) -> Fingerprint:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_uid, found.st_gid


def _tells(found: Fingerprint) -> bool:
    """Whether any later change would make it another one."""
    return found is None or time.time() - found[_CHANGED] / 1e9 > _TICK_S


def item_of(entry: Applied, state: str, reason: str = "", message: str = "") -> Item:
    return Item(
        kind=KIND,
        id=entry.id,
        generation=entry.generation,
        state=state,
        digest=entry.digest,
        reason=reason,
        message=message[:300],
    )

"""What the config applier has done on this device, and what was there before: files below the state directory, each written atomically.

Separate from the journal on purpose: the journal may be lost and begun anew, but what a config replaced must still be restorable. There is
one record a config (`configs/`), and one a managed path (`originals/`) that says which config has it now and what it replaced.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edge_agent import atomic
from edge_agent.appliers.rooted import Found

log = logging.getLogger(__name__)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class AppliedFile:
    """A file as it was asked for; `uid` and `gid` as they were resolved."""

    path: str
    sha256: str
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Applied:
    """A config on this device. `dirty`: writing it began and has not ended. `due`: its on_change has still to run. `dropped`: paths of an
    earlier version that have still to be restored."""

    id: str
    config: str
    generation: int
    digest: str
    files: tuple[AppliedFile, ...] = ()
    dropped: tuple[str, ...] = ()
    on_change: Any = None
    dirty: bool = False
    due: bool = False


@dataclass(frozen=True, slots=True)
class Original:
    """What a managed path held before any config: a file (its content lies beside this record) or nothing. `made`: directories made for
    it, outermost first. `owner`: the config that has the path now."""

    path: str
    owner: str
    exists: bool
    mode: int = 0
    uid: int = 0
    gid: int = 0
    made: tuple[str, ...] = ()


class Ledger:
    """The records, in memory and on disk. Not thread-safe: the applier's lock guards it."""

    def __init__(self, state_dir: Path) -> None:
        """Reads what is there; a record that can't be read is left where it is, and logged."""
        self._configs = state_dir / "configs"
        self._originals = state_dir / "originals"
        self.applied: dict[str, Applied] = {}
        self.originals: dict[str, Original] = {}
        for entry in _records(self._configs, _applied):
            self.applied[entry.id] = entry
        for original in _records(self._originals, _original):
            self.originals[original.path] = original

    def put(self, entry: Applied) -> None:
        """Raises OSError."""
        if self.applied.get(entry.id) != entry:
            _store(self._configs / f"{_stem(entry.id)}.json", asdict(entry))
            self.applied[entry.id] = entry

    def drop(self, id: str) -> None:
        """Raises OSError."""
        if id in self.applied:
            (self._configs / f"{_stem(id)}.json").unlink(missing_ok=True)
            atomic.sync_directory(self._configs)
            del self.applied[id]

    def claim(self, path: str, id: str, found: Found | None, made: tuple[str, ...]) -> None:
        """Remember what a path holds before it is first written; one that a config has already only changes hands. Raises OSError."""
        known = self.originals.get(path)
        if known is not None:
            self._put_original(replace(known, owner=id))
        elif found is None:
            self._put_original(Original(path, id, exists=False, made=made))
        else:
            self._originals.mkdir(mode=0o700, exist_ok=True)
            atomic.write(self._data(path), found.content)
            self._put_original(Original(path, id, True, found.mode, found.uid, found.gid, made))

    def original(self, path: str) -> tuple[Original, bytes] | None:
        """What a path held before, with its content. Raises OSError."""
        known = self.originals.get(path)
        if known is None:
            return None
        return known, self._data(path).read_bytes() if known.exists else b""

    def forget(self, path: str) -> None:
        """The path is as it was before: nobody has it any more. Raises OSError."""
        if path in self.originals:
            (self._originals / f"{_stem(path)}.json").unlink(missing_ok=True)
            self._data(path).unlink(missing_ok=True)
            atomic.sync_directory(self._originals)
            del self.originals[path]

    def owner(self, path: str) -> str | None:
        known = self.originals.get(path)
        return None if known is None else known.owner

    def _put_original(self, original: Original) -> None:
        if self.originals.get(original.path) != original:
            _store(self._originals / f"{_stem(original.path)}.json", asdict(original))
            self.originals[original.path] = original

    def _data(self, path: str) -> Path:
        return self._originals / f"{_stem(path)}.data"


def _stem(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _store(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic.write(path, json.dumps(values, ensure_ascii=False, indent=1).encode())


def _applied(values: dict[str, Any]) -> Applied:
    files = tuple(AppliedFile(**file) for file in values["files"])
    return Applied(**{**values, "files": files, "dropped": tuple(values["dropped"])})


def _original(values: dict[str, Any]) -> Original:
    return Original(**{**values, "made": tuple(values["made"])})


def _records(folder: Path, parse: Callable[[dict[str, Any]], R]) -> list[R]:
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(parse(json.loads(path.read_bytes())))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("record can't be read and is left out", extra={"path": str(path), "error": str(error)})
    return found

"""What `apply` has applied from this machine, so that `--prune` can tell what a file has ceased to mention from what others have made.

One small JSON file in the user's state directory, keyed by server and places. Deliberately no label on the resources: labels are the
owner's, are inherited, and selectors see them.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


def _directory() -> Path:
    """XDG Base Directory Specification, `$XDG_STATE_HOME`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "fleetward" / "applied"


@dataclass(slots=True)
class Memory:
    """The (collection, name) pairs that applies of one set of places have named; kept as soon as they are known."""

    path: Path
    existed: bool
    _entries: dict[tuple[str, str], None] = field(default_factory=dict)

    @classmethod
    def of(cls, server: str, places: tuple[str, ...]) -> Self:
        key = json.dumps([server, sorted(place if place == "-" else str(Path(place).resolve()) for place in places)])
        path = _directory() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        try:
            entries = {(str(collection), str(name)): None for collection, name in json.loads(path.read_text())}
        except (OSError, ValueError, TypeError):
            return cls(path, False)
        return cls(path, True, entries)

    def entries(self) -> list[tuple[str, str]]:
        return list(self._entries)

    def add(self, collection: str, name: str) -> None:
        if (collection, name) not in self._entries:
            self._entries[collection, name] = None
            self._keep()

    def forget(self, collection: str, name: str) -> None:
        self._entries.pop((collection, name), None)
        self._keep()

    def _keep(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(list(self._entries)))
        partial.replace(self.path)

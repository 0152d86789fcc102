"""The maintenance lock of a running agent: `maintenance` in `agent.toml`, as it stands on disk now.

All other settings count from the agent's start. A lock has to count at once, because whoever sets it is about to put a hand into the
machine; so `runtime` looks before each decision, at the price of a stat, and reads the file only when that has changed. A file that can't
be used locks: its owner was about to say something.
"""

import logging
from dataclasses import replace
from pathlib import Path

from edge_agent import settings
from edge_agent.policy import Policy
from edge_agent.settings import Settings, SettingsError

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None


class Lock:
    """`policy`: what the owner allows, the lock as it was at the last look."""

    def __init__(self, path: Path, started_with: Settings) -> None:
        self._path = path
        self._stamp: Stamp = None
        self.policy = settings.policy(started_with)
        self.look()

    def look(self) -> Policy | None:
        """The policy, where the lock has changed since the last look."""
        stamp = self._stat()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        before, self.policy = self.policy, replace(self.policy, maintenance=self._reason())
        return self.policy if self.policy != before else None

    def _stat(self) -> Stamp:
        try:
            found = self._path.stat()
        except OSError:
            return None  # no file, no lock; one that can't be reached is said by the next start
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _reason(self) -> str:
        try:
            return settings.load(self._path).maintenance
        except SettingsError as error:
            log.warning("settings can't be used, so nothing is run", extra={"error": str(error)})
            return f"agent.toml can't be used ({error})"[: settings.MAX_REASON]

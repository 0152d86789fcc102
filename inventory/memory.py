"""What ingest remembers between batches: what it did recently, which sections are stored, whom to ask for sections again.

Memory only, bounded, and never the truth: losing any of it costs a query or a repeated message. Called by `inventory.ingest`.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from inventory.db import SQL, Connection
from inventory.facts import missing

ASKS = 5
"""So often a device is asked for the same sections; then not until it says again what it has."""
RESYNCS_A_SECOND = 50
"""Devices asked to send sections again, a second: each answer may be the whole of its facts (design.md section 4)."""

SETTLE_S = 5.0
"""How long a section may be missing before it is asked for, in seconds: it may be in the device's next message."""

ASK_AGAIN_S = 60.0
"""A device that does not send what it was asked for is asked again after so many seconds."""


class Recently:
    """Whether something is the first of its kind within `seconds`. Remembers at most `limit`, by forgetting all."""

    def __init__(self, seconds: float, limit: int = 100_000) -> None:
        self._seconds, self._limit = seconds, limit
        self._at: dict[Hashable, float] = {}

    def first(self, what: Hashable, now: float) -> bool:
        """True, and remembered, where it did not happen in the last `seconds`."""
        if not self.is_due(what, now):
            return False
        self.mark(what, now)
        return True

    def is_due(self, what: Hashable, now: float) -> bool:
        """Whether it did not happen in the last `seconds`."""
        at = self._at.get(what)
        return at is None or now - at >= self._seconds

    def mark(self, what: Hashable, now: float) -> None:
        """It has happened."""
        if len(self._at) >= self._limit:
            self._at.clear()
        self._at[what] = now

    def forget(self, what: Hashable) -> None:
        self._at.pop(what, None)


class Known:
    """The hashes of the sections stored of each host, read once."""

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._of: dict[str, dict[str, str]] = {}

    async def of(self, connection: Connection, hosts: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Of these hosts, read where they are not known yet."""
        wanted = [host for host in hosts if host not in self._of]
        found: dict[str, dict[str, str]] = {host: {} for host in wanted}
        if wanted:
            for row in await connection.fetch(SQL["known_sections"], wanted):
                found[row["host"]][row["section"]] = row["hash"]
        return {host: self._of[host] if host in self._of else found[host] for host in hosts}

    def keep(self, host: str, hashes: Mapping[str, str]) -> None:
        """These are committed."""
        if len(self._of) >= self._limit and host not in self._of:
            self._of.clear()
        self._of[host] = {**self._of.get(host, {}), **hashes}

    def learn(self, found: Mapping[str, Mapping[str, str]]) -> None:
        """What `of` has read, once its transaction has committed."""
        for host, hashes in found.items():
            if host not in self._of:
                self.keep(host, hashes)

    def get(self, host: str) -> Mapping[str, str]:
        return self._of.get(host, {})

    def forget(self) -> None:
        """Another replica may have written meanwhile."""
        self._of.clear()


@dataclass(slots=True)
class _Lacking:
    due: float
    manifest: Mapping[str, str]
    asked: int = 0


class Resyncs:
    """Whom to ask for which sections, and when: paced, and no oftener than it helps."""

    def __init__(self) -> None:
        self._lacking: dict[str, _Lacking] = {}
        self._asked: dict[str, float] = {}

    def note(self, host: str, manifest: Mapping[str, str], known: Mapping[str, str], now: float) -> None:
        """A device said what it has."""
        if not missing(manifest, known):
            self._lacking.pop(host, None)
            self._asked.pop(host, None)
        elif host in self._lacking:
            self._lacking[host].manifest = manifest
        else:
            self._lacking[host] = _Lacking(max(now + SETTLE_S, self._asked.get(host, -ASK_AGAIN_S) + ASK_AGAIN_S), manifest)

    def due(self, known: Known, now: float, limit: int = RESYNCS_A_SECOND) -> list[tuple[str, tuple[str, ...]]]:
        """At most `limit` devices to ask now, the longest waiting first, with the sections. Each again after a while, some times: a
        question may be lost, or was for a session that has ended."""
        ready = sorted((lacking.due, host) for host, lacking in self._lacking.items() if lacking.due <= now)
        asked = []
        for _, host in ready[:limit]:
            lacking = self._lacking[host]
            sections = missing(lacking.manifest, known.get(host))
            lacking.due, lacking.asked = now + ASK_AGAIN_S, lacking.asked + 1
            if not sections or lacking.asked == ASKS:
                del self._lacking[host]
            if sections:
                self._asked[host] = now
                asked.append((host, sections))
        return asked

    def forget(self) -> None:
        self._lacking.clear()
        self._asked.clear()

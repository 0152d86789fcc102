"""What a run of chaos did and saw, as plain values: what was asked and answered, what was done to the installation, what was left.

The driver writes it, `checks` reads it and nothing else, so that every checker can be tried with a history made by hand. Times (`at`) are
seconds of the driver's monotonic clock since the start: no clock of the installation is trusted, since nemeses turn those.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Outcome(StrEnum):
    """Of a request: a 2xx, a refusal that changed nothing, or no answer (it may have been done or not)."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Intent:
    """Somebody asked that a config's file hold `content`, which is different each time. `version`: that of the 2xx."""

    at: float
    config: str
    content: str
    outcome: Outcome
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """A disk was plugged in at a device, which is up and may be cut off."""

    at: float
    host: str
    key: str


@dataclass(frozen=True, slots=True)
class Round:
    """One nemesis: from injecting to healed to converged (None: not in time). `may_cut`: hosts that it keeps from the broker, so that they
    may be shown offline; `must_cut`: hosts that have to be, and within how many seconds. `demands`: what it wanted to see and did not."""

    nemesis: str
    began: float
    healed: float
    converged: float | None
    may_cut: frozenset[str] = frozenset()
    must_cut: Mapping[str, float] = field(default_factory=dict)
    demands: tuple[str, ...] = ()
    lacking: str = ""
    """What was not as it should be when time was up."""
    calm_s: float = float("inf")
    """How long converging took without the time in which this machine had no CPU to spare (`tests.waiting`)."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The log's last position at a time."""

    at: float
    position: int


@dataclass(frozen=True, slots=True)
class Event:
    """A change as a reader of the API got it, in the order in which it did."""

    position: int
    id: str
    op: str
    version: int


@dataclass(frozen=True, slots=True)
class Row(Event):
    """A row of the change log as it stands in the database; texts as Postgres writes them. `good`: its hash follows from the row before.
    `published`: its kind is shown to readers at all."""

    kind: str
    resource: Json | None
    good: bool
    published: bool = True

    @property
    def event(self) -> Event:
        """What a reader gets of it."""
        return Event(self.position, self.id, self.op, self.version)


@dataclass(frozen=True, slots=True)
class Ended:
    """A command at the end. `late`: the state that the device told of after the command had ended."""

    id: str
    host: str
    verb: str
    state: str
    late: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """A line of a device's ledger: the test-only verb began, or ended."""

    host: str
    command: str
    phase: str


@dataclass(slots=True)
class History:
    """All of it. `files`: by device, what its disk holds of each config that is for it; `wanted`: what each config says."""

    intents: list[Intent] = field(default_factory=list)
    discoveries: list[Discovery] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    commands: list[Ended] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    components: set[tuple[str, str]] = field(default_factory=set)
    """(host, key) of what Inventory shows as present."""
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    wanted: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """As JSON, for whoever looks into a failure."""
        path.write_text(json.dumps(asdict(self), default=_plain, indent=1), encoding="utf-8")


def _plain(value: object) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} does not belong into a history")

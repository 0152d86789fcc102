"""Whether what a soak has measured is flat after its first quarter of an hour. Pure: samples in, findings out.

A series is flat when its growth over the rest of the run, by the median slope between all its points (Theil-Sen: a few spikes move
nothing), stays within a stated share of its median, or within a floor for what is small. What is meant to grow (history) is named here,
with how much a change of the log may add to it. Source of the slope: Sen, "Estimates of the Regression Coefficient Based on Kendall's
Tau", 1968.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.soak.sample import Sample
from broker.heap import EVERY_S

WARMING_S = 900.0
"""Caches fill, pools open, the database's tables find their working size."""
MOST_POINTS = 240
"""A series is thinned to so many: the slopes between all pairs are their square."""

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Growth over the judged part of the run that still is flat: `share` of the median, or `floor` in the measure's own unit."""

    share: float
    floor: float
    why: str


@dataclass(frozen=True, slots=True)
class Meant:
    """A table that keeps history: how many rows, and bytes with its indexes, each position of the change log may add to it, beside what
    any series may grow by: rows are estimates here, too."""

    rows: float
    size: float
    why: str


TOLERANCES: Mapping[str, Tolerance] = {
    "pss_mib": Tolerance(0.05, 4, "fragmentation of the allocator: what two hours can't tell from a leak"),
    "fds": Tolerance(0.05, 4, "sockets of clients that happen to be connected"),
    "threads": Tolerance(0, 1, "pools have opened their threads by then"),
    "processes": Tolerance(0, 2, "Postgres starts workers for autovacuum"),
    "tasks": Tolerance(0.05, 6, "requests and connections that happen to be there"),
    "blocks": Tolerance(0.05, 20_000, "objects of requests in flight, caches with their bounds"),
    "connections": Tolerance(0.1, 3, "pools breathe"),
    "size_mib": Tolerance(0.1, 2, "free space in pages, until vacuum finds it"),
    "indexes_mib": Tolerance(0.1, 2, "pages of an index split and are merged seldom"),
    "rows": Tolerance(0.05, 100, "rows that come and go; the statistics are estimates"),
    "dead": Tolerance(0.25, 2_000, "a saw's teeth: autovacuum starts at 50 and a fifth of the rows"),
    "wal_kept_mib": Tolerance(0.25, 128, "between checkpoints, up to max_wal_size"),
}

CHANGES = Meant(1.0, 4096, "the change log, kept for 90 days")
HISTORY: Mapping[str, Meant] = {
    "command": Meant(0.5, 2048, "each command is kept, and makes two changes"),
    "notification": Meant(0.5, 1024, "what people were told"),
    "component": Meant(0.5, 1024, "those that vanished stay, with when"),
    "device_log": Meant(0.5, 1024, "what devices logged, kept for 30 days"),
    "idempotency": Meant(0.5, 2048, "answers to POSTs, kept for 24 hours"),
    "poison": Meant(0.1, 2048, "messages set aside"),
    "sessions": Meant(0.1, 512, "sign-ins, until they end"),
}
JOURNALS = Meant(0, 160, "journals of simulated devices are in memory: 840 bytes a finished command, 256 of them a device at most")
"""The simulator's memory: six positions of the log come with one command at a device."""
UNJUDGED = frozenset({"rss_mib", "cpu_s", "started", "position", "database_mib", "wal_written_mib"})
"""rss counts shared pages again for each process; the others only ever rise, and the report shows what they cost."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Of one series: its median, its growth over the judged part, and how much was allowed."""

    subject: str
    measure: str
    median: float
    growth: float
    allowed: float
    why: str

    @property
    def flat(self) -> bool:
        return self.growth <= self.allowed


def judge(samples: Iterable[Sample], warming_s: float = WARMING_S) -> list[Finding]:
    """A finding for every series that is judged. Raises ValueError where too little is left after warming up."""
    by_series: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        if sample.at >= warming_s:
            by_series[sample.subject, sample.measure].append((sample.at, sample.value))
    positions = by_series.get(("database", "position"), [])
    if len(positions) < 4:
        raise ValueError(f"only {len(positions)} samples after the first {warming_s:.0f} s: run it for longer")
    changes = positions[-1][1] - positions[0][1]
    return [_finding(*key, series, changes) for key, series in sorted(by_series.items()) if key[1] not in UNJUDGED and len(series) > 3]


def restarted(samples: Iterable[Sample]) -> list[str]:
    """Processes that were not the same at the end as at the beginning: their curves say nothing, and they should not have died."""
    starts: dict[str, set[float]] = defaultdict(set)
    for sample in samples:
        if sample.measure == "started":
            starts[sample.subject].add(sample.value)
    return sorted(role for role, seen in starts.items() if len(seen) > 1)


def _finding(subject: str, measure: str, series: Series, changes: float) -> Finding:
    if measure == "pss_mib":
        series = _kept(series)
    median = statistics.median(value for _, value in series)
    growth = slope(series) * (series[-1][0] - series[0][0])
    tolerance = TOLERANCES[measure]
    flat = max(tolerance.share * abs(median), tolerance.floor)
    meant = _meant(subject, measure)
    if meant is not None:
        allowed = changes * (meant.rows if measure == "rows" else meant.size / 2**20)
        return Finding(subject, measure, median, growth, flat + allowed, meant.why)
    return Finding(subject, measure, median, growth, flat, tolerance.why)


def _kept(series: Series) -> Series:
    """The least of each time between two trims (`broker.heap`): until the next one, what is freed stays with its process."""
    between = groupby(series, key=lambda point: point[0] // EVERY_S)
    return [min(points, key=lambda point: point[1]) for _, points in between]


def _meant(subject: str, measure: str) -> Meant | None:
    if (subject, measure) == ("simulator", "pss_mib"):
        return JOURNALS
    if measure not in ("rows", "size_mib", "indexes_mib"):
        return None
    table = subject.removeprefix("table:")
    partition = table.removeprefix("changes_").isdigit() and table.startswith("changes_")
    return CHANGES if partition else HISTORY.get(table)


def slope(series: Series) -> float:
    """The median of the slopes between all pairs of points, a second."""
    step = max(1, len(series) // MOST_POINTS)
    thinned = series[::step]
    slopes = [(b - a) / (t - s) for i, (s, a) in enumerate(thinned) for t, b in thinned[i + 1 :] if t > s]
    return statistics.median(slopes) if slopes else 0.0

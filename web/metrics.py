"""What this process counts, and the Prometheus text it is shown as.

Counters and one histogram, by hand: the text format is a page long, and a client library would be a dependency for that page. Numbers of
the whole installation come from the database at each scrape (`inventory_gauges`). Pure.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the request durations, in seconds."""

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Metrics:
    """Requests by route, method and status class; durations by route. Routes, not paths: a path has no bound."""

    requests: Counter[Labels] = field(default_factory=Counter)
    durations: dict[Labels, Histogram] = field(default_factory=dict)
    sign_ins_failed: int = 0

    def request(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """A request was answered. `seconds` is None for one that has no end, as a stream."""
        self.requests[(("route", route), ("method", method), ("status", str(status)))] += 1
        if seconds is not None:
            self.durations.setdefault((("route", route),), Histogram()).observe(seconds)


def render(metrics: Metrics, gauges: Mapping[str, tuple[str, Mapping[Labels, float]]]) -> str:
    """The text of a scrape. gauges: name → (help, values by labels)."""
    lines: list[str] = []
    lines += _family("fleetward_http_requests_total", "counter", "Requests answered.", metrics.requests.items())
    lines += _histograms("fleetward_http_request_seconds", "Time from request to response head, in seconds.", metrics.durations)
    lines += _family("fleetward_sign_ins_failed_total", "counter", "Sign-ins refused.", [((), metrics.sign_ins_failed)])
    for name, (doc, values) in gauges.items():
        lines += _family(name, "gauge", doc, values.items())
    return "\n".join(lines) + "\n"


def _family(name: str, type: str, doc: str, values: Iterable[tuple[Labels, float]]) -> list[str]:
    return [f"# HELP {name} {doc}", f"# TYPE {name} {type}", *(f"{name}{_labels(labels)} {value}" for labels, value in values)]


def _histograms(name: str, doc: str, by_labels: Mapping[Labels, Histogram]) -> list[str]:
    lines = [f"# HELP {name} {doc}", f"# TYPE {name} histogram"]
    for labels, histogram in by_labels.items():
        seen = 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), histogram.counts, strict=True):
            seen += count
            lines.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {seen}")
        lines += [f"{name}_sum{_labels(labels)} {histogram.total:.6f}", f"{name}_count{_labels(labels)} {seen}"]
    return lines


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

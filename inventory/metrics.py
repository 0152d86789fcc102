"""What the processes count, under which names, and the Prometheus text it is shown as.

`FAMILIES` is the one list of metrics: docs/operating.md repeats it, and a test compares. Each process has one `METER`; what it counts is
published to the database once in a while (`inventory.telemetry`), so that a scrape of any web process shows all processes. By hand: the
text format is a page long, and a client library's registry can't show another process's numbers. Pure; a label never names a device, so
that the number of series does not grow with the fleet.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of durations, in seconds."""

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric. `labels`: the names of its labels, in order, beside `process`, which those have that a process counts."""

    name: str
    type: str
    doc: str
    labels: tuple[str, ...] = ()


# --- counted by each process ------------------------------------------------------------------------------------------------------

INGESTED = Family("fleetward_ingest_messages_total", COUNTER, "Messages of devices, by what became of them.", ("outcome",))
REFUSED = Family("fleetward_ingest_refused_total", COUNTER, "Messages of devices dropped unread, by reason.", ("reason",))
DEVICES_REFUSED = Family(
    "fleetward_device_refused_total", COUNTER, "Messages in the server's name that devices refused, as they report, by reason.", ("reason",)
)
INGEST_SECONDS = Family("fleetward_ingest_batch_seconds", HISTOGRAM, "Time that a batch of messages takes to be committed.")
INGEST_LAG = Family("fleetward_ingest_lag_seconds", GAUGE, "Age of the oldest message being written; 0 where there is none.")
INBOX = Family("fleetward_inbox_messages", GAUGE, "Messages read from the broker and not yet taken.")
SHARDS = Family("fleetward_shards_held", GAUGE, "Shards of the fleet that this process reads; the sum should be 256.")
INTENTS = Family(
    "fleetward_intents_total",
    COUNTER,
    "Intents over MQTT, by the status of the reply; 429: beyond the share of an integration.",
    ("status",),
)
RELAYED = Family("fleetward_relayed_changes_total", COUNTER, "Changes that got their position.")
CONNECTED = Family("fleetward_broker_connected", GAUGE, "Whether the process has a connection to the broker.")
CONNECTIONS = Family("fleetward_broker_connections_total", COUNTER, "Connections to the broker that began.")
RETRIES = Family("fleetward_database_retries_total", COUNTER, "Transactions done again, by reason: deadlock or away.", ("reason",))
WAITED = Family("fleetward_work_wait_seconds", HISTOGRAM, "From a key being due to a manager taking it.", ("queue",))
RECONCILED = Family("fleetward_reconcile_seconds", HISTOGRAM, "From a key being taken to its outcome being committed.", ("queue",))
OUTCOMES = Family(
    "fleetward_reconciles_total", COUNTER, "Reconciles, by what became of the key: done, waits, retries, halts.", ("queue", "outcome")
)
SENT = Family("fleetward_commands_sent_total", COUNTER, "Commands signed and sent, repetitions included.")
ENDED = Family("fleetward_commands_ended_total", COUNTER, "Commands that ended, by their final state.", ("state",))
REQUESTS = Family("fleetward_http_requests_total", COUNTER, "Requests answered.", ("route", "method", "status"))
REQUEST_SECONDS = Family("fleetward_http_request_seconds", HISTOGRAM, "Time from request to response head.", ("route",))
REQUESTS_WAITING = Family("fleetward_http_requests_waiting", GAUGE, "Requests that wait for their client's turn.")
REQUESTS_REFUSED = Family("fleetward_http_requests_refused_total", COUNTER, "Requests refused because their client had too many waiting.")
SIGN_INS_FAILED = Family("fleetward_sign_ins_failed_total", COUNTER, "Sign-ins refused.")
FOLLOWERS = Family("fleetward_stream_followers", GAUGE, "Open event streams.")
CUT = Family("fleetward_stream_cut_total", COUNTER, "Event streams cut because they were read too slowly.")
AUDIT_BROKEN = Family("fleetward_audit_broken", GAUGE, "Whether the change log was rewritten: `fleetward audit verify` says where.")
SEEN = Family("fleetward_process_seen_seconds", GAUGE, "How long ago the process last published its numbers.")

# --- of the whole installation ----------------------------------------------------------------------------------------------------

DATABASE_UP = Family("fleetward_database_up", GAUGE, "Whether the database answers.")
DATABASE_BYTES = Family("fleetward_database_bytes", GAUGE, "Size of the database on disk.")
DATABASE_CLOCK = Family("fleetward_database_clock_skew_seconds", GAUGE, "The web process's clock minus the database's.")
POSITION = Family("fleetward_change_position", GAUGE, "The last position of the change log.")
WAITING = Family("fleetward_changes_waiting", GAUGE, "Committed changes without a position yet.")
RELAY_LAG = Family("fleetward_relay_lag_seconds", GAUGE, "How long the oldest of them has waited.")
READER_LAG = Family("fleetward_reader_lag_changes", GAUGE, "Changes that a reader has still to read: managers, mqtt.", ("reader",))
WORK = Family("fleetward_work", GAUGE, "Keys of a manager's queue: due, later, waiting, running, halted.", ("queue", "state"))
WORK_LAG = Family("fleetward_work_lag_seconds", GAUGE, "How long the key that is due longest has waited.", ("queue",))
COMMANDS = Family("fleetward_commands", GAUGE, "Commands that have not ended, by state.", ("state",))
POISON = Family("fleetward_poison_messages", GAUGE, "Device messages set aside, kept to be looked at.")
HOSTS = Family("fleetward_hosts", GAUGE, "Hosts by presence.", ("presence",))
AGENTS = Family("fleetward_agents", GAUGE, "Hosts that have been heard, by their agent's version.", ("version",))
CERTIFICATES = Family("fleetward_certificate_expires_seconds", GAUGE, "Time until a certificate ends.", ("certificate",))

FAMILIES = (
    *(
        INGESTED,
        REFUSED,
        DEVICES_REFUSED,
        INGEST_SECONDS,
        INGEST_LAG,
        INBOX,
        SHARDS,
        INTENTS,
        RELAYED,
        CONNECTED,
        CONNECTIONS,
        RETRIES,
        WAITED,
        RECONCILED,
    ),
    *(OUTCOMES, SENT, ENDED, REQUESTS, REQUEST_SECONDS, REQUESTS_WAITING, REQUESTS_REFUSED, SIGN_INS_FAILED, FOLLOWERS, CUT),
    AUDIT_BROKEN,
    SEEN,
    *(
        DATABASE_UP,
        DATABASE_BYTES,
        DATABASE_CLOCK,
        POSITION,
        WAITING,
        RELAY_LAG,
        READER_LAG,
        WORK,
        WORK_LAG,
        COMMANDS,
        POISON,
        HOSTS,
        AGENTS,
    ),
    CERTIFICATES,
)
BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}
if len(BY_NAME) < len(FAMILIES):
    raise ValueError("a metric is there twice")

Values = tuple[str, ...]
"""Of the labels, in their order."""
Sample = tuple[Values, float | list[float]]
"""Labels' values, and the value; of a histogram its buckets' counts and, last, the sum."""
Samples = Mapping[str, Sequence[Sample]]
"""By family name."""


@dataclass(slots=True)
class Meter:
    """The numbers of one process since it began."""

    _values: dict[str, dict[Values, float]] = field(default_factory=dict)
    _histograms: dict[str, dict[Values, list[float]]] = field(default_factory=dict)

    def count(self, family: Family, *labels: str, n: float = 1) -> None:
        """Something happened, `n` times."""
        values = self._values.setdefault(family.name, {})
        values[labels] = values.get(labels, 0) + n

    def set(self, family: Family, value: float, *labels: str) -> None:
        self._values.setdefault(family.name, {})[labels] = value

    def observe(self, family: Family, seconds: float, *labels: str, n: int = 1) -> None:
        """Something took so long, `n` times."""
        histograms = self._histograms.setdefault(family.name, {})
        if labels not in histograms:
            histograms[labels] = [0.0] * (len(BUCKETS_S) + 2)
        histograms[labels][bisect_left(BUCKETS_S, seconds)] += n
        histograms[labels][-1] += seconds * n

    def value(self, family: Family, *labels: str) -> float:
        """What a counter or gauge stands at; of a histogram how often something was observed."""
        if family.type == HISTOGRAM:
            return sum(self._histograms.get(family.name, {}).get(labels, [0.0])[:-1])
        return self._values.get(family.name, {}).get(labels, 0)

    def samples(self) -> Samples:
        """All of it, as JSON can hold it."""
        found: dict[str, list[Sample]] = {name: list(values.items()) for name, values in self._values.items()}
        for name, histograms in self._histograms.items():
            found[name] = [(labels, list(counts)) for labels, counts in histograms.items()]
        return found


METER = Meter()
"""This process's."""


def render(own: Samples, processes: Mapping[str, Samples]) -> str:
    """The text of a scrape. own: the installation's; processes: by name, whose samples get the label `process`. What no family is known of
    (another release's) is left out."""
    lines: list[str] = []
    for family in FAMILIES:
        rows = [(_pairs(family, labels), value) for labels, value in own.get(family.name, ())]
        for process, samples in sorted(processes.items()):
            rows += [((("process", process), *_pairs(family, labels)), value) for labels, value in samples.get(family.name, ())]
        if rows:
            lines += [f"# HELP {family.name} {family.doc}", f"# TYPE {family.name} {family.type}"]
            lines += [line for labels, value in rows for line in _sample(family, labels, value)]
    return "\n".join(lines) + "\n"


Pairs = tuple[tuple[str, str], ...]


def _pairs(family: Family, values: Iterable[Any]) -> Pairs:
    return tuple(zip(family.labels, map(str, values), strict=True))


def _sample(family: Family, labels: Pairs, value: float | Sequence[float]) -> list[str]:
    if isinstance(value, int | float):
        return [f"{family.name}{_labels(labels)} {_number(value)}"]
    *counts, total = value
    lines, seen = [], 0.0
    for bound, n in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
        seen += n
        lines.append(f"{family.name}_bucket{_labels((*labels, ('le', bound)))} {_number(seen)}")
    return [*lines, f"{family.name}_sum{_labels(labels)} {total:.6f}", f"{family.name}_count{_labels(labels)} {_number(seen)}"]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"


def _labels(labels: Pairs) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""What `fleetward doctor` makes of a server's readiness and numbers: findings, each with what to do where something is to be done. Pure.

The thresholds are those of docs/operating.md. Called by `fleetward.cli.doctor`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

RELAY_S = 5.0
WORK_S = 60.0
INGEST_S = 5.0
SKEW_S = 5.0
"""Clocks that differ by more make times in lists and logs misleading; certificates and commands stand a day."""
EXPIRES_S = 29 * 86400.0
"""Inventory renews a certificate with a day more left than this."""
SEEN_S = 20.0
"""A process publishes every 5 s."""

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` is empty where all is well."""

    about: str
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    value: float


Numbers = Mapping[str, Sequence[Sample]]


def parse(text: str) -> Numbers:
    """The samples of a Prometheus text by name."""
    found: dict[str, list[Sample]] = {}
    for name, labels, value in _SAMPLE.findall(text):
        found.setdefault(name, []).append(Sample(dict(_LABEL.findall(labels)), float(value)))
    return found


def readiness(checks: Mapping[str, str]) -> Iterator[Finding]:
    for name, words in checks.items():
        yield Finding(name, "ok") if words == "ok" else Finding(name, words, _AFTER.get(name, "look at its log"))


_AFTER = {
    "database": "start the database, or check --database of the services",
    "migrations": "run `fleetward migrate`",
    "relay": "start an inventory process, or read its log",
    "stream": "read the log of the web process",
}


def clock(theirs: datetime | None, ours: datetime) -> Iterator[Finding]:
    """Of this machine against the server's, which answers in whole seconds."""
    if theirs is None:
        return
    skew = ours - theirs
    bad = abs(skew) > timedelta(seconds=SKEW_S)
    yield Finding(
        "clock", f"{skew.total_seconds():+.0f} s from the server's", "set this machine's clock (timedatectl set-ntp true)" if bad else ""
    )


def numbers(n: Numbers, release: str) -> Iterator[Finding]:
    """Everything that the metrics tell."""
    yield from _processes(n)
    yield _most(n, "fleetward_relay_lag_seconds", "relay lag", RELAY_S, "is an inventory process running? its log says what it waits for")
    yield _most(n, "fleetward_work_lag_seconds", "reconciles late by", WORK_S, "start more managers, or read their log", "queue")
    yield _most(
        n,
        "fleetward_ingest_lag_seconds",
        "ingest lag",
        INGEST_S,
        "start another inventory process, or look at the database's disk",
        "process",
    )
    skew = max((abs(s.value) for s in n.get("fleetward_database_clock_skew_seconds", ())), default=0.0)
    yield Finding("database's clock", f"{skew:.1f} s from the web process's", "set the clocks of both machines" if skew > SKEW_S else "")
    yield from _certificates(n)
    yield from _agents(n, release)
    halted = sum(s.value for s in n.get("fleetward_work", ()) if s.labels.get("state") == "halted")
    yield Finding("halted", f"{halted:.0f}", "see why: fleetward get host-configs --filter 'status.halted = true'" if halted else "")
    poison = sum(s.value for s in n.get("fleetward_poison_messages", ()))
    yield Finding(
        "messages set aside",
        f"{poison:.0f}",
        "an agent sends what can't be read: update it; the table `poison` has the rest" if poison else "",
    )


def _processes(n: Numbers) -> Iterator[Finding]:
    seen = {s.labels["process"]: s.value for s in n.get("fleetward_process_seen_seconds", ())}
    for role in ("inventory", "managers"):
        there = [name for name in seen if name.startswith(role + "@")]
        if not there:
            yield Finding(role, "no process publishes its numbers", f"start `fleetward {role}`")
        for name in there:
            late = seen[name] > SEEN_S
            yield Finding(name, f"heard {seen[name]:.0f} s ago", "it hangs or has just ended: read its log" if late else "")
    for s in n.get("fleetward_broker_connected", ()):
        lost = s.value == 0
        name = s.labels.get("process", "?")
        yield Finding(
            f"broker of {name}",
            "not connected" if lost else "connected",
            "start the broker, or look at the certificate and the log of that process" if lost else "",
        )


def _most(n: Numbers, metric: str, about: str, limit: float, advice: str, label: str = "") -> Finding:
    worst = max(n.get(metric, ()), key=lambda s: s.value, default=Sample({}, 0.0))
    where = f" ({worst.labels[label]})" if label in worst.labels and worst.value > 0 else ""
    return Finding(about, f"{worst.value:.1f} s{where}", advice if worst.value > limit else "")


def _certificates(n: Numbers) -> Iterator[Finding]:
    for s in sorted(n.get("fleetward_certificate_expires_seconds", ()), key=lambda s: s.value):
        days = s.value / 86400
        soon = s.value < EXPIRES_S
        if soon:
            text = f"ends in {days:.0f} days" if days > 0 else "has ended, or can't be read"
            yield Finding(
                f"certificate {s.labels['certificate']}",
                text,
                "Inventory should have renewed it: read its log; or run `fleetward certificate create`",
            )
        else:
            yield Finding("certificates", f"the first to end is {s.labels['certificate']}, in {days:.0f} days")
            return


def _agents(n: Numbers, release: str) -> Iterator[Finding]:
    """One minor release older or newer works."""
    for s in n.get("fleetward_agents", ()):
        version = s.labels["version"]
        fits = _minor(version) is not None and _near(_minor(version), _minor(release))
        advice = f"update them: fleetward get hosts --filter 'agent_version = \"{version}\"'" if not fits else ""
        yield Finding(f"agents of {version or 'an unknown version'}", f"{s.value:.0f}", advice)


def _minor(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _near(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    return one is not None and other is not None and one[0] == other[0] and abs(one[1] - other[1]) <= 1

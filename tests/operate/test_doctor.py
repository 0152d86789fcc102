"""What doctor says of a server: all well, and each thing that can be wrong with what to do about it."""

from datetime import UTC, datetime, timedelta

from fleetward.cli import checkup
from fleetward.cli.checkup import Finding, parse
from inventory import metrics
from inventory.metrics import Meter, render

DAY = 86400.0


def text(**changes: float) -> str:
    """The numbers of a healthy installation, some of them changed."""
    values = {
        "relay": 0.1,
        "work": 3.0,
        "ingest": 0.0,
        "skew": 0.01,
        "seen": 2.0,
        "connected": 1.0,
        "certificate": 300 * DAY,
        "halted": 0.0,
        "poison": 0.0,
    } | changes
    extra: list[metrics.Sample] = [(("0.3.0",), 1.0)] if "old" in changes else []
    own: dict[str, list[metrics.Sample]] = {
        metrics.RELAY_LAG.name: [((), values["relay"])],
        metrics.WORK_LAG.name: [(("placement",), values["work"])],
        metrics.DATABASE_CLOCK.name: [((), values["skew"])],
        metrics.CERTIFICATES.name: [(("ca",), 6000 * DAY), (("broker",), values["certificate"])],
        metrics.AGENTS.name: [(("0.1.0",), 3.0), *extra],
        metrics.WORK.name: [(("host-config", "halted"), values["halted"])],
        metrics.POISON.name: [((), values["poison"])],
    }
    meter = Meter()
    meter.set(metrics.CONNECTED, values["connected"])
    meter.set(metrics.INGEST_LAG, values["ingest"])
    meter.set(metrics.SEEN, values["seen"])
    processes = {"managers@there/1": meter.samples()} | ({} if "alone" in changes else {"inventory@there/1": meter.samples()})
    return render(own, processes)


def bad(**changes: float) -> dict[str, str]:
    return {f.about: f.advice for f in checkup.numbers(parse(text(**changes)), "0.1.0") if f.advice}


def test_a_healthy_server_needs_nothing() -> None:
    """And every line says what was found."""
    found = list(checkup.numbers(parse(text()), "0.1.0"))
    assert bad() == {}
    assert Finding("certificates", "the first to end is broker, in 300 days") in found
    assert all(f.found for f in found)


def test_each_trouble_is_told_with_what_to_do() -> None:
    """One line each, and no other line turns bad."""
    told = {
        "relay": bad(relay=9.0),
        "work": bad(work=90.0),
        "ingest": bad(ingest=9.0),
        "skew": bad(skew=60.0),
        "seen": bad(seen=40.0),
        "connected": bad(connected=0.0),
        "certificate": bad(certificate=3 * DAY),
        "ended": bad(certificate=-1.0),
        "halted": bad(halted=2.0),
        "poison": bad(poison=1.0),
        "old": bad(old=1.0),
        "alone": bad(alone=1.0),
    }
    assert {name: sorted(found) for name, found in told.items()} == {
        "relay": ["relay lag"],
        "work": ["reconciles late by"],
        "ingest": ["ingest lag"],
        "skew": ["database's clock"],
        "seen": ["inventory@there/1", "managers@there/1"],
        "connected": ["broker of inventory@there/1", "broker of managers@there/1"],
        "certificate": ["certificate broker"],
        "ended": ["certificate broker"],
        "halted": ["halted"],
        "poison": ["messages set aside"],
        "old": ["agents of 0.3.0"],
        "alone": ["inventory"],
    }


def test_readiness_and_clock() -> None:
    """Each part that is not ready has its own advice; a clock within the second of the answer is right."""
    found = list(checkup.readiness({"database": "ok", "migrations": "1 to do", "relay": "a change has waited 40 s"}))
    assert [bool(f.advice) for f in found] == [False, True, True]
    assert "fleetward migrate" in found[1].advice
    now = datetime.now(UTC)
    assert [f.advice for f in checkup.clock(now - timedelta(seconds=1), now)] == [""]
    assert all("clock" in f.advice for f in checkup.clock(now - timedelta(hours=1), now))
    assert list(checkup.clock(None, now)) == []


def test_versions_one_minor_apart_fit() -> None:
    """As design.md section 7 promises; anything else is told."""
    for version, fits in (
        ("0.1.9", True),
        ("0.2.0", True),
        ("0.0.1", True),
        ("0.3.0", False),
        ("1.1.0", False),
        ("", False),
        ("odd", False),
    ):
        sample = f'fleetward_agents{{version="{version}"}} 1\n'
        advice = [f.advice for f in checkup.numbers(parse(sample), "0.1.0") if f.about.startswith("agents")]
        assert [not text for text in advice] == [fits], version

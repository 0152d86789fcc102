"""The judgement of a soak: flat, growing, and growing as meant are told apart."""

import random

import pytest

from benchmarks.soak.sample import Sample
from benchmarks.soak.verdict import judge, restarted, slope


def measured(subject: str, measure: str, growth_an_hour: float, *, start: float = 100.0, noise: float = 0.0) -> list[Sample]:
    """Two hours of one series, a sample each half minute, and positions that rise by ten a second."""
    chance = random.Random(1)
    times = [number * 30.0 for number in range(240)]
    series = [Sample(at, subject, measure, start + growth_an_hour * at / 3600 + chance.uniform(-noise, noise)) for at in times]
    return series + [Sample(at, "database", "position", at * 10) for at in times]


@pytest.mark.parametrize(
    "subject, measure, growth, flat",
    [
        ("web", "pss_mib", 0.0, True),
        ("web", "pss_mib", 8.0, False),
        ("web", "fds", 6.0, False),
        ("managers", "tasks", 20.0, False),
        ("table:work", "rows", 500.0, False),
        ("table:changes_0", "rows", 36_000.0, True),
        ("table:changes_0", "rows", 36_100.0, True),
        ("table:changes_0", "rows", 45_000.0, False),
        ("table:command", "rows", 10_000.0, True),
        ("table:host", "size_mib", 20.0, False),
        ("simulator", "pss_mib", 5.0, True),
        ("simulator", "pss_mib", 10.0, False),
    ],
)
def test_growth_beyond_the_tolerance_is_found(subject: str, measure: str, growth: float, flat: bool) -> None:
    """History may grow with the changes, at most as much as each may add; everything else stays."""
    findings = {(f.subject, f.measure): f for f in judge(measured(subject, measure, growth, noise=1.0))}
    assert findings[subject, measure].flat is flat


def test_what_happens_while_warming_up_is_not_judged() -> None:
    """A cache that fills in the first quarter of an hour is no leak."""
    filling = [s._replace(value=min(s.at, 800.0)) if s.measure == "pss_mib" else s for s in measured("web", "pss_mib", 0.0)]
    assert all(finding.flat for finding in judge(filling))


def test_a_spike_moves_no_slope() -> None:
    """The median of the slopes is that of the points which are not spikes."""
    assert slope([(float(at), 5.0 + (1000.0 if at in (3, 50, 97) else 0.0)) for at in range(100)]) == 0.0


def test_what_is_freed_and_not_given_back_yet_is_no_growth() -> None:
    """Peaks between two trims may rise: what counts is what a trim leaves."""
    calm = measured("web", "pss_mib", 0.0)
    peaks = [s._replace(value=s.value + s.at / 1000) if s.measure == "pss_mib" and s.at % 300 != 270 else s for s in calm]
    assert all(finding.flat for finding in judge(peaks))


def test_too_short_a_run_is_said() -> None:
    """Nothing after warming up means no verdict, not a good one."""
    with pytest.raises(ValueError, match="run it for longer"):
        judge([sample for sample in measured("web", "fds", 0.0) if sample.at < 930])


def test_a_process_that_was_started_again_is_named() -> None:
    """Its curve begins anew, so flatness would mean nothing."""
    samples = [Sample(0, "web", "started", 1.0), Sample(30, "web", "started", 2.0), Sample(0, "broker", "started", 1.0)]
    assert restarted(samples) == ["web"]

"""The checkers, each shown to fail by a history made by hand, and to pass one that is as it should be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos import checks
from tests.chaos.checks import CHECKS, LEDGER_VERB, examine
from tests.chaos.history import Discovery, Effect, Ended, History, Intent, Outcome, Round, Row, Sighting

HOST = "host-1"


def config_row(position: int, version: int, text: str) -> Row:
    return Row(position, "conf-1", "updated", version, "config", {"files": [{"content": text}]}, good=True)


def host_row(position: int, version: int, presence: str) -> Row:
    return Row(position, HOST, "updated", version, "host", {"presence": presence}, good=True)


@pytest.fixture
def good() -> History:
    """Two promises and one that was never answered, a disk, a command done and one cut short, a cut that was shown in time."""
    rows = [
        config_row(1, 10, "a"),
        host_row(2, 11, "online"),
        config_row(3, 12, "b"),
        host_row(4, 13, "offline"),
        host_row(5, 14, "online"),
        config_row(6, 15, "c"),
    ]
    return History(
        intents=[
            Intent(1.0, "one", "a", Outcome.OK, 10),
            Intent(2.0, "one", "b", Outcome.OK, 12),
            Intent(3.0, "one", "x", Outcome.REFUSED),
            Intent(4.0, "one", "c", Outcome.UNKNOWN),
        ],
        discoveries=[Discovery(1.0, HOST, "disk-1")],
        rounds=[Round("pull-cable", 10.0, 20.0, 25.0, frozenset({HOST}), {HOST: 8.0})],
        sightings=[Sighting(0.0, 1), Sighting(2.0, 3), Sighting(15.0, 4), Sighting(22.0, 6)],
        events=[row.event for row in rows],
        rows=rows,
        commands=[Ended("cmd-1", HOST, LEDGER_VERB, "succeeded"), Ended("cmd-2", HOST, LEDGER_VERB, "unknown")],
        effects=[Effect(HOST, "cmd-1", "begin"), Effect(HOST, "cmd-1", "end"), Effect(HOST, "cmd-2", "begin")],
        components={(HOST, "disk-1")},
        files={"agent-1": {"one": "c"}},
        wanted={"one": "c"},
    )


def test_a_good_history_passes(good: History) -> None:
    """Nothing is found, and each check says how much it has looked at."""
    assert [check.problems for check in examine(good)] == [[]] * len(CHECKS)
    assert examine(good)[0].counted == "2 promised, 1 unanswered"


def ruin(good: History, **changes: Any) -> History:
    return replace(good, **changes)


def with_round(**changes: Any) -> Callable[[History], History]:
    return lambda good: ruin(good, rounds=[replace(good.rounds[0], **changes)])


def with_row(number: int, **changes: Any) -> Callable[[History], History]:
    return lambda good: ruin(good, rows=[replace(row, **changes) if n == number else row for n, row in enumerate(good.rows)])


BAD: list[tuple[str, Callable[[History], Any], Callable[[History], History], str]] = [
    ("lost", checks.intents_kept, with_row(2, resource={"files": [{"content": "z"}]}), "lost: one = 'b', promised as version 12"),
    ("replaced", checks.intents_kept, lambda h: ruin(h, wanted={"one": "a"}), "one holds 'a' though 'b' was promised last"),
    ("refused but done", checks.intents_kept, lambda h: ruin(h, wanted={"one": "x"}), "one holds 'x' though 'b' was promised last"),
    ("undiscovered", checks.discoveries_kept, lambda h: ruin(h, components=set()), "lost: disk disk-1 of host-1"),
    (
        "done twice",
        checks.effects_once,
        lambda h: ruin(h, effects=[*h.effects, Effect(HOST, "cmd-1", "begin")]),
        "cmd-1 was executed 2 times",
    ),
    (
        "not done",
        checks.results_true,
        lambda h: ruin(h, effects=h.effects[:1] + h.effects[2:]),
        "cmd-1 is said to have succeeded and did not",
    ),
    (
        "cut short",
        checks.results_true,
        lambda h: ruin(h, commands=[h.commands[0], replace(h.commands[1], state="timed_out")]),
        "cmd-2 was cut short and is timed_out, not unknown",
    ),
    (
        "denied",
        checks.results_true,
        lambda h: ruin(h, commands=[replace(h.commands[0], state="failed"), h.commands[1]]),
        "cmd-1 is failed and was begun",
    ),
    (
        "unended",
        checks.commands_ended,
        lambda h: ruin(h, commands=[replace(h.commands[0], state="sent")]),
        "cmd-1 (chaos.append) is still sent",
    ),
    ("hole", checks.positions_contiguous, lambda h: ruin(h, rows=h.rows[:2] + h.rows[3:]), "after 2 comes 4"),
    ("beginning", checks.positions_contiguous, lambda h: ruin(h, rows=h.rows[1:]), "the log begins at 2"),
    ("fall", checks.versions_rise, with_row(2, version=9), "conf-1 fell from version 10 to 9 at position 3"),
    ("double", checks.versions_rise, with_row(4, version=15), "version 15 was given 2 times"),
    ("chain", checks.chain_intact, with_row(3, good=False), "the hash at position 4 does not follow"),
    (
        "unread",
        checks.reader_told_true,
        lambda h: ruin(h, events=h.events[:2] + h.events[3:]),
        "the reader never got position 3 (updated of conf-1)",
    ),
    ("retold", checks.reader_told_true, lambda h: ruin(h, events=[*h.events, h.events[0]]), "position 1 was told after 6"),
    ("rewritten", checks.reader_told_true, with_row(5, op="deleted"), "position 6 was told as updated of conf-1, which is not in the log"),
    (
        "false offline",
        checks.no_false_offline,
        with_round(may_cut=frozenset()),
        "host-1 was shown offline at about 15.0 s (position 4), and nothing had cut it off",
    ),
    (
        "offline too late",
        checks.offline_in_time,
        with_round(must_cut={HOST: -9.0}),
        "host-1 was not shown offline within -9.0 s of pull-cable at 10.0 s",
    ),
    (
        "never offline",
        checks.offline_in_time,
        lambda h: ruin(h, rows=h.rows[:3]),
        "host-1 was not shown offline within 8.0 s of pull-cable at 10.0 s",
    ),
    ("late", checks.converged, with_round(converged=51.0, lacking="x"), "not within 30 s of healing pull-cable at 20.0 s: x"),
    ("late and calm", checks.converged, with_round(converged=51.0, calm_s=31.0), "not within 30 s of healing pull-cable at 20.0 s: "),
    ("never", checks.converged, with_round(converged=None, lacking="y"), "not within 30 s of healing pull-cable at 20.0 s: y"),
    (
        "another file",
        checks.files_stand,
        lambda h: ruin(h, files={"agent-1": {"one": ""}}),
        "agent-1: the file of one holds '', not 'c'",
    ),
    ("unnamed", checks.nemeses_content, with_round(demands=("it said nothing",)), "pull-cable: it said nothing"),
]


@pytest.mark.parametrize(("check", "spoil", "problem"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_history_is_found_out(
    good: History, check: Callable[[History], Any], spoil: Callable[[History], History], problem: str
) -> None:
    """The check that is meant for it names exactly what is wrong."""
    assert problem in check(spoil(good)).problems


def test_a_busy_machine_is_given_more_time(good: History) -> None:
    """Seconds in which there was no CPU to spare don't count."""
    assert checks.converged(with_round(converged=51.0, calm_s=12.0)(good)).good


def test_every_check_is_shown_to_fail() -> None:
    """A check that no bad history is tried on could be one that never fails."""
    assert {case[1] for case in BAD} == set(CHECKS)

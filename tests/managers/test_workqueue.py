"""What triggers and outcomes do to a key: pure, in virtual time."""

from datetime import UTC, datetime, timedelta

import pytest

from inventory.work import Entry, Held, Lane, Strength
from managers.feed import Found, by_lane
from managers.reconcile import Again, Done, Error, Failed
from managers.workqueue import PROMPT_KEYS, Backoff, Fate, Settled, lane_of, settle, triggered

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
SOON, LATE = NOW + timedelta(seconds=1), NOW + timedelta(minutes=5)
READ_ONLY = Error("ReadOnly", "read-only file system", recoverable=True)
OUTSIDE = Error("PathOutsideRoots", "/opt is outside", recoverable=False)


def held(attempts: int = 0, again: Strength | None = None, now: datetime = NOW) -> Held:
    return Held("k", 1, attempts, again, now)


def longest(low: float, high: float) -> float:
    return high


def settled(outcome: Done | Again | Failed, attempts: int = 0, again: Strength | None = None) -> Settled:
    return settle(held(attempts, again), outcome, Backoff(), longest)


def test_few_keys_of_a_prompt_cause_are_prompt() -> None:
    """Many are bulk, whoever wanted them; what comes of bulk is bulk."""
    assert lane_of(Lane.PROMPT, PROMPT_KEYS) is Lane.PROMPT
    assert lane_of(Lane.PROMPT, PROMPT_KEYS + 1) is Lane.BULK
    assert lane_of(Lane.BULK, 1) is Lane.BULK


def test_somebody_who_changes_much_at_once_is_not_in_anybodys_way() -> None:
    """Of the changes read together, one person's 300 keys are bulk, another's single one is prompt, a device's is bulk."""
    script = [Found("user script", Strength.FRESH, timedelta(), f"k{n}") for n in range(300)]
    others = [Found("user anna", Strength.FRESH, timedelta(), "mine"), Found("", Strength.CHANGED, timedelta(), "reported")]
    lanes = by_lane([*script, *others])
    assert lanes[Lane.PROMPT, Strength.FRESH, timedelta()] == ["mine"]
    assert lanes[Lane.BULK, Strength.CHANGED, timedelta()] == ["reported"]
    assert len(lanes[Lane.BULK, Strength.FRESH, timedelta()]) == 300


def test_backoff_doubles_up_to_ten_minutes() -> None:
    """The pause is anywhere between 2 s and a ceiling that doubles."""
    ceilings = [Backoff().pause(n, longest).total_seconds() for n in range(1, 12)]
    assert ceilings == [4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]
    assert Backoff().pause(5, lambda low, high: low).total_seconds() == 2


def test_backoff_survives_any_number_of_failures() -> None:
    """A count from a row that somebody has edited does not overflow."""
    assert Backoff().pause(10_000, longest) == timedelta(minutes=10)


def test_done_ends_the_row() -> None:
    """Nothing is remembered of what is as wanted."""
    assert settled(Done()) == Settled(Fate.DONE, None)


@pytest.mark.parametrize("again", list(Strength))
def test_a_trigger_during_the_run_makes_it_run_once_more(again: Strength) -> None:
    """Whatever came meanwhile may not have been seen."""
    assert settled(Done(), again=again).entry == Entry("k", NOW)
    waits = settled(Again(None, "Pending"), attempts=2, again=again).entry
    assert waits == Entry("k", NOW, 0 if again is Strength.FRESH else 2)


def test_again_counts_no_attempt() -> None:
    """What is in the way is nobody's failure."""
    assert settled(Again(timedelta(seconds=1), "Pending"), attempts=3) == Settled(Fate.WAITS, Entry("k", SOON, 3))
    assert settled(Again(None, "WaitingForDevice"), attempts=3) == Settled(Fate.WAITS, Entry("k", None, 3))


def test_what_failed_last_is_remembered_while_the_next_attempt_runs() -> None:
    """Until a fresh intent; `explain` tells it."""
    last = {"code": "ReadOnly", "message": "no"}
    held_again = Held("k", 1, 1, None, NOW, last)
    waits = settle(held_again, Again(None, "Pending"), Backoff(), longest).entry
    assert waits is not None and waits.last_error == last
    fresh = settle(Held("k", 1, 1, Strength.FRESH, NOW, last), Again(None, "Pending"), Backoff(), longest).entry
    assert fresh is not None and fresh.last_error is None


def test_a_recoverable_failure_backs_off_seven_times_and_halts_at_the_eighth() -> None:
    """In virtual time: each pause follows the last, and then nothing more is due."""
    now, attempts, pauses = NOW, 0, []
    while True:
        outcome = settle(held(attempts, now=now), Failed(READ_ONLY), Backoff(), longest)
        assert outcome.entry is not None
        if outcome.fate is Fate.HALTS:
            break
        assert outcome.entry.due_at is not None and outcome.entry.backoff
        pauses.append((outcome.entry.due_at - now).total_seconds())
        now, attempts = outcome.entry.due_at, outcome.entry.attempts
    assert pauses == [4, 8, 16, 32, 64, 128, 256]
    assert outcome.entry == Entry("k", None, 8, halted=True, last_error=outcome.entry.last_error)
    assert outcome.entry.last_error == {"code": "ReadOnly", "message": "read-only file system", "recoverable": True, "attempt": 8}


def test_an_unrecoverable_failure_halts_at_once() -> None:
    """Trying again would do the same."""
    outcome = settled(Failed(OUTSIDE))
    assert outcome.fate is Fate.HALTS
    assert outcome.entry is not None and outcome.entry.halted and outcome.entry.due_at is None


def test_a_failure_is_not_tried_again_at_once_because_something_changed() -> None:
    """Only the device coming online or a fresh intent cuts a backoff short, and only a fresh intent a halt."""
    changed = settled(Failed(READ_ONLY), again=Strength.CHANGED).entry
    assert changed is not None and changed.backoff and changed.due_at == NOW + timedelta(seconds=4)
    online = settled(Failed(READ_ONLY), again=Strength.NOW).entry
    assert online is not None and not online.backoff and online.due_at == NOW and online.attempts == 1
    assert settled(Failed(OUTSIDE), again=Strength.NOW).fate is Fate.HALTS
    assert settled(Failed(OUTSIDE), again=Strength.FRESH) == Settled(Fate.WAITS, Entry("k", NOW), True)


TRIGGERS = [
    ("a new key is due", None, Strength.CHANGED, Entry("k", SOON)),
    ("a queued key keeps its place", Entry("k", NOW), Strength.CHANGED, Entry("k", NOW)),
    ("a later key comes nearer", Entry("k", LATE, 2), Strength.CHANGED, Entry("k", SOON, 2)),
    ("a key that waits for a trigger is due", Entry("k", None, 2), Strength.CHANGED, Entry("k", SOON, 2)),
    ("backoff is waited out", Entry("k", LATE, 2, backoff=True), Strength.CHANGED, Entry("k", LATE, 2, backoff=True)),
    ("backoff ends when the device is there", Entry("k", LATE, 2, backoff=True), Strength.NOW, Entry("k", SOON, 2)),
    ("a halt stays", Entry("k", None, 8, halted=True), Strength.CHANGED, Entry("k", None, 8, halted=True)),
    ("a halt stays, the device being there or not", Entry("k", None, 8, halted=True), Strength.NOW, Entry("k", None, 8, halted=True)),
    ("a halt ends with a fresh intent", Entry("k", None, 8, halted=True, last_error={}), Strength.FRESH, Entry("k", SOON)),
    ("a fresh intent begins at the first attempt", Entry("k", LATE, 2, backoff=True), Strength.FRESH, Entry("k", SOON)),
]


@pytest.mark.parametrize(("what", "before", "strength", "after"), TRIGGERS, ids=[row[0] for row in TRIGGERS])
def test_triggers(what: str, before: Entry | None, strength: Strength, after: Entry) -> None:
    """What a trigger does to a key that is not being reconciled."""
    assert triggered(before, "k", strength, SOON) == after, what

"""Fair shares of what waits: turns, bounds and pace, on a clock of the test's own."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.turns import Share, Turns

WIDE = Share(items=1_000_000, size=1 << 30, burst=1_000_000, a_second=1e6)
DEVICE = Share(items=64, size=1000, burst=100, a_second=20.0, turn=3)


def test_a_flood_waits_behind_itself() -> None:
    """After 10,000 items of one sender, one of another is in the next two that are taken."""
    turns: Turns[str] = Turns()
    for n in range(10_000):
        turns.put("flood", WIDE, f"f{n}", 1, 0.0)
    turns.put("calm", WIDE, "c0", 1, 0.0)
    assert turns.take(2, 0.0) == ["f0", "c0"]


def test_a_turn_is_as_many_as_the_share_says_while_the_pace_allows() -> None:
    """Windows of 4 come whole, one sender after the other; the limit and the pace cut a turn short."""
    turns: Turns[str] = Turns()
    four = Share(items=64, size=1000, burst=6, a_second=1.0, turn=4)
    for name in "ab":
        for n in range(8):
            turns.put(name, four, f"{name}{n}", 1, 0.0)
    assert turns.take(6, 0.0) == ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert turns.take(100, 0.0) == ["a4", "a5", "b2", "b3", "b4", "b5"]


def test_beyond_its_share_a_sender_is_refused() -> None:
    """By items and by bytes; one item passes however large, or a sender could never say it."""
    turns: Turns[int] = Turns()
    assert [turns.put("a", DEVICE, n, 1, 0.0) for n in range(70)].count(True) == 64
    assert [turns.put("b", DEVICE, n, 400, 0.0) for n in range(4)] == [True, True, False, False]
    assert turns.put("c", DEVICE, 0, 5000, 0.0)
    assert turns.refused == 6 + 2 and (len(turns), turns.size) == (67, 64 + 800 + 5000)


def test_after_its_burst_a_sender_is_paced() -> None:
    """100 at once, then 20 a second, however idle the rest is; a pause gives the burst back."""
    turns: Turns[int] = Turns()
    served, now = 0, 0.0
    while now < 10:
        while turns.put("a", DEVICE, 0, 1, now):
            pass
        served += len(turns.take(1000, now))
        now += 0.01
    assert 295 <= served <= 301
    assert turns.due_in(now) is not None
    turns.take(1000, 100.0)
    burst = sum(len(turns.take(1000, 200.0)) for _ in range(3) if [turns.put("a", DEVICE, 0, 1, 200.0) for _ in range(64)])
    assert burst in (99, 100)


def test_it_says_when_somebody_is_due() -> None:
    """Nothing waits: None; somebody may be served: 0; all that wait are paced: how long."""
    turns: Turns[int] = Turns()
    slow = Share(items=10, size=100, burst=1, a_second=2.0)
    assert turns.due_in(0.0) is None
    turns.put("a", slow, 1, 1, 0.0)
    turns.put("a", slow, 2, 1, 0.0)
    assert turns.due_in(0.0) == 0.0 and turns.take(10, 0.0) == [1]
    assert turns.due_in(0.1) == 0.4 and turns.take(10, 0.4) == []
    assert turns.take(10, 0.5) == [2] and turns.due_in(0.5) is None


def test_senders_that_are_done_are_forgotten() -> None:
    """A million names that each said one thing do not stay."""
    turns: Turns[int] = Turns()
    for n in range(100_000):
        turns.put(n, DEVICE, n, 1, float(n))
        turns.take(1, float(n))
    assert len(turns._senders) <= 2048


@given(st.lists(st.one_of(st.tuples(st.sampled_from("abc"), st.integers(1, 300)), st.integers(1, 5)), max_size=200))
def test_nothing_is_lost_doubled_or_reordered(steps: list[tuple[str, int] | int]) -> None:
    """Whatever is put and taken: each sender's items come out once and in order, and the counts agree."""
    turns: Turns[tuple[str, int]] = Turns()
    said, heard, now = Counter[str](), Counter[str](), 0.0
    for step in steps:
        now += 0.01
        if isinstance(step, tuple):
            said[step[0]] += turns.put(step[0], DEVICE, (step[0], said[step[0]]), step[1], now)
            continue
        for name, number in turns.take(step, now):
            assert number == heard[name]
            heard[name] += 1
        assert len(turns) == said.total() - heard.total()
    while (wait := turns.due_in(now)) is not None:
        now += wait + 1e-9
        heard.update(name for name, _ in turns.take(1000, now))
    assert heard == +said and turns.size == 0

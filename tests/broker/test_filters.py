"""Topic filters: against the examples of MQTT 3.1.1 section 4.7, and the index against a plain walk over all filters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.filters import FilterIndex, contains, matches, valid_filter, valid_topic

LEVEL = st.sampled_from(["a", "b", "c", "", "$SYS"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(valid_topic)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=5))
    if draw(st.booleans()):
        levels[-1] = "#"
    return draw(st.just("/".join(levels)).filter(valid_filter))


@pytest.mark.parametrize(
    ("filter_", "topic", "expected"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/x", False),
        ("+/monitor", "$SYS/monitor", False),
        ("$SYS/#", "$SYS/x", True),
        ("$SYS/+", "$SYS/x", True),
    ],
)
def test_the_examples_of_the_specification(filter_: str, topic: str, expected: bool) -> None:
    """Sections 4.7.1 and 4.7.2, in both implementations."""
    index: FilterIndex[str] = FilterIndex()
    index.add("x", filter_, 1)
    assert matches(filter_, topic) == bool(index.match(topic)) == expected


@pytest.mark.parametrize("text", ["", "a/#/b", "a#", "a/b+", "#/a", "a\0b", "/".join("a" * 40)])
def test_what_is_no_filter(text: str) -> None:
    """Wildcards that don't fill a level, `#` before the end, NUL, emptiness, and more levels than are allowed."""
    assert not valid_filter(text)
    assert not valid_topic(text)


@given(st.lists(st.tuples(st.integers(0, 5), filters(), st.integers(0, 2), st.booleans()), max_size=40), TOPIC)
def test_the_index_finds_what_a_walk_over_all_filters_finds(steps: list[tuple[int, str, int, bool]], topic: str) -> None:
    """After any adding and removing, each subscriber once, with its highest QoS; emptied, it holds nothing."""
    index: FilterIndex[int] = FilterIndex()
    model: dict[tuple[int, str], int] = {}
    for key, filter_, qos, adding in steps:
        if adding:
            index.add(key, filter_, qos)
            model[key, filter_] = qos
        else:
            assert index.remove(key, filter_) == ((key, filter_) in model)
            model.pop((key, filter_), None)
    expected: dict[int, int] = {}
    for (key, filter_), qos in model.items():
        if matches(filter_, topic):
            expected[key] = max(qos, expected.get(key, 0))
    assert index.match(topic) == expected
    assert len(index) == len(model)
    for key in range(6):
        index.remove_all(key)
    assert (len(index), index._root.children, index._root.here) == (0, {}, {})


@given(filters(), filters(), TOPIC)
def test_a_filter_within_another_matches_nothing_more(outer: str, inner: str, topic: str) -> None:
    """The access rules stand on this: granted `outer`, a subscription of `inner` can't hear more."""
    if contains(outer, inner) and matches(inner, topic):
        assert matches(outer, topic)


@given(filters())
def test_every_filter_contains_itself(filter_: str) -> None:
    """So what is granted can be subscribed as it stands."""
    assert contains(filter_, filter_)

"""Malformed and hostile filters: each gives a FilterError with the right column, and never anything else."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory.errors import BadRequest
from inventory.filter import FilterError, compile_filter
from inventory.kind import Kind
from inventory.kinds.host import HOST

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)

MALFORMED: list[tuple[str, int, str]] = [
    # (text, column, a part of what is said)
    ("(", 2, "ends too early"),
    (")", 1, "unexpected )"),
    ("()", 2, "unexpected )"),
    ("(a", 3, "expected )"),
    ("a)", 2, "unexpected )"),
    ("(a))", 4, "unexpected )"),
    ("AND", 1, "no condition"),
    ("AND a", 1, "no condition"),
    ("a AND", 6, "ends too early"),
    ("a AND AND b", 7, "no condition"),
    ("a OR", 5, "ends too early"),
    ("OR a", 1, "no condition"),
    ("a OR OR b", 6, "no condition"),
    ("NOT", 4, "ends too early"),
    ("-", 2, "ends too early"),
    ("a AND NOT", 10, "ends too early"),
    ("name =", 7, "expected a value"),
    ("= press", 1, "unexpected ="),
    ("name == press", 7, "unexpected ="),
    ("name = = press", 8, "unexpected ="),
    ("name = press = x", 14, "unexpected ="),
    ("name =! press", 7, "unexpected !"),
    ("name <> press", 7, "unexpected >"),
    ("name ! press", 6, "unexpected !"),
    ("name = AND", 8, "quote it"),
    ("name = (press", 14, "ends too early"),
    ("name = ()", 9, "expected a value"),
    ("name = (a AND b)", 11, "unexpected AND"),
    ("name = (a, b)", 10, "unexpected ,"),
    ("name != (a OR b)", 6, "alternatives"),
    ("cores > (1 OR 2)", 7, "alternatives"),
    ('name = "press', 8, "not closed"),
    ("name = 'press", 8, "not closed"),
    ("name = \"press'", 8, "not closed"),
    ('name = "pre\\', 8, "not closed"),
    ('name = "a\\q"', 10, "no escape"),
    ("name = a\\", 9, "no escape"),
    ('"name" = press', 8, "unexpected ="),
    ("name = a*b", 9, "may only end"),
    ('name = "*a"', 9, "may only end"),
    ("name = **", 8, "may only end"),
    ("name = press, cores = 1", 13, "unexpected ,"),
    ("name = a; DROP TABLE gadget", 9, "unexpected ;"),
    ("name = [a]", 8, "unexpected ["),
    ("name = a && cores = 1", 10, "unexpected &"),
    ("name = a || cores = 1", 10, "unexpected |"),
    ("name = a and cores = 1", 10, "capitals: AND"),
    ("name = a or cores = 1", 10, "capitals: OR"),
    ("not name = a", 1, "capitals: NOT"),
    ("size(name) = 1", 1, "no functions"),
    ("nmae = press", 1, "did you mean name"),
    ("a OR core > 3", 6, "did you mean cores"),
    ("line = 4", 1, "did you mean labels.line"),
    ("inner = x", 1, "no field inner"),
    ("bulk = x", 1, "can't be filtered"),
    ("bulk:*", 1, "can't be filtered"),
    ("blob = x", 8, "only `:*`"),
    ("name.first = x", 1, "no members"),
    ("labels = x", 10, "labels.KEY"),
    ("labels. = x", 1, "no label key"),
    ("labels.Line = x", 1, "no label key"),
    ("labels.a' = x", 9, "not closed"),
    ("labels:li*", 8, "labels.KEY"),
    ("status = x", 10, "status.indicator"),
    ("status.nope = x", 1, "no member nope"),
    ("status.halted = maybe", 17, "true or false"),
    ("status.since > yesterday", 16, "not a time"),
    ("cores > many", 9, "whole number"),
    ("cores > 1.5", 9, "whole number"),
    ("cores > 9223372036854775808", 9, "whole number"),
    ("cores > " + "9" * 5000, 9, "whole number"),
    ("cores = 1*", 9, "no text"),
    ("cores = ''", 9, "whole number"),
    ("cores > null", 9, "needs a value"),
    ("cores > ١", 9, "whole number"),
    ("ratio = nan", 9, "a number"),
    ("ratio = inf", 9, "a number"),
    ("ratio = 1e999", 9, "a number"),
    ("ratio = 1,5", 10, "unexpected ,"),
    ("present = yes", 11, "true or false"),
    ("present > true", 11, "no order"),
    ("seen > 2026-11-22", 8, "not a time"),
    ("seen > 2026-11-22T18:00:00", 8, "not a time"),
    ("seen > 2026-13-22T18:00:00Z", 8, "time that exists"),
    ("seen > 2026-11-22T18:00:60Z", 8, "time that exists"),
    ("seen > 0001-01-01T00:00:00+14:00", 8, "time that exists"),
    ("seen > 15 minutes", 8, "not a time"),
    ("seen > 15", 8, "not a time"),
    ("seen > 999999999999d", 8, "time that exists"),
    ("seen > 9999999w", 8, "time that exists"),
    ("current_state = sleeping", 17, "unknown, on, off"),
    ("current_state = ON", 17, "unknown, on, off"),
    ("current_state = s*", 17, "unknown, on, off"),
    ("current_state > on", 17, "no order"),
    ("site < berlin", 8, "no order"),
    ("tags = red", 8, "only `:*`"),
    ("name = \0", 8, "NUL"),
    ("name = \ud800", 8, "surrogates"),
    ("name = " + "x" * 8192, 8192, "longer than"),
    ("ü" * 5000, 8192, "longer than"),
    ("(" * 51 + "a" + ")" * 51, 51, "nested"),
    ("(" * 4000 + "a" + ")" * 4000, 51, "nested"),
    ("NOT " * 51 + "a", 201, "nested"),
    ("-" * 8000 + "a", 51, "nested"),
    ("(" * 8000, 8001, "ends too early"),
    ("a " * 201, 1, "more than 200"),
    ("name = (" + "a OR " * 200 + "a)", 1, "more than 200"),
]


@pytest.mark.parametrize(("text", "column", "said"), MALFORMED, ids=[repr(text[:40]) for text, _, _ in MALFORMED])
def test_malformed(gadget: Kind, text: str, column: int, said: str) -> None:
    """A malformed filter is a bad request that names the column and says what is wrong."""
    with pytest.raises(FilterError) as caught:
        compile_filter(gadget, text, now=NOW)
    assert isinstance(caught.value, BadRequest)
    assert caught.value.column == column
    assert said in caught.value.detail
    assert len(caught.value.detail) < 400


def test_limits_are_inclusive(gadget: Kind) -> None:
    """What is exactly as deep, long and wide as allowed compiles."""
    compile_filter(gadget, "(" * 50 + "a" + ")" * 50, now=NOW)
    compile_filter(gadget, "a " * 200, now=NOW)
    compile_filter(gadget, "x" * 8192, now=NOW)


WORDS = [
    *("name", "cores", "labels.line", "status.since", "site", "=", "!=", "<", ">=", ":", "AND", "OR", "NOT", "-", "(", ")"),
    *('"', "'", "\\", "*", "1", "15m", "null", "true", "a", ",", ";", " ", "\n", "--", "/*", "$1", "%", "é", "\0"),
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=25), st.sampled_from(["", " "]), st.booleans())
def test_word_salad_raises_only_filter_errors(words: list[str], glue: str, selector: bool) -> None:
    """Any mix of the language's pieces compiles or is a FilterError with a column inside the text."""
    _compiles_or_complains(glue.join(words), selector)


@settings(deadline=None)
@given(st.text(st.characters(), max_size=60), st.booleans())
def test_any_text_raises_only_filter_errors(text: str, selector: bool) -> None:
    """Any text at all compiles or is a FilterError with a column inside the text."""
    _compiles_or_complains(text, selector)


def _compiles_or_complains(text: str, selector: bool) -> None:
    try:
        compile_filter(HOST, text, now=NOW, selector=selector)
    except FilterError as error:
        assert error.column is not None
        assert 1 <= error.column <= len(text) + 1
        assert error.detail

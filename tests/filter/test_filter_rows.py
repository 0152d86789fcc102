"""Filters on real rows: PostgreSQL against a plain Python evaluator, for generated rows and generated filters.

The evaluator follows docs/filters.md and shares no code with the compiler. Precedence is part of what is generated: AND over OR
over terms, with parentheses only where the text needs them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inventory.filter import FilterError, compile_filter, compile_order
from inventory.kind import Kind

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
Row = dict[str, Any]
SITES = {"site-1": "berlin", "site-2": "bern", "site-3": "hamburg"}

TEXTS = st.text(st.sampled_from("abAB%_\\*'\" é:("), max_size=4)
TIMES = st.integers(-3, 3).map(lambda hours: NOW + timedelta(hours=hours))
LABELS = st.dictionaries(st.sampled_from(["line", "a.b/c", "x"]), st.one_of(TEXTS, st.sampled_from(["4", "null", "true"])))
STATUS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"reason": st.sampled_from(["Halted", "Pending"])},
        optional={"halted": st.booleans(), "since": TIMES.map(datetime.isoformat)},
    ),
)

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "title": TEXTS,
            "labels": LABELS,
            "status": STATUS,
            "current_state": st.sampled_from([None, "unknown", "on", "off"]),
            "site": st.sampled_from([None, *SITES]),
            "model": st.one_of(st.none(), TEXTS),
            "cores": st.one_of(st.none(), st.integers(-2, 2)),
            "ratio": st.one_of(st.none(), st.sampled_from([-1.5, 0.0, 0.5])),
            "present": st.sampled_from([None, True, False]),
            "seen": st.one_of(st.none(), TIMES),
            "tags": st.one_of(st.none(), st.lists(TEXTS, max_size=2)),
        }
    ),
    min_size=1,
    max_size=5,
)


@dataclass(frozen=True)
class Case:
    """A filter's text and what it should say of a row."""

    text: str
    matches: Callable[[Row], bool]


def quote(text: str, star: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("*", "\\*")
    return f'"{escaped}{"*" if star else ""}"'


def fold(text: str) -> str:
    return text.lower()


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}

TEXT_PATHS: dict[str, Callable[[Row], str | None]] = {
    "name": lambda row: row["name"],
    "title": lambda row: row["title"],
    "model": lambda row: row["model"],
    "status.reason": lambda row: (row["status"] or {}).get("reason"),
    "labels.line": lambda row: row["labels"].get("line"),
    "labels.a.b/c": lambda row: row["labels"].get("a.b/c"),
}

TYPED_PATHS: dict[str, tuple[Callable[[Row], Any], st.SearchStrategy[Any], Callable[[Any], str]]] = {
    "cores": (lambda row: row["cores"], st.integers(-3, 3), str),
    "twice": (lambda row: None if row["cores"] is None else row["cores"] * 2, st.integers(-4, 4), str),
    "ratio": (lambda row: row["ratio"], st.sampled_from([-1.5, 0.0, 0.5, 0.25]), repr),
    "seen": (lambda row: row["seen"], TIMES, datetime.isoformat),
    "status.since": (
        lambda row: datetime.fromisoformat(row["status"]["since"]) if "since" in (row["status"] or {}) else None,
        TIMES,
        lambda at: quote(at.isoformat()),
    ),
}


def compared(get: Callable[[Row], Any], operator: str, value: Any) -> Callable[[Row], bool]:
    def matches(row: Row) -> bool:
        found = get(row)
        return operator == "!=" if found is None else COMPARE[operator](found, value)

    return matches


@st.composite
def text_case(draw: st.DrawFn) -> Case:
    path = draw(st.sampled_from(sorted(TEXT_PATHS)))
    operator, value = draw(st.sampled_from(sorted(COMPARE))), draw(TEXTS)
    return Case(f"{path} {operator} {quote(value)}", compared(TEXT_PATHS[path], operator, value))


@st.composite
def prefix_case(draw: st.DrawFn) -> Case:
    path, value, negated = draw(st.sampled_from(sorted(TEXT_PATHS))), draw(TEXTS), draw(st.booleans())
    get = TEXT_PATHS[path]
    return Case(
        f"{path} {'!=' if negated else '='} {quote(value, star=True)}",
        lambda row: ((found := get(row)) is not None and found.startswith(value)) != negated,
    )


@st.composite
def part_case(draw: st.DrawFn) -> Case:
    path, value, star = draw(st.sampled_from(["name", "title", "model", "status.reason"])), draw(TEXTS), draw(st.booleans())
    get = TEXT_PATHS[path]

    def matches(row: Row) -> bool:
        found = get(row)
        if found is None:
            return False
        return fold(found).startswith(fold(value)) if star else fold(value) in fold(found)

    return Case(f"{path}:{quote(value, star)}", matches)


@st.composite
def typed_case(draw: st.DrawFn) -> Case:
    path, operator = draw(st.sampled_from(sorted(TYPED_PATHS))), draw(st.sampled_from(sorted(COMPARE)))
    get, values, render = TYPED_PATHS[path]
    value = draw(values)
    return Case(f"{path} {operator} {render(value)}", compared(get, operator, value))


@st.composite
def age_case(draw: st.DrawFn) -> Case:
    operator, hours, sign = draw(st.sampled_from(sorted(COMPARE))), draw(st.integers(0, 3)), draw(st.sampled_from(["", "-", "+"]))
    at = NOW + timedelta(hours=hours if sign == "+" else -hours)
    return Case(f"seen {operator} {sign}{hours}h", compared(lambda row: row["seen"], operator, at))


@st.composite
def presence_case(draw: st.DrawFn) -> Case:
    path = draw(st.sampled_from(["model", "cores", "present", "site", "tags", "status", "current_state", "labels.x"]))
    how, there = draw(st.sampled_from([(":*", True), (" = *", True), (" = null", False), (" != null", True), (" != *", False)]))

    def get(row: Row) -> Any:
        return row["labels"].get("x") if path == "labels.x" else row[path]

    return Case(path + how, lambda row: (get(row) is not None) == there)


@st.composite
def one_of_case(draw: st.DrawFn) -> Case:
    states = draw(st.lists(st.sampled_from(["unknown", "on", "off"]), min_size=1, max_size=2))
    return Case(f"current_state = ({' OR '.join(states)})", lambda row: row["current_state"] in states)


@st.composite
def state_case(draw: st.DrawFn) -> Case:
    operator, state = draw(st.sampled_from(["=", "!=", ":"])), draw(st.sampled_from(["unknown", "on", "off"]))
    return Case(f"current_state{operator}{state}", lambda row: (row["current_state"] == state) == (operator != "!="))


@st.composite
def flag_case(draw: st.DrawFn) -> Case:
    path, operator, flag = draw(st.sampled_from(["present", "status.halted"])), draw(st.sampled_from(["=", "!="])), draw(st.booleans())

    def matches(row: Row) -> bool:
        found = row["present"] if path == "present" else (row["status"] or {}).get("halted")
        return (found is not None and found == flag) == (operator == "=")

    return Case(f"{path} {operator} {str(flag).lower()}", matches)


@st.composite
def site_case(draw: st.DrawFn) -> Case:
    operator, star = draw(st.sampled_from(["=", "!=", ":"])), draw(st.booleans())
    value = draw(st.sampled_from(["berlin", "site-2", "ber", "x"]))

    def refers(row: Row) -> bool:
        site = row["site"]
        if site is None:
            return False
        return any(v.startswith(value) if star else v == value for v in (site, SITES[site]))

    return Case(f"site {operator} {quote(value, star)}", lambda row: refers(row) == (operator != "!="))


@st.composite
def element_case(draw: st.DrawFn) -> Case:
    value = draw(TEXTS)
    return Case(f"tags:{quote(value)}", lambda row: value in (row["tags"] or []))


@st.composite
def key_case(draw: st.DrawFn) -> Case:
    key = draw(st.sampled_from(["line", "a.b/c", "x", "*"]))
    return Case(f"labels:{key}", lambda row: bool(row["labels"]) if key == "*" else key in row["labels"])


@st.composite
def search_case(draw: st.DrawFn) -> Case:
    value = draw(st.one_of(TEXTS, st.sampled_from(["gad-1", "AD-"])))
    return Case(quote(value), lambda row: any(fold(value) in fold(row[name]) for name in ("id", "name", "title")))


LEAVES = st.one_of(
    text_case(), prefix_case(), part_case(), typed_case(), age_case(), presence_case(), one_of_case(), state_case(), flag_case(),
    site_case(), element_case(), key_case(), search_case(),
)  # fmt: skip


def expressions(terms: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    """AND over OR over terms; a nested one is wrapped in parentheses by `nested`."""
    factors = st.lists(terms, min_size=1, max_size=3).map(some)
    return st.tuples(st.lists(factors, min_size=1, max_size=3), st.sampled_from([" AND ", " ", "\n"])).map(lambda drawn: every(*drawn))


def some(cases: list[Case]) -> Case:
    return Case(" OR ".join(case.text for case in cases), lambda row: any(case.matches(row) for case in cases))


def every(cases: list[Case], glue: str) -> Case:
    return Case(glue.join(case.text for case in cases), lambda row: all(case.matches(row) for case in cases))


def negate(case: Case, sign: str) -> Case:
    return Case(sign + case.text, lambda row: not case.matches(row))


def terms_over(children: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    nested = expressions(children).map(lambda case: Case(f"({case.text})", case.matches))
    return st.one_of(nested, st.tuples(st.one_of(LEAVES, nested), st.sampled_from(["NOT ", "-"])).map(lambda drawn: negate(*drawn)))


FILTERS = expressions(st.recursive(LEAVES, terms_over, max_leaves=8))


def test_sql_agrees_with_python(database: Any, gadget: Kind) -> None:
    """For any rows and any filter, PostgreSQL selects exactly the rows that the evaluator does."""

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ROWS, FILTERS)
    def agree(rows: list[Row], case: Case) -> None:
        named = [{"id": f"gad-{n}", "name": f"gadget-{n}", **row} for n, row in enumerate(rows)]
        predicate = compile_filter(gadget, case.text, now=NOW)
        database.execute("TRUNCATE gadget")
        database.insert(named)
        found = {r["id"] for r in database.fetch(f"SELECT r.id FROM gadget r WHERE {predicate.sql}", *predicate.params)}
        assert found == {row["id"] for row in named if case.matches(row)}

    agree()


HOSTILE = [
    "'; DROP TABLE gadget; --",
    '"; DROP TABLE gadget; --',
    "' OR '1'='1",
    "x' OR 1=1 --",
    "\\'; DELETE FROM gadget; --",
    "$1",
    "$1::text) OR TRUE --",
    "%",
    "_",
    "\\",
    "*/ DROP TABLE gadget /*",
    '{"a": "b"}',
    "' || (SELECT id FROM site LIMIT 1) || '",
    "a\nb",
    "$$; DROP TABLE gadget; $$",
    "\u2019; DROP TABLE gadget",
]


def ids_of(database: Any, kind: Kind, text: str) -> list[str]:
    predicate = compile_filter(kind, text, now=NOW)
    return [row["id"] for row in database.fetch(f"SELECT r.id FROM gadget r WHERE {predicate.sql} ORDER BY r.id", *predicate.params)]


def test_hostile_values_stay_values(database: Any, gadget: Kind) -> None:
    """SQL in a value is only a value: where it is not stored, nothing is found and nothing happens."""
    database.insert([{"id": "gad-0", "name": "plain", "model": "plain", "labels": {"line": "plain"}, "tags": ["plain"], "site": "site-1"}])
    for path in ("name", "model", "labels.line", "status.reason", "site", "tags", ""):
        operators = (":",) if path == "tags" else ("=", ":") if path else ("",)
        for text in (f"{path}{operator}{quote(hostile)}" for hostile in HOSTILE for operator in operators):
            assert ids_of(database, gadget, text) == [], text
    assert len(database.fetch("SELECT 1 FROM gadget")) == 1


def test_hostile_values_are_found(database: Any, gadget: Kind) -> None:
    """A row whose texts look like SQL or like a pattern is found by them, exactly."""
    database.insert([{"id": f"gad-{n:02}", "name": f"n-{n}", "model": text, "labels": {"line": text}} for n, text in enumerate(HOSTILE)])
    for n, hostile in enumerate(HOSTILE):
        for text in (f"model = {quote(hostile)}", f"labels.line = {quote(hostile)}"):
            assert ids_of(database, gadget, text) == [f"gad-{n:02}"], text
        parts = [f"gad-{m:02}" for m, other in enumerate(HOSTILE) if hostile.lower() in other.lower()]
        assert ids_of(database, gadget, f"model:{quote(hostile)}") == parts
        starts = [f"gad-{m:02}" for m, other in enumerate(HOSTILE) if other.startswith(hostile)]
        assert ids_of(database, gadget, f"model = {quote(hostile, star=True)}") == starts


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_paths_are_refused(gadget: Kind, hostile: str) -> None:
    """SQL in place of a field, a label key, a member or an order is refused before it is SQL."""
    for text in (f"{hostile} = 1", f"labels.{hostile} = 1", f"status.{hostile} = 1"):
        with pytest.raises(FilterError):
            compile_filter(gadget, text, now=NOW)
    for order in (hostile, f"labels.{hostile}", f"name {hostile}"):
        with pytest.raises(FilterError):
            compile_order(gadget, order)


def test_label_filter_uses_an_index(database: Any, gadget: Kind) -> None:
    """labels.KEY = VALUE is served by a GIN index of jsonb_path_ops, and a prefix match by one of text_pattern_ops."""
    database.execute(
        "INSERT INTO gadget (id, name, labels, model) SELECT 'gad-' || n, 'g-' || n, jsonb_build_object('line', (n % 500)::text), 'm' || n"
        " FROM generate_series(1, 20000) n"
    )
    database.execute("CREATE INDEX gadget_labels ON gadget USING gin (labels jsonb_path_ops)")
    database.execute("CREATE INDEX gadget_model ON gadget (model text_pattern_ops)")
    database.execute("ANALYZE gadget")
    for text, index in (("labels.line = 4", "gadget_labels"), ("model = m123*", "gadget_model")):
        predicate = compile_filter(gadget, text, now=NOW)
        plan = "\n".join(r[0] for r in database.fetch(f"EXPLAIN SELECT r.id FROM gadget r WHERE {predicate.sql}", *predicate.params))
        assert index in plan, plan

"""Filters and orders against golden SQL: what a text compiles to, word for word. Rows are checked in test_filter_rows.py."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from inventory.filter import FilterError, Predicate, both, compile_filter, compile_order
from inventory.kind import Kind
from inventory.kinds import KINDS
from inventory.kinds.host import HOST
from inventory.kinds.notification import NOTIFICATION

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)

SITE = "r.site = ANY (ARRAY[$1::text, coalesce((SELECT t.id FROM site t WHERE t.name = $1::text), $1::text)])"

GOLDEN: list[tuple[str, str, tuple[Any, ...]]] = [
    ("", "TRUE", ()),
    ("  \n ", "TRUE", ()),
    ("name = press", "r.name = $1::text", ("press",)),
    ('name = "press"', "r.name = $1::text", ("press",)),
    ("name='press'", "r.name = $1::text", ("press",)),
    ("name != press", "r.name IS DISTINCT FROM $1::text", ("press",)),
    ("name = press*", "r.name LIKE $1::text", ("press%",)),
    ('name = "50%_\\\\x*"', "r.name LIKE $1::text", ("50\\%\\_\\\\x%",)),
    ("name != press*", "NOT COALESCE(r.name LIKE $1::text, false)", ("press%",)),
    ("name = press\\*", "r.name = $1::text", ("press*",)),
    ('name = "a\\"b"', "r.name = $1::text", ('a"b',)),
    ("name:press", "r.name ILIKE $1::text", ("%press%",)),
    ("name:press*", "r.name ILIKE $1::text", ("press%",)),
    ("model:*", "r.model IS NOT NULL", ()),
    ("model = *", "r.model IS NOT NULL", ()),
    ("model != *", "NOT COALESCE(r.model IS NOT NULL, false)", ()),
    ("model = null", "r.model IS NULL", ()),
    ("model != null", "r.model IS NOT NULL", ()),
    ('model = "null"', "r.model = $1::text", ("null",)),
    ("model < m", "r.model < $1::text", ("m",)),
    ("cores >= 8", "r.cores >= $1::bigint", (8,)),
    ("cores = 5000000000", "r.cores = $1::bigint", (5_000_000_000,)),
    ("cores != -1", "r.cores IS DISTINCT FROM $1::bigint", (-1,)),
    ("cores:8", "r.cores = $1::bigint", (8,)),
    ("twice > 8", "(r.cores * 2) > $1::bigint", (8,)),
    ("ratio <= -0.5e1", "r.ratio <= $1::double precision", (-5.0,)),
    ("present = true", "r.present = $1::boolean", (True,)),
    ("present != false", "r.present IS DISTINCT FROM $1::boolean", (False,)),
    ("seen < 2026-11-22T18:00:00.250+02:00", "r.seen < $1::timestamptz", (datetime(2026, 11, 22, 16, 0, 0, 250_000, tzinfo=UTC),)),
    ('seen < "2026-11-22T18:00:00Z"', "r.seen < $1::timestamptz", (NOW,)),
    ("seen > -15m", "r.seen > $1::timestamptz", (NOW - timedelta(minutes=15),)),
    ("seen > 1h30m", "r.seen > $1::timestamptz", (NOW - timedelta(minutes=90),)),
    ("made < +30d", "r.made < $1::timestamptz", (NOW + timedelta(days=30),)),
    ("current_state = on", "r.current_state = $1::text", ("on",)),
    ("current_state:on", "r.current_state = $1::text", ("on",)),
    ("current_state = o*", "r.current_state LIKE $1::text", ("o%",)),
    ("current_state = (on OR off)", "(r.current_state = $1::text OR r.current_state = $2::text)", ("on", "off")),
    ("status.reason = Halted", "(r.status ->> 'reason') = $1::text", ("Halted",)),
    ("status.halted = true", "(r.status ->> 'halted')::boolean = $1::boolean", (True,)),
    ("status.since < 1d", "(r.status ->> 'since')::timestamptz < $1::timestamptz", (NOW - timedelta(days=1),)),
    ("status = null", "r.status IS NULL", ()),
    ("tags:red", "r.tags ? $1::text", ("red",)),
    ("tags:*", "r.tags IS NOT NULL", ()),
    ("labels:line", "r.labels ? $1::text", ("line",)),
    ("labels:*", "r.labels <> '{}'::jsonb", ()),
    ("labels.line:*", "r.labels ? $1::text", ("line",)),
    ("labels.line = 4", "r.labels @> $1::text::jsonb", ('{"line": "4"}',)),
    ("labels.line:4", "r.labels @> $1::text::jsonb", ('{"line": "4"}',)),
    ("labels.a.b/c-d = x", "r.labels @> $1::text::jsonb", ('{"a.b/c-d": "x"}',)),
    ('labels."a.b/c-d" = x', "r.labels @> $1::text::jsonb", ('{"a.b/c-d": "x"}',)),
    ("labels.'line':*", "r.labels ? $1::text", ("line",)),
    ("labels.line != 4", "NOT COALESCE(r.labels @> $1::text::jsonb, false)", ('{"line": "4"}',)),
    ("labels.line = 4*", "(r.labels ->> $1::text) LIKE $2::text", ("line", "4%")),
    ("labels.line > 4", "(r.labels ->> $1::text) > $2::text", ("line", "4")),
    ("labels.line = null", "(r.labels ->> $1::text) IS NULL", ("line",)),
    ("site = berlin", SITE, ("berlin",)),
    ("site:berlin", SITE, ("berlin",)),
    ("site != berlin", f"NOT COALESCE({SITE}, false)", ("berlin",)),
    ("site = ber*", "r.site = ANY (ARRAY(SELECT t.id FROM site t WHERE t.id LIKE $1::text OR t.name LIKE $1::text))", ("ber%",)),
    ("site = null", "r.site IS NULL", ()),
    ("press", "(r.name ILIKE $1::text OR r.title ILIKE $1::text OR r.id ILIKE $1::text)", ("%press%",)),
    ('"press line"', "(r.name ILIKE $1::text OR r.title ILIKE $1::text OR r.id ILIKE $1::text)", ("%press line%",)),
    ("NOT cores = 1", "NOT COALESCE(r.cores = $1::bigint, false)", (1,)),
    ("-cores = 1", "NOT COALESCE(r.cores = $1::bigint, false)", (1,)),
    ("cores = 1 AND present = true", "(r.cores = $1::bigint AND r.present = $2::boolean)", (1, True)),
    ("cores = 1 present = true", "(r.cores = $1::bigint AND r.present = $2::boolean)", (1, True)),
    (
        "cores = 1 AND cores = 2 OR cores = 3",
        "(r.cores = $1::bigint AND (r.cores = $2::bigint OR r.cores = $3::bigint))",
        (1, 2, 3),
    ),
    (
        "(cores = 1 AND cores = 2) OR cores = 3",
        "((r.cores = $1::bigint AND r.cores = $2::bigint) OR r.cores = $3::bigint)",
        (1, 2, 3),
    ),
    (
        "NOT (cores = 1 OR cores = 2) cores = 3",
        "(NOT COALESCE((r.cores = $1::bigint OR r.cores = $2::bigint), false) AND r.cores = $3::bigint)",
        (1, 2, 3),
    ),
]


@pytest.mark.parametrize(("text", "sql", "params"), GOLDEN, ids=[text for text, _, _ in GOLDEN])
def test_compiles_to(gadget: Kind, text: str, sql: str, params: tuple[Any, ...]) -> None:
    """A filter compiles to exactly this SQL and these parameters."""
    predicate = compile_filter(gadget, text, now=NOW)
    assert (predicate.sql, predicate.params) == (sql, params)


def test_host_labels_are_the_effective_ones() -> None:
    """A kind with effective labels reads labels.KEY from them."""
    assert compile_filter(HOST, "labels.line = 4", now=NOW).sql == "hl.labels @> $1::text::jsonb"


def test_json_members() -> None:
    """Members that a kind names can be compared."""
    predicate = compile_filter(NOTIFICATION, "about.kind = host", now=NOW)
    assert (predicate.sql, predicate.fields) == ("(r.about ->> 'kind') = $1::text", frozenset({"about.kind"}))


def test_start_and_fields(gadget: Kind) -> None:
    """Parameters are numbered from start, and the paths used are told."""
    predicate = compile_filter(gadget, "labels.line = 4 site = x -cores > 3", start=7, now=NOW)
    assert predicate.sql.count("$7") == 1
    assert predicate.next == 10
    assert predicate.fields == {"labels.line", "site", "cores"}


def test_both_joins_a_filter_and_a_scope(gadget: Kind) -> None:
    """Two predicates with consecutive numbers become one; overlapping ones are refused."""
    first = compile_filter(gadget, "cores = 1", now=NOW)
    second = compile_filter(gadget, "cores = 2", start=first.next, now=NOW)
    assert both(first, second) == Predicate("(r.cores = $1::bigint) AND (r.cores = $2::bigint)", (1, 2), frozenset({"cores"}))
    with pytest.raises(ValueError, match="clash"):
        both(first, first)


ORDERS: list[tuple[str, str, str]] = [
    ("", "r.id ASC", "id"),
    ("name", "r.name ASC, r.id ASC", "name, id"),
    (" name   desc ,created_at", "r.name DESC, r.created_at ASC, r.id ASC", "name desc, created_at, id"),
    ("seen desc", "r.seen DESC, r.id DESC", "seen desc, id desc"),
    ("id desc", "r.id DESC", "id desc"),
    ("labels.line", "(r.labels ->> 'line') ASC, r.id ASC", "labels.line, id"),
    ("status.halted asc", "(r.status ->> 'halted')::boolean ASC, r.id ASC", "status.halted, id"),
]


@pytest.mark.parametrize(("text", "sql", "canonical"), ORDERS)
def test_order(gadget: Kind, text: str, sql: str, canonical: str) -> None:
    """An order_by compiles to exactly this, and always ends in the id."""
    order = compile_order(gadget, text)
    assert (order.sql, order.text) == (sql, canonical)


BAD_ORDERS: list[tuple[str, int]] = [
    ("x", 1),
    ("name,", 6),
    (",", 1),
    ("name up", 1),
    ("name desc desc", 1),
    ("name, bulk", 7),
    ("name, blob", 7),
    ("labels", 1),
    ("status", 1),
    ("inner", 1),
    ("name, name desc", 7),
    ("labels.a'b", 1),
    ("labels.a;drop", 1),
    ("name; drop table gadget", 1),
    ("name DESC", 1),
    ("status.nope", 1),
    ("name.x", 1),
    ("name,title,cores,ratio,seen,made", 29),
    ("\0", 1),
    ("name, \ud800", 7),
    ("x" * 9000, 8192),
]


@pytest.mark.parametrize(("text", "column"), BAD_ORDERS, ids=[repr(text[:30]) for text, _ in BAD_ORDERS])
def test_bad_order(gadget: Kind, text: str, column: int) -> None:
    """A bad order_by names its column."""
    with pytest.raises(FilterError) as caught:
        compile_order(gadget, text)
    assert caught.value.column == column


SELECTABLE = ["labels.line = 4", "site = x", "cores > 3", "model:x", "made > 2026-01-01T00:00:00Z", "press", "desired_state = on", "id = x"]
FLAPPING = [
    "seen > 2026-01-01T00:00:00Z",
    "status.reason = x",
    "current_state = on",
    "present = true",
    "version > 3",
    "made > -15m",
    "a seen:*",
]


@pytest.mark.parametrize("text", SELECTABLE)
def test_selector_may_use(gadget: Kind, text: str) -> None:
    """A selector takes what users and hardware say."""
    assert compile_filter(gadget, text, now=NOW, selector=True) == compile_filter(gadget, text, now=NOW)


@pytest.mark.parametrize("text", FLAPPING)
def test_selector_may_not_use(gadget: Kind, text: str) -> None:
    """A selector refuses what flaps, and the present time; a list filter takes it."""
    compile_filter(gadget, text, now=NOW)
    with pytest.raises(FilterError, match="selector"):
        compile_filter(gadget, text, now=NOW, selector=True)


@pytest.mark.parametrize("path", ["presence", "last_seen", "pending", "status", "current_state", "observed_generation"])
def test_host_selector_refuses(path: str) -> None:
    """What design.md forbids in a selector is forbidden for hosts."""
    with pytest.raises(FilterError, match=f"^{path} can't be used in a selector"):
        compile_filter(HOST, f"{path}:*", now=NOW, selector=True)


@pytest.mark.parametrize("kind", KINDS, ids=[k.name for k in KINDS])
def test_each_kind_can_be_searched_and_sorted(kind: Kind) -> None:
    """The filter box and the default order work for every kind."""
    compile_filter(kind, "press labels.line = 4 AND status.halted = true", now=NOW)
    compile_order(kind, "name desc, created_at")

"""Keyset paging on real rows: every order, ties and NULLs, change between pages, tokens of others, and the cost of a deep page."""

import base64
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inventory.errors import BadRequest
from inventory.filter import EVERYTHING, Order, compile_filter, compile_order
from inventory.kind import Kind
from inventory.kinds.host import HOST
from inventory.kinds.site import SITE
from inventory.listing import ListQuery, PageQuery, count_query, page_query

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
Row = dict[str, Any]

PATHS = ["name", "title", "labels.line", "cores", "ratio", "present", "seen", "status.halted", "current_state", "created_at", "id"]
ORDER = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from(["", " desc", " asc"])),
    max_size=4,
    unique_by=lambda key: key[0],
).map(lambda keys: ", ".join(path + direction for path, direction in keys))

ROW = st.fixed_dictionaries(
    {
        "title": st.sampled_from(["", "a", "B", "é"]),
        "labels": st.sampled_from([{}, {"line": "1"}, {"line": "2"}]),
        "status": st.sampled_from([None, {"halted": True}, {"halted": False}, {}]),
        "current_state": st.sampled_from([None, "on", "off"]),
        "cores": st.sampled_from([None, 1, 2]),
        "ratio": st.sampled_from([None, -0.1, 1e300]),
        "present": st.sampled_from([None, True, False]),
        "seen": st.sampled_from([None, NOW, NOW + timedelta(microseconds=1)]),
        "created_at": st.sampled_from([NOW, NOW + timedelta(seconds=1)]),
    }
)


def page_of(kind: Kind, order: Order, query: ListQuery) -> PageQuery:
    predicate = compile_filter(kind, query.filter, now=NOW)
    return page_query(kind, predicate, order, query, select="r.id, r.name", source="gadget r")


def value_of(row: Row, path: str) -> Any:
    head, _, member = path.partition(".")
    return (row[head] or {}).get(member) if member else row[head]


def rank(row: Row, path: str) -> tuple[bool, Any]:
    value = value_of(row, path)
    return (value is None, 0 if value is None else value)


def expected(rows: list[Row], order: Order) -> list[str]:
    """The ids in order, by stable sorts from the last key to the first. NULL is the greatest."""
    ordered = list(rows)
    for key in reversed(order.keys):
        ordered.sort(key=partial(rank, path=key.path), reverse=key.descending)
    return [row["id"] for row in ordered]


def all_pages(database: Any, kind: Kind, order: Order, size: int, text: str = "") -> list[str]:
    """The ids of a whole list, page by page."""
    ids: list[str] = []
    token = ""
    while True:
        page = page_of(kind, order, ListQuery(filter=text, page_size=size, page_token=token))
        rows, token = page.split(database.fetch(page.sql, *page.params))
        assert len(rows) <= size
        ids += [row["id"] for row in rows]
        if not token:
            return ids


def test_pages_are_the_list(database: Any, gadget: Kind) -> None:
    """For any rows, order and page size, the pages joined are exactly the sorted list: nothing doubled, nothing left out."""

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ROW, max_size=12), ORDER, st.integers(1, 5))
    def agree(rows: list[Row], order_by: str, size: int) -> None:
        named = [{"id": f"gad-{n:02}", "name": f"g{n % 7}-{n}", **row} for n, row in enumerate(rows)]
        order = compile_order(gadget, order_by)
        database.execute("TRUNCATE gadget")
        database.insert(named)
        assert all_pages(database, gadget, order, size) == expected(named, order)

    agree()


def test_filter_and_order_share_numbers(database: Any, gadget: Kind) -> None:
    """A filter's parameters and the token's do not clash, in the one-way form and in the ranges."""
    database.insert([{"id": f"gad-{n}", "name": f"g-{n}", "cores": n % 3, "title": str(n % 2)} for n in range(9)])
    for order_by in ("title, name", "title desc, cores", "cores desc"):
        ids = all_pages(database, gadget, compile_order(gadget, order_by), 2, "cores >= 1 AND name:g AND title = 1")
        assert sorted(ids) == ["gad-1", "gad-5", "gad-7"]


def test_predicate_may_start_later(database: Any, gadget: Kind) -> None:
    """Parameters of the caller's own SELECT list come before the predicate's; the token's come after both."""
    database.insert([{"id": f"gad-{n}", "name": f"g-{n}"} for n in range(5)])
    predicate = compile_filter(gadget, "name != g-2", start=2, now=NOW)
    seen: list[str] = []
    token = ""
    for _ in range(3):
        query = ListQuery(filter="name != g-2", page_size=2, page_token=token)
        page = page_query(gadget, predicate, compile_order(gadget, "cores desc"), query, select="r.id || $1::text AS id", source="gadget r")
        rows, token = page.split(database.fetch(page.sql, "!", *page.params))
        seen += [row["id"] for row in rows]
        if not token:
            break
    assert seen == ["gad-4!", "gad-3!", "gad-1!", "gad-0!"]


CHANGES = st.lists(st.tuples(st.sampled_from(["insert", "delete"]), st.integers(0, 99), st.sampled_from([None, 1, 2])), max_size=6)


def test_change_between_pages(database: Any, gadget: Kind) -> None:
    """Rows that come and go between pages, the last row of a page too, neither hide nor double a row that stays."""

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ORDER.filter(lambda order: "current" not in order), st.lists(CHANGES, min_size=1, max_size=8), st.integers(1, 4))
    def stable(order_by: str, rounds: list[list[tuple[str, int, int | None]]], size: int) -> None:
        database.execute("TRUNCATE gadget")
        database.insert([{"id": f"gad-{n:03}", "name": f"g-{n}", "cores": [None, 1, 2][n % 3], "title": str(n % 2)} for n in range(20)])
        order, seen, token, turns = compile_order(gadget, order_by), list[str](), "", iter(rounds)
        removed: set[str] = set()
        while True:
            page = page_of(gadget, order, ListQuery(page_size=size, page_token=token))
            rows, token = page.split(database.fetch(page.sql, *page.params))
            seen += [row["id"] for row in rows]
            if not token:
                break
            for verb, number, cores in next(turns, []):
                if verb == "delete":
                    victim = seen[-1] if number % 2 else f"gad-{number % 20:03}"
                    database.execute("DELETE FROM gadget WHERE id = $1", victim)
                    removed.add(victim)
                else:
                    sql = "INSERT INTO gadget (id, name, cores) VALUES ($1, $1, $2) ON CONFLICT DO NOTHING"
                    database.execute(sql, f"new-{number:03}", cores)
        stayed = {f"gad-{n:03}" for n in range(20)} - removed
        assert len(seen) == len(set(seen))
        assert stayed <= set(seen)

    stable()


def _token(body: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")


def _first_token(kind: Kind, order_by: str, text: str = "") -> str:
    page = page_of(kind, compile_order(kind, order_by), ListQuery(filter=text, page_size=1))
    row = {"page_key_0": 1, "page_key_1": "gad-1", "id": "gad-1"}
    return page.split([row, row])[1]


@pytest.mark.parametrize(("order_by", "text"), [("cores desc", ""), ("ratio", ""), ("cores", "cores > 1"), ("", "")])
def test_token_of_another_query(gadget: Kind, order_by: str, text: str) -> None:
    """A token serves the filter and order it was given for, and no other."""
    token = _first_token(gadget, "cores")
    page_of(gadget, compile_order(gadget, "cores"), ListQuery(page_token=token))
    with pytest.raises(BadRequest) as caught:
        page_of(gadget, compile_order(gadget, order_by), ListQuery(filter=text, page_token=token))
    assert caught.value.errors[0].pointer == "page_token"


def test_token_of_another_kind(gadget: Kind) -> None:
    """A token of one collection is refused by another, though filter and order are the same."""
    token = _first_token(gadget, "name")
    with pytest.raises(BadRequest):
        page_query(HOST, EVERYTHING, compile_order(HOST, "name"), ListQuery(page_token=token), select="r.id", source="host r")


def _digest(kind: Kind) -> str:
    return page_of(kind, compile_order(kind, "cores"), ListQuery()).digest


BAD_VALUES: list[Any] = [
    [],
    [1],
    [1, "a", 2],
    ["1", "gad-1"],
    [True, "gad-1"],
    [2**63, "gad-1"],
    [10**30, "gad-1"],
    [1.5, "gad-1"],
    [1, None],
    [1, 2],
    [1, "a\0"],
    [1, "\ud800"],
    [[1], "a"],
    [{}, {}],
    "ab",
    {"0": 1, "1": "a"},
    None,
]


@pytest.mark.parametrize("values", BAD_VALUES, ids=repr)
def test_forged_keys(gadget: Kind, values: Any) -> None:
    """A token with the right digest but keys that the columns can't have held is refused, before PostgreSQL sees it."""
    with pytest.raises(BadRequest):
        page_of(gadget, compile_order(gadget, "cores"), ListQuery(page_token=_token({"q": _digest(gadget), "k": values})))


GARBAGE = [
    "x",
    "====",
    "e30",
    "bnVsbA",
    "W10",
    "\0",
    "é",
    " ",
    "MQ",
    "-_-_",
    _token({"q": 1, "k": []}),
    _token([]),
    _token("k"),
    _token([[]] * 3),
]


@pytest.mark.parametrize("token", GARBAGE, ids=repr)
def test_garbage_tokens(gadget: Kind, token: str) -> None:
    """Garbage in place of a token is a bad request that names page_token."""
    with pytest.raises(BadRequest) as caught:
        page_of(gadget, compile_order(gadget, "cores"), ListQuery(page_token=token))
    assert caught.value.errors[0].pointer == "page_token"


def test_deeply_nested_token(gadget: Kind) -> None:
    """A token that holds JSON too deep for the parser is garbage too."""
    token = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    with pytest.raises(BadRequest):
        page_of(gadget, compile_order(gadget, "cores"), ListQuery(page_token=token))


@given(st.text(min_size=1, max_size=80))
def test_any_text_as_token(text: str) -> None:
    """No text raises anything but BadRequest."""
    with pytest.raises(BadRequest):
        page_query(SITE, EVERYTHING, compile_order(SITE, "name"), ListQuery(page_token=text), select="r.id", source="site r")


@pytest.mark.parametrize("size", [0, -1, 1001, 10**9])
def test_page_size_out_of_range(size: int) -> None:
    """A page_size out of range is a bad request that names it."""
    with pytest.raises(BadRequest) as caught:
        ListQuery(page_size=size)
    assert caught.value.errors[0].pointer == "page_size"


def test_count(database: Any, gadget: Kind) -> None:
    """The count is of the whole list."""
    database.insert([{"id": f"gad-{n}", "name": f"g-{n}", "cores": n} for n in range(5)])
    predicate = compile_filter(gadget, "cores >= 2", now=NOW)
    assert database.fetch(count_query(predicate, source="gadget r"), *predicate.params)[0]["total"] == 3


def _blocks(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


@pytest.fixture
def many(database: Any) -> Any:
    """100,000 gadgets, a tenth of them without cores, with the indexes that a sorted kind has."""
    database.execute(
        "INSERT INTO gadget (id, name, title, cores, created_at)"
        " SELECT 'gad-' || lpad(n::text, 6, '0'), 'g-' || lpad((n * 7919 % 100000)::text, 6, '0'), 't' || n % 10,"
        " CASE WHEN n % 10 > 0 THEN n % 1000 END, '2026-01-01'::timestamptz + n / 3 * interval '1 s' FROM generate_series(1, 100000) n"
    )
    for columns in ("created_at, id", "cores, id", "title, created_at DESC, id DESC"):
        database.execute(f"CREATE INDEX ON gadget ({columns})")
    database.execute("ANALYZE gadget")
    database.execute("VACUUM gadget")
    assert database.fetch("SELECT pg_relation_size('gadget') / 8192 AS blocks")[0]["blocks"] > 1000
    return database


DEEP = ["", "id desc", "name", "name desc", "created_at", "created_at desc", "cores", "cores desc", "title, created_at desc"]


def test_deep_page_costs_what_the_first_costs(many: Any, gadget: Kind) -> None:
    """Of 100,000 rows, pages far in touch a few blocks a row at most, as the first does: NULLs and mixed directions included."""
    for order_by in DEEP:
        costs = [_cost_at(many, gadget, compile_order(gadget, order_by), offset) for offset in (0, 50_000, 95_000, 99_800)]
        assert max(costs) <= 3 * 101, (order_by, costs)


def _cost_at(database: Any, kind: Kind, order: Order, offset: int) -> int:
    """Blocks that the page after the row at this offset touches; at 0, the first page."""
    page = page_of(kind, order, ListQuery(page_size=100))
    if offset:
        keys = ", ".join(f"{key.sql}::{key.cast} AS page_key_{n}" for n, key in enumerate(order.keys))
        row = database.fetch(f"SELECT {keys} FROM gadget r ORDER BY {order.sql} LIMIT 1 OFFSET {offset}")[0]
        token = PageQuery("", (), order, 1, page.digest).split([row, row])[1]
        page = page_of(kind, order, ListQuery(page_size=100, page_token=token))
    assert len(database.fetch(page.sql, *page.params)) == 101
    explained = database.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {page.sql}", *page.params)[0][0]
    return _blocks(json.loads(explained)[0]["Plan"])


def test_of_a_kind_with_joins_only_the_page_is_filled_in() -> None:
    """Chosen by id and keys, so that sorting a large fleet moves no whole rows and joins nothing that the order does not need."""
    page = page_query(
        HOST, EVERYTHING, compile_order(HOST, "memory_bytes desc"), ListQuery(page_size=2), select="r.id, hl.labels", source="host r"
    )
    assert page.sql == (
        "WITH page AS MATERIALIZED (SELECT r.id AS page_row, r.memory_bytes::bigint AS page_key_0, r.id::text AS page_key_1 FROM host r "
        "WHERE (TRUE) ORDER BY r.memory_bytes DESC, r.id DESC LIMIT 3) SELECT r.id, hl.labels, page_key_0, page_key_1 FROM host r "
        "JOIN page ON r.id = page.page_row ORDER BY page_key_0 DESC, page_key_1 DESC"
    )

"""Keyset paging: pages of any list, each at the cost of the first, and their opaque page tokens.

Pure: it builds SQL and reads tokens; `inventory.store` runs it, with the SELECT list and the FROM clause that it chooses. A token holds
the last row's sort keys, not a position, so rows that come or go between two pages neither hide nor double the rows that stay.

Where every key goes one way and none is NULL, what follows a row is one row-wise comparison. Otherwise it is a UNION ALL of disjoint
ranges, each of which an index can serve, since PostgreSQL turns no OR of ranges into one ordered scan. NULL sorts as the greatest value.
Of a kind with joins the page is chosen first, and only its rows are joined and filled in.
Source: AIP-158 (pagination), design.md section 5.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from inventory.errors import BadRequest
from inventory.filter import Order, OrderKey, Predicate
from inventory.kind import Kind, Scalar

MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 100


class Row(Protocol):
    """A result row: an asyncpg Record or a dict."""

    def __getitem__(self, key: str, /) -> Any: ...


AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list was asked for, as REST takes it. page_size: rows, 1 to 1000. fields: the members to show, empty for all.

    Raises BadRequest for a page_size out of range; the texts are read when the query is built.
    """

    filter: str = ""
    order_by: str = ""
    page_size: int = DEFAULT_PAGE_SIZE
    page_token: str = ""
    fields: tuple[str, ...] = ()
    count: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.page_size <= MAX_PAGE_SIZE:
            raise BadRequest(f"page_size is 1 to {MAX_PAGE_SIZE}, not {self.page_size}", pointer="page_size")


@dataclass(frozen=True, slots=True)
class PageQuery:
    """One page as SQL, which asks for a row more than the page holds. params: the predicate's, and those that follow it."""

    sql: str
    params: tuple[Any, ...]
    order: Order
    page_size: int
    digest: str

    def split(self, rows: Sequence[AnyRow]) -> tuple[Sequence[AnyRow], str]:
        """The page's rows, and the token of the next one; an empty token ends the list."""
        page = rows[: self.page_size]
        return page, self._token(page[-1]) if len(rows) > self.page_size else ""

    def _token(self, last: Row) -> str:
        values = [_plain(last[_alias(number)]) for number in range(len(self.order.keys))]
        text = json.dumps({"q": self.digest, "k": values}, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def page_query(kind: Kind, predicate: Predicate, order: Order, query: ListQuery, *, select: str, source: str) -> PageQuery:
    """The SQL of one page of a kind's rows.

    select: the SELECT list; source: what follows FROM, with the row alias `r` and the joins the kind's columns need. Their own
    parameters, if any, come before `predicate.start`. The result has more columns than `select`: the sort keys, `page_key_0` and so on.
    Raises BadRequest for a page_token that this query has not given.
    """
    digest = _digest(kind, query.filter, order)
    params = list(predicate.params)
    ranges = [""]
    if query.page_token:
        ranges = _ranges(order.keys, _read_token(query.page_token, digest, order.keys), params, predicate.start)
    keys = ", ".join(f"{key.sql}::{key.cast} AS {_alias(number)}" for number, key in enumerate(order.keys))
    ending = f"ORDER BY {order.sql} LIMIT {query.page_size + 1}"
    chosen = "r.id AS page_row" if kind.joins else select
    parts = [f"SELECT {chosen}, {keys} FROM {source} WHERE ({predicate.sql}){after} {ending}" for after in ranges]
    sql = _union(parts, order, query.page_size)
    if kind.joins:
        sql = _filled(sql, order, select=select, source=source)
    return PageQuery(sql, tuple(params), order, query.page_size, digest)


def _filled(page: str, order: Order, *, select: str, source: str) -> str:
    """The rows of a page that was chosen by id and sort keys alone: PostgreSQL then leaves out the joins that neither filter nor order
    needs, and where it has to sort, it sorts ids instead of whole rows with all that is joined and counted for them."""
    keys = ", ".join(_alias(number) for number in range(len(order.keys)))
    sql = f"WITH page AS MATERIALIZED ({page}) SELECT {select}, {keys} FROM {source} JOIN page ON r.id = page.page_row"
    return f"{sql} ORDER BY {_by_alias(order)}"


def count_query(predicate: Predicate, *, source: str) -> str:
    """The SQL that counts all rows of a list, whatever its page; its parameters are the predicate's."""
    return f"SELECT count(*) AS total FROM {source} WHERE {predicate.sql}"


def _alias(number: int) -> str:
    return f"page_key_{number}"


def _union(parts: list[str], order: Order, page_size: int) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"({') UNION ALL ('.join(parts)}) ORDER BY {_by_alias(order)} LIMIT {page_size + 1}"


def _by_alias(order: Order) -> str:
    return ", ".join(f"{_alias(number)} {'DESC' if key.descending else 'ASC'}" for number, key in enumerate(order.keys))


def _ranges(keys: Sequence[OrderKey], values: Sequence[Any], params: list[Any], start: int) -> list[str]:
    """Disjoint conditions that together mean: after the row with these key values. Each begins with AND."""

    def bound(index: int) -> str:
        if index not in numbers:
            params.append(values[index])
            numbers[index] = start + len(params) - 1
        return f"${numbers[index]}::{keys[index].cast}"

    def after(index: int) -> list[str]:
        key = keys[index]
        if values[index] is None:
            return [f"{key.sql} IS NOT NULL"] if key.descending else []
        if key.descending:
            return [f"{key.sql} < {bound(index)}"]
        beyond = [f"{key.sql} IS NULL"] if key.nullable else []
        return beyond if one_way else [f"{key.sql} > {bound(index)}", *beyond]

    numbers: dict[int, int] = {}
    one_way = len({key.descending for key in keys}) == 1 and None not in values
    ranges: list[str] = []
    if one_way:
        sign = "<" if keys[0].descending else ">"
        ranges.append(f" AND ({', '.join(key.sql for key in keys)}) {sign} ({', '.join(map(bound, range(len(keys))))})")
    equal = ""
    for index, key in enumerate(keys):
        if not (one_way and key.descending):
            ranges += [f"{equal} AND {condition}" for condition in after(index)]
        equal += f" AND {key.sql} IS NULL" if values[index] is None else f" AND {key.sql} = {bound(index)}"
    return ranges


def _digest(kind: Kind, text: str, order: Order) -> str:
    """What binds a token to its query. The filter's text, not its parameters: durations give other ones each time."""
    return hashlib.sha256(json.dumps([kind.name, text.strip(), order.text]).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _read_token(token: str, digest: str, keys: Sequence[OrderKey]) -> list[Any]:
    try:
        body = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        values, given = body["k"], body["q"]
        if not isinstance(values, list) or len(values) != len(keys):
            raise ValueError
        if given == digest:
            return [_key_value(key, value) for key, value in zip(keys, values, strict=True)]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise BadRequest("not a page token of this server; leave it out to begin anew", pointer="page_token") from None
    raise BadRequest("the page token belongs to another list, filter or order; leave it out to begin anew", pointer="page_token")


def _key_value(key: OrderKey, value: Any) -> Any:
    """The key's value as a parameter. Raises ValueError, TypeError or OverflowError for what this key can't have been."""
    match key.scalar, value:
        case _, None if key.nullable:
            return None
        case Scalar.TEXT, str() if "\0" not in value:
            value.encode()
            return value
        case Scalar.INTEGER, int() if not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
        case Scalar.NUMBER, int() | float() if not isinstance(value, bool):
            return float(value)
        case Scalar.BOOLEAN, bool():
            return value
        case Scalar.TIME, str() if (at := datetime.fromisoformat(value)).tzinfo is not None:
            return at.astimezone(UTC)
    raise ValueError(key.path)

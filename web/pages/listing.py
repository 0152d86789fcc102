"""A list as a page's URL asks for it: filter, order, keyset paging with a way back; an error of the filter with its place.

Shared by the hosts page and by the plain tables. The store does the listing; nothing here knows a kind.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from quart import request

from inventory.errors import BadRequest
from inventory.filter import FilterError, compile_filter, compile_order
from inventory.kind import Kind
from inventory.store import ListQuery, Page
from web.identity import view
from web.services import services

SIZES = (25, 50, 100, 250)
TRAIL = 40
"""Page tokens kept for the way back; further back there is the first page."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """Why a filter or order can't be used. `before`, `token`, `after`: the text by its place, where there is one."""

    detail: str
    text: str
    column: int | None

    @property
    def before(self) -> str:
        return self.text[: (self.column or 1) - 1]

    @property
    def token(self) -> str:
        """The word or sign that is wrong; a blank at the end of the text, where something is missing."""
        rest = self.text[(self.column or 1) - 1 :]
        found = re.match(r"[\w.-]+|.", rest, re.DOTALL)
        return found[0] if found else " "

    @property
    def after(self) -> str:
        return self.text[(self.column or 1) - 1 + len(self.token) :]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the URL asks for. `trail`: the tokens of the pages before this one, the first page's is empty."""

    filter: str
    order: str
    size: int
    token: str
    trail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """What there is to show. `paths`: the fields that decide what is on the list, so that a change of others is no news to it."""

    asked: Asked
    page: Page
    wrong: Wrong | None = None
    paths: frozenset[str] = field(default_factory=frozenset)

    @property
    def next(self) -> Mapping[str, str] | None:
        if not self.page.next_page_token:
            return None
        trail = (*self.asked.trail, self.asked.token)[-TRAIL:]
        return {"page": self.page.next_page_token, "trail": ".".join(trail)}

    @property
    def previous(self) -> Mapping[str, str] | None:
        if not self.asked.token:
            return None
        *earlier, last = self.asked.trail or ("",)
        return {"page": last, "trail": ".".join(earlier)}

    @property
    def number(self) -> int:
        """Which page it is, from 1."""
        return len(self.asked.trail) + 1 if self.asked.token else 1


def asked(default_order: str) -> Asked:
    args = request.args
    size = args.get("size", "")
    return Asked(
        filter=args.get("filter", "").strip(),
        order=args.get("order", "").strip() or default_order,
        size=int(size) if size.isdigit() and int(size) in SIZES else SIZES[1],
        token=args.get("page", ""),
        trail=tuple(args.get("trail", "").split(".")) if args.get("page") else (),
    )


async def listed(kind: Kind, wanted: Asked, also: str = "", *, count: bool = True) -> Listed:
    """`also`: a filter of the page's own (facets), in conjunction with the person's. What is wrong with theirs is said, not raised.

    count: also count them all; a page that counts them anyhow saves that."""
    now = datetime.now(UTC)
    try:
        predicate = compile_filter(kind, wanted.filter, now=now)
    except FilterError as error:
        return Listed(wanted, await _nothing(), Wrong(error.detail, wanted.filter, error.column))
    both = both_filters(wanted.filter, also)
    try:
        order = compile_order(kind, wanted.order)
        page = await view().list(kind.name, ListQuery(both, wanted.order, wanted.size, wanted.token, count=count))
    except FilterError as error:
        return Listed(wanted, await _nothing(), Wrong(f"order: {error.detail}", wanted.order, error.column))
    except BadRequest as error:
        return Listed(wanted, await _nothing(), Wrong(error.detail, "", None))
    return Listed(wanted, page, paths=predicate.fields | {key.path for key in order.keys})


async def _nothing() -> Page:
    return Page([], "", services().hub.position, 0)


def both_filters(first: str, second: str) -> str:
    return f"({first}) AND ({second})" if first and second else first or second


def quoted(value: str) -> str:
    """A text as a literal of the filter language; its stars and quotes mean themselves."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("*", "\\*") + '"'

"""The hosts page: filter, facets with counts, order, pages; its rows alone, for those that have changed while it is looked at; and all
of what it shows as CSV."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from quart import Blueprint, Response, render_template, request

from inventory import overview
from inventory.filter import compile_filter
from inventory.kinds.host import HOST
from inventory.resource import Resource
from inventory.store import ListQuery, Page
from web.identity import view
from web.pages import sheets
from web.pages.frame import page, person
from web.pages.listing import SIZES, asked, both_filters, listed, quoted
from web.pages.remembered import remembered

blueprint = Blueprint("hosts", __name__)

ROWS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Facet:
    """A field that people narrow by. Its choices are a query parameter of its own, so that they add up with the filter."""

    name: str
    path: str
    title: str


FACETS = (
    Facet("presence", "presence", "Presence"),
    Facet("state", "current_state", "State"),
    Facet("site", "site", "Site"),
)

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("name", "Host", "name"),
    ("presence", "Presence", "presence"),
    ("state", "State", "current_state"),
    ("work", "Configs", ""),
    ("site", "Site", "site"),
    ("address", "Address", "primary_ip"),
    ("system", "System", "os_name"),
    ("size", "Cores / memory", "memory_bytes"),
    ("agent", "Agent", "agent_version"),
    ("seen", "Last seen", "last_seen"),
)
"""Class, heading, and what it is sorted by."""


FIELDS = {
    field.name: list(field.choices or ()) for field in HOST.fields if not (field.hidden or field.single_only or field.name == "status")
}
FIELDS |= {"status.reason": [], "status.indicator": ["idle", "in_progress", "error", "unknown"], "status.halted": ["true", "false"]}
"""What the filter box completes: fields, with the values that they may have."""


@blueprint.get("/hosts")
async def show() -> Response:
    await person()
    wanted, chosen = asked("name"), _chosen()
    found = await listed(HOST, wanted, narrowed(chosen), count=False)
    total, facets = (0, []) if found.wrong else await _facets(wanted.filter, chosen)
    watched = found.paths | {facet.path for facet in FACETS if chosen[facet.name]}
    return await page(
        "hosts.html",
        "Hosts",
        listed=replace(found, page=replace(found.page, total=total)),
        facets=facets,
        chosen=chosen,
        narrowed=any(chosen.values()) or bool(wanted.filter),
        columns=COLUMNS,
        sizes=SIZES,
        fields=FIELDS,
        watched=" ".join(sorted({path.split(".")[0] for path in watched} - {"last_seen", "pending"})),
        **await beside(found.page.items),
    )


@blueprint.get("/hosts/rows")
async def rows() -> Response:
    """The rows of these ids, for a page that shows them already. Those that are gone are absent."""
    await person()
    found = list((await view().read_many("host", request.args.getlist("id")[:ROWS_AT_ONCE])).values())
    text = await render_template("hosts_rows.html", items=found, columns=COLUMNS, **await beside(found))
    return Response(text, content_type="text/html; charset=utf-8")


@blueprint.get("/hosts.csv")
async def sheet() -> Response:
    """All that the page of the same query shows, on all of its pages. A wrong filter or order is refused with 400."""
    await person()
    wanted, mine = asked("name"), view()
    compile_filter(HOST, wanted.filter, now=datetime.now(UTC))  # by itself, so that its parentheses can't open the choices
    both = both_filters(wanted.filter, narrowed(_chosen()))

    async def more(token: str) -> Page:
        return await mine.list("host", ListQuery(both, wanted.order, sheets.ROWS_AT_ONCE, token))

    async def names(hosts: list[Resource]) -> Mapping[str, str]:
        sites = await mine.read_many("site", {host["site"] for host in hosts if host["site"]})
        return {id: str(site["name"]) for id, site in sites.items()}

    response = Response(sheets.lines(await more(""), more, names), content_type="text/csv; charset=utf-8")
    response.timeout = None
    response.headers["Content-Disposition"] = 'attachment; filename="hosts.csv"'
    return response


def _chosen() -> dict[str, list[str]]:
    return {facet.name: request.args.getlist(facet.name) for facet in FACETS}


async def beside(hosts: list[Resource]) -> dict[str, Any]:
    """What a row shows that is not the host's own: its site's name, and how its configs are getting on."""
    sites, work = await asyncio.gather(
        view().read_many("site", {host["site"] for host in hosts if host["site"]}),
        overview.work_of_hosts(view(), [host["id"] for host in hosts]),
    )
    return {"sites": sites, "work": work}


def narrowed(chosen: Mapping[str, list[str]]) -> str:
    """All choices as a filter."""
    return " AND ".join(f"({terms})" for facet in FACETS if (terms := _terms(facet, chosen)))


def _terms(facet: Facet, chosen: Mapping[str, list[str]]) -> str:
    return " OR ".join(f"{facet.path} = {quoted(value)}" for value in chosen[facet.name] if value)


async def _facets(text: str, chosen: Mapping[str, list[str]]) -> tuple[int, list[dict[str, Any]]]:
    now = datetime.now(UTC)
    narrowings = [overview.Narrowing(facet.path, _terms(facet, chosen)) for facet in FACETS]

    async def count() -> tuple[int, list[overview.Counts]]:
        return await overview.facets(view(), "host", text, narrowings, now)

    whole = not text and not any(chosen.values())
    total, counted = await (remembered("hosts", count) if whole else count())
    sites = await view().read_many("site", [value for value, _ in counted[-1] if value])
    names = {id: str(site["title"] or site["name"]) for id, site in sites.items()}
    return total, [
        {"facet": facet, "values": [(value, names.get(value, value), count) for value, count in counts]}
        for facet, counts in zip(FACETS, counted, strict=True)
    ]

"""Lists of a large fleet: `python -m benchmarks.listing [--hosts 100000] [--pages 40] [--scope FILTER]`.

100 of 100,000 hosts over HTTP, by filters of several kinds, by id or by name, page after page along each list. Beside each stands the
statement alone, on a connection of its own. Lists that have to read every host (an order that no index serves, a search for a part of a
text) are measured too, and shown, but are no part of the row. With a scope it is a token that has it which asks. The fleet is `seed.sql`;
the web process is as in `fleetward up`.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import httpx

from benchmarks import paper
from benchmarks.ground import directory
from benchmarks.meters import quantile
from benchmarks.report import Row, arguments, say
from inventory.filter import compile_filter, compile_order
from inventory.kinds import BY_NAME
from inventory.listing import ListQuery, page_query
from inventory.resource import select_list, source
from inventory.view import narrowed

TARGET_MS = 50.0
HOST = BY_NAME["host"]


@dataclass(frozen=True, slots=True)
class Asked:
    """`counts`: whether it is part of the row; an order that no index serves, and the search for a part of a text, read every host."""

    filter: str
    order_by: str = ""
    counts: bool = True


LISTS = (
    Asked(""),
    Asked("", "name"),
    Asked("", "memory_bytes desc, name", counts=False),
    Asked("", "created_at desc", counts=False),
    Asked("presence = offline"),
    Asked("labels.line = 4"),
    Asked("labels.line = 4", "name"),
    Asked("labels.country = de AND cpu_cores >= 8"),
    Asked('name = "edge-04*"', "name"),
    Asked("os_version = 12 AND vendor = Dell", "name desc"),
    Asked("site = site-17", "name"),
    Asked("serial = SN0000077777"),
    Asked("edge-0777", counts=False),
)


async def walk(
    api: httpx.AsyncClient, database: asyncpg.Connection, asked: Asked, pages: int, scope: str = ""
) -> tuple[list[float], list[float], int]:
    """Milliseconds of each page over HTTP and of its statement alone, and how many rows came."""
    ours: list[float] = []
    alone: list[float] = []
    token, rows = "", 0
    while len(ours) < pages:
        query = {"filter": asked.filter, "order_by": asked.order_by, "page_token": token, "page_size": "100"}
        began = time.perf_counter()
        answer = await api.get("/hosts", params=query)
        ours.append((time.perf_counter() - began) * 1000)
        answer.raise_for_status()
        page = answer.json()
        alone.append(await statement(database, asked, token, scope))
        rows += len(page["items"])
        if not (token := page["next_page_token"]):
            break
    return ours, alone, rows


async def statement(database: asyncpg.Connection, asked: Asked, token: str, scope: str = "") -> float:
    predicate, order = compile_filter(HOST, asked.filter, now=datetime.now(UTC)), compile_order(HOST, asked.order_by)
    query = ListQuery(filter=asked.filter, order_by=asked.order_by, page_token=token)
    page = page_query(HOST, predicate, order, query, select=select_list(HOST, single=False), source=source(HOST))
    sql, more = narrowed(page.sql, scope, len(page.params)) if scope else (page.sql, ())
    began = time.perf_counter()
    await database.fetch(sql, *page.params, *more)
    return (time.perf_counter() - began) * 1000


async def measure(site: paper.Site, hosts: int, pages: int, scope: str = "") -> Row:
    ours: list[float] = []
    alone: list[float] = []
    database = await asyncpg.connect(site.database)
    async with httpx.AsyncClient(base_url=f"{site.url}/api/v1", headers=site.headers, timeout=60, trust_env=False) as api:
        if scope:
            made = (await api.post("/api-tokens", json={"name": "scoped", "scope": scope})).raise_for_status()
            api.headers["Authorization"] = f"Bearer {made.json()['token']}"
        await walk(api, database, LISTS[0], 5, scope)  # connections and caches
        for asked in LISTS:
            found, bare, rows = await walk(api, database, asked, pages, scope)
            print(
                f"   {_line(found)}   alone {_line(bare)}   {rows:6} rows: {asked.filter or 'all'}, by {asked.order_by or 'id'}", flush=True
            )
            if asked.counts:
                ours, alone = ours + found, alone + bare
    await database.close()
    p99, sql = quantile(ours, 0.99), quantile(alone, 0.99)
    return Row(
        what=f"list 100 of {hosts:,} hosts by filter, any page{f', within {scope}' if scope else ''}",
        target=f"p99 {TARGET_MS:.0f} ms",
        ours=f"p50 {quantile(ours, 0.5):.1f} ms, p99 {p99:.1f} ms over {len(ours)} pages of {sum(a.counts for a in LISTS)} lists",
        beside=f"the SQL alone: p50 {quantile(alone, 0.5):.1f} ms, p99 {sql:.1f} ms",
        ratio=f"{p99 / sql:.2f} at p99",
        met=p99 <= TARGET_MS,
    )


def _line(values: Sequence[float]) -> str:
    return f"p50 {quantile(values, 0.5):6.1f} p99 {quantile(values, 0.99):6.1f} ms"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=40, help="of each list, at most")
    parser.add_argument("--components", type=int, default=4, help="of each host: lists of hosts do not read them")
    parser.add_argument("--scope", default="", help="of the one who asks, such as `labels.line = 4`")
    options = parser.parse_args()
    with directory() as home, paper.site(home, options.hosts, options.components) as site:
        say(asyncio.run(measure(site, options.hosts, options.pages, options.scope)))


if __name__ == "__main__":
    main()

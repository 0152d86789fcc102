"""Inventory at the size it is made for: `python -m benchmarks.scale [--hosts 100000] [--components 40] [--seconds 60]`.

100,000 hosts and 4 million components (`seed.sql`): lists of both over HTTP, counts and facets as the dashboard asks for them, sizes on
disk. Then the traffic of a fleet at rest (a heartbeat of each host every 30 s, written as ingest writes them) and a number of changes
(host rows written as ingest writes them, and moved by the relay), with the WAL that they make, extrapolated to a day from right after a
checkpoint, which is its most expensive moment; and whether updates stay HOT and autovacuum keeps up.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import asyncpg
import httpx

from benchmarks import paper
from benchmarks.ground import directory
from benchmarks.listing import LISTS, walk
from benchmarks.meters import quantile
from benchmarks.report import arguments
from fleetward.postgres import Cluster
from inventory import bulk, overview
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import SQL, Database
from inventory.kinds import BY_NAME
from inventory.overview import Narrowing
from inventory.view import View

HEARTBEAT_S = 30
DAY_S = 86400
CHANGES_A_DAY = 5_000_000
CHANGES = 10_000
BATCH = 500
COUNTS = ("", "presence = offline", "labels.country = de AND cpu_cores >= 8", "edge-0777")
COMPONENT_LISTS = (
    "",
    "type = disk",
    "host = host-00000000000000000000077777",
    'key = "K777-3"',
    "present = false",
    'attributes.model = "Model 7"',
)
FACETS = (Narrowing("presence"), Narrowing("site"), Narrowing("os_version", "os_version = 12"), Narrowing("vendor"))
TIMES = 5
SIZES = """
SELECT c.relname AS name, pg_table_size(c.oid) AS rows, pg_indexes_size(c.oid) AS indexes, s.n_live_tup AS live
FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.relkind = 'r' AND pg_total_relation_size(c.oid) > 8e6
ORDER BY pg_total_relation_size(c.oid) DESC
"""
UPKEEP = """
SELECT relname AS name, n_tup_upd AS updates, n_tup_hot_upd AS hot, n_dead_tup AS dead, n_live_tup AS live, autovacuum_count AS vacuums
FROM pg_stat_user_tables WHERE relname IN ('device_liveness', 'host', 'changes_in', 'changes_0', 'component') ORDER BY 1
"""


async def lists(site: paper.Site) -> None:
    database = await asyncpg.connect(site.database)
    async with httpx.AsyncClient(base_url=f"{site.url}/api/v1", headers=site.headers, timeout=120, trust_env=False) as api:
        await walk(api, database, LISTS[0], 5)
        for asked in LISTS:
            ours, alone, rows = await walk(api, database, asked, 20)
            _told(f"hosts: {asked.filter or 'all'}, by {asked.order_by or 'id'}; {rows} rows; SQL {quantile(alone, 0.5):.1f} ms", ours)
        for text in COMPONENT_LISTS:
            await _timed(f"components: {text or 'all'}", partial(_get, api, "/components", filter=text))
        for text in COUNTS:
            await _timed(f"count of hosts: {text or 'all'}", partial(_get, api, "/hosts", filter=text, page_size="1", count="true"))
        for text in ("", "type = disk"):
            query = {"filter": text, "page_size": "1", "count": "true"}
            await _timed(f"count of components: {text or 'all'}", partial(_get, api, "/components", **query))
    await database.close()


async def aggregates(db: Database) -> None:
    now = datetime.now(UTC)
    await _timed("facets of the hosts page, no filter", lambda: overview.facets(View(db), "host", "", FACETS, now))
    await _timed("facets of the hosts page, labels.line = 4", lambda: overview.facets(View(db), "host", "labels.line = 4", FACETS, now))
    await _timed("components by type", lambda: overview.count_by(View(db), "component", "", "type", now))
    await _timed("the fleet's numbers", lambda: overview.fleet(View(db)))
    await _timed("versions in use", lambda: overview.versions(View(db)))


async def beats(db: Database, made: Cluster, hosts: list[str], seconds: int) -> None:
    """A second's heartbeats a second, every host once in HEARTBEAT_S."""
    made.sql("CHECKPOINT")
    start, late, written = made.sql("SELECT pg_current_wal_lsn()"), 0.0, 0
    for second in range(seconds):
        began = time.perf_counter()
        chosen = sorted(hosts[second % HEARTBEAT_S :: HEARTBEAT_S])
        columns = (["s"] * len(chosen), [second] * len(chosen), [0] * len(chosen), [0.5] * len(chosen))
        async with db.acquire() as connection:
            await connection.fetch(SQL["beat"], chosen, *columns)
        written += len(chosen)
        late = max(late, time.perf_counter() - began)
        await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - began)))
    wal = _wal(made, start)
    print(f"   heartbeats: {written / seconds:.0f} /s, {wal / written:.0f} bytes of WAL each, {_gigabytes(wal / seconds * DAY_S)} a day;")
    print(f"   the slowest second took {late * 1000:.0f} ms of the database")


async def changes(db: Database, made: Cluster, hosts: list[str]) -> None:
    made.sql("CHECKPOINT")
    start, began, relay = made.sql("SELECT pg_current_wal_lsn()"), time.perf_counter(), Relay(db)
    spread = hosts[:: max(1, len(hosts) // CHANGES)][:CHANGES]
    for at in range(0, len(spread), BATCH):
        values = {id: {"kernel": f"6.13.{at}"} for id in spread[at : at + BATCH]}
        async with bulk.transaction(db, datetime.now(UTC)) as w:
            await w.write_many(BY_NAME["host"], values, lambda host: Actor.device(host["id"]))
        while await relay.step():
            pass
    wal, took = _wal(made, start), time.perf_counter() - began
    day = _gigabytes(wal / len(spread) * CHANGES_A_DAY)
    print(
        f"   changes: {len(spread) / took:.0f} /s, {wal / len(spread):.0f} bytes of WAL each, {day} for {CHANGES_A_DAY:,} a day", flush=True
    )


def sizes(made: Cluster) -> None:
    print(f"   database: {made.sql(_SIZE, 'fleetward')}")
    for line in made.sql(SIZES, "fleetward").splitlines():
        name, rows, indexes, live = line.split("|")
        each = (int(rows) + int(indexes)) / max(1, int(live))
        mib = f"{int(rows) / 2**20:8.0f} MiB, indexes {int(indexes) / 2**20:8.0f} MiB"
        print(f"   {name:16} {mib}, {int(live):9,} rows, {each:6.0f} bytes each")


_SIZE = "SELECT pg_size_pretty(pg_database_size('fleetward'))"


def upkeep(made: Cluster) -> None:
    for line in made.sql(UPKEEP, "fleetward").splitlines():
        name, updates, hot, dead, live, vacuums = line.split("|")
        share = 100 * int(hot) / max(1, int(updates))
        print(f"   {name:16} {int(updates):8,} updates, {share:5.1f} % HOT; {int(dead):8,} dead of {int(live):9,}; {vacuums} autovacuums")


async def _get(api: httpx.AsyncClient, path: str, **query: str) -> None:
    (await api.get(path, params=query)).raise_for_status()


async def _timed(what: str, act: Callable[[], Awaitable[object]]) -> None:
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await act()
        found.append((time.perf_counter() - began) * 1000)
    _told(what, found)


def _told(what: str, found: list[float]) -> None:
    print(f"   p50 {quantile(found, 0.5):7.1f} ms, p99 {quantile(found, 0.99):7.1f} ms   {what}", flush=True)


def _wal(made: Cluster, start: str) -> float:
    return float(made.sql(f"SELECT pg_current_wal_lsn() - '{start}'::pg_lsn"))


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


async def measure(site: paper.Site, seconds: int) -> None:
    db = await Database.open(site.database, application="benchmark", pool_size=4)
    try:
        await lists(site)
        await aggregates(db)
        async with db.acquire() as connection:
            hosts = [row["id"] for row in await connection.fetch("SELECT id FROM host ORDER BY id")]
        sizes(site.cluster)
        await beats(db, site.cluster, hosts, seconds)
        await changes(db, site.cluster, hosts)
        upkeep(site.cluster)
    finally:
        await db.close()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--components", type=int, default=40, help="of each host")
    parser.add_argument("--seconds", type=int, default=60, help="of heartbeats")
    options = parser.parse_args()
    began = time.monotonic()
    with directory() as home, paper.site(home, options.hosts, options.components) as site:
        print(f"== {options.hosts:,} hosts, {options.hosts * options.components:,} components, made in {time.monotonic() - began:.0f} s")
        asyncio.run(measure(site, options.seconds))


if __name__ == "__main__":
    main()

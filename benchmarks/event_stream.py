"""How long a committed change takes to reach 500 open event streams: `python -m benchmarks.event_stream [--clients 500]`.

A web process and a relay as `fleetward up` runs them, on a PostgreSQL of their own; the clients are plain sockets in this process. Each
change is a PATCH of a host; the clock starts when its answer, which follows the commit, has arrived. Beside it stands the same with one
client, which is the way through relay and hub alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from benchmarks import paper
from benchmarks.ground import directory
from benchmarks.meters import quantile
from benchmarks.report import Row, arguments, say
from inventory.changes import Relay
from inventory.db import Database, migrate
from tests.web.site_under_test import people
from tests.web.web_process import process

PER_SECOND = 5.0
P99_MS = 200.0


class Reader(asyncio.Protocol):
    """A stream's client that notes when each change arrived."""

    def __init__(self) -> None:
        self.seen: dict[bytes, float] = {}
        self.greeted = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"GET /api/v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer viewer\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.greeted.done():
            self.greeted.set_result(None)
        for part in data.split(b'"title":"round ')[1:]:
            self.seen.setdefault(part.split(b'"')[0], now)

    def close(self) -> None:
        self._transport.close()


@asynccontextmanager
async def installation() -> AsyncIterator[str]:
    """The URL of a web process with everything it needs."""
    with directory() as home, paper.cluster(home / "postgres") as cluster:
        await migrate(cluster.url())
        await people(cluster.url())
        db = await Database.open(cluster.url(), application="bench-relay", pool_size=2)
        relay = asyncio.create_task(Relay(db).run())
        try:
            with process(cluster.url()) as (url, _):
                yield url
        finally:
            relay.cancel()
            await asyncio.gather(relay, return_exceptions=True)
            await db.close()


async def latencies(url: str, clients: int, changes: int, run: str) -> list[float]:
    """Milliseconds from commit to arrival, of each change at each client."""
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    readers = [(await loop.create_connection(Reader, host, int(port)))[1] for _ in range(clients)]
    await asyncio.gather(*(reader.greeted for reader in readers))
    committed: dict[bytes, float] = {}
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer admin"}, trust_env=False) as client:
        for number in range(changes):
            (await client.patch("/api/v1/hosts/press", json={"title": f"round {run}-{number}"})).raise_for_status()
            committed[f"{run}-{number}".encode()] = time.perf_counter()
            await asyncio.sleep(1 / PER_SECOND)
    async with asyncio.timeout(30):
        while any(len(reader.seen) < changes for reader in readers):  # noqa: ASYNC110 -- 500 events would be in the way
            await asyncio.sleep(0.05)
    for reader in readers:
        reader.close()
    return sorted((reader.seen[key] - at) * 1000 for reader in readers for key, at in committed.items())


def _line(found: list[float]) -> str:
    return f"p50 {quantile(found, 0.5):.1f} ms, p99 {quantile(found, 0.99):.1f} ms"


async def measure(clients: int, changes: int) -> Row:
    async with installation() as url:
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer admin"}, trust_env=False) as client:
            (await client.post("/api/v1/hosts", json={"name": "press"})).raise_for_status()
        alone = await latencies(url, 1, changes, "alone")
        many = await latencies(url, clients, changes, "many")
    p99 = quantile(many, 0.99)
    return Row(
        what=f"change committed → seen by {clients} SSE clients",
        target=f"p99 {P99_MS:.0f} ms",
        ours=f"{_line(many)} over {len(many):,} arrivals",
        beside=f"one client: {_line(alone)}",
        ratio=f"{p99 / quantile(alone, 0.99):.1f} at p99",
        met=p99 <= P99_MS,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--changes", type=int, default=100)
    options = parser.parse_args()
    say(asyncio.run(measure(options.clients, options.changes)))


if __name__ == "__main__":
    main()

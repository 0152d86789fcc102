"""A client that asks far too much: it is told so, and others are served as if it were not there."""

import asyncio
import socket
from collections import Counter

import pytest

from inventory.db import Database
from tests.waiting import Stopwatch, patience
from tests.web.site_under_test import Site, running
from web.gate import RUNNING
from web.services import of

TIMELY_S = 3.0
"""Far more than a request takes behind one turn of another's, and far less than behind all that the other asks."""


def connect(site: Site) -> socket.socket:
    host, _, port = site.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


async def test_a_flood_of_requests_delays_the_one_who_sends_it(web_url: str) -> None:
    """400 requests at once with one token, of which 100 may wait: some are refused with when to come back, another's answered in time."""
    ask = b"GET /api/v1/hosts?count=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nConnection: close\r\n\r\n"
    with running(web_url, requests_waiting=100) as site:
        await _flooded(site, ask)


async def _flooded(site: Site, ask: bytes) -> None:
    async with site.async_client("viewer") as quiet:
        (await quiet.get("/api/v1/whoami")).raise_for_status()
        flood = [connect(site) for _ in range(400)]
        await _send(site, flood, ask)
        watch = Stopwatch()
        (await quiet.get("/api/v1/hosts")).raise_for_status()
        assert watch.seconds() < TIMELY_S
        assert (await quiet.get("/livez")).status_code == 200
        answers = [await asyncio.to_thread(_answer, connection) for connection in flood]
        statuses = Counter(answer.split(b" ", 2)[1] for answer in answers)
        assert set(statuses) == {b"200", b"429"} and statuses[b"200"] >= 100
        refused = next(answer for answer in answers if b" 429 " in answer[:20]).lower()
        assert b"retry-after: 2" in refused and b"too many requests" in refused
        assert f"}} {statuses[b'429']}" in (await quiet.get("/metrics")).text.split("fleetward_http_requests_refused_total", 3)[3][:60]


async def _send(site: Site, flood: list[socket.socket], ask: bytes) -> None:
    """All at once, however slowly this process gets to sending them: none is answered before the last has come."""
    db, gate = await Database.open(site.database, application="test-lock", pool_size=1), of(site.app).gate
    async with db.transaction() as tx:
        await tx.raw.execute("LOCK TABLE host IN ACCESS EXCLUSIVE MODE")
        for connection in flood:
            connection.sendall(ask)
        async with patience(20):
            while gate.running + gate.waiting + gate.refused < len(flood):
                await asyncio.sleep(0.01)
    await db.close()


def _answer(connection: socket.socket) -> bytes:
    found = b""
    with connection:
        while chunk := connection.recv(65536):
            found += chunk
    return found


@pytest.mark.parametrize(("path", "token"), [("/login", ""), ("/api/v1/regions", "nobody"), ("/api/v1/regions", "viewer")])
async def test_slow_senders_hold_no_slot(site: Site, path: str, token: str) -> None:
    """More requests than there are slots whose bodies do not come, of strangers or of a token's first use: others are answered."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    )
    slow = [connect(site) for _ in range(RUNNING * 2)]
    try:
        for connection in slow:
            connection.sendall(head.encode() + b"{")
        async with site.async_client("admin") as client:
            watch = Stopwatch()
            (await client.get("/api/v1/hosts")).raise_for_status()
            assert watch.seconds() < TIMELY_S
    finally:
        for connection in slow:
            connection.close()

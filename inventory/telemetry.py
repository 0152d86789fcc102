"""The numbers of all processes in one place: each publishes its own (`Publisher`), and a scrape reads everybody's.

A row a process in `process_metrics`, replaced every few seconds: a table that is not logged, because numbers are no loss. So one scrape of
any web process shows the whole installation, and no other process needs a port. A process is known by its role, its machine and its replica
number; a row that is no longer renewed is left out, and goes. Decision: docs/adr/0014-metrics-in-one-place.md.

Called by the services, and by the web process's `/metrics`.
"""

import asyncio
import logging
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from cryptography import x509

from inventory import metrics
from inventory.db import SQL, Database, dumps, loads
from inventory.errors import Unavailable
from inventory.metrics import METER, Meter, Sample, Samples

log = logging.getLogger(__name__)

PUBLISH_S = 5.0
"""How often a process publishes, in seconds: three statements in that time for a whole installation, well below a scrape's interval."""
GONE_S = 60.0
"""A process that has not published for so long, in seconds, is shown no more."""
VERSIONS = 20
"""Agents' versions shown at most, most frequent first: text from devices must not make any number of series."""


def process_name(role: str, replica: int = 1) -> str:
    """Such as `inventory@edge-1/2`: the same after a restart, so that a counter goes on under one name."""
    return f"{role}@{socket.gethostname()}/{replica}"


class Publisher:
    """Publishes this process's numbers. `look` is called before each time, to set gauges."""

    def __init__(self, db: Database, process: str, look: Callable[[], None] = lambda: None, meter: Meter = METER) -> None:
        self._db, self._process, self._look, self._meter = db, process, look, meter

    async def run(self) -> None:
        """Until cancelled. A database that is away, or not migrated yet, gets the numbers later."""
        while True:
            try:
                await self.step()
            except (Unavailable, asyncpg.UndefinedTableError) as error:
                log.debug("numbers not published", extra={"error": str(error)})
            await asyncio.sleep(PUBLISH_S)

    async def step(self) -> None:
        """Once. Raises Unavailable."""
        self._look()
        async with self._db.acquire() as connection:
            await connection.execute(SQL["publish_metrics"], self._process, os.getpid(), dumps(self._meter.samples()), GONE_S)


async def processes(db: Database) -> dict[str, Samples]:
    """What the processes published last, by name; nothing before the schema is there. Raises Unavailable."""
    try:
        async with db.acquire() as connection:
            rows = await connection.fetch(SQL["published_metrics"], GONE_S)
    except asyncpg.UndefinedTableError:
        return {}
    return {row["process"]: {**loads(row["samples"]), metrics.SEEN.name: [((), float(row["age_s"]))]} for row in rows}


async def heard(db: Database) -> dict[tuple[str, int], float]:
    """How many seconds ago a process said something, by its role and its replica's number; only where that is less than a minute. Raises
    Unavailable."""
    found: dict[tuple[str, int], float] = {}
    for process, samples in (await processes(db)).items():
        of = process.partition("@")[0], int(process.rpartition("/")[2])
        for _, value in samples[metrics.SEEN.name]:
            assert isinstance(value, float), "a gauge"
            found[of] = min(value, found.get(of, value))
    return found


@dataclass(frozen=True, slots=True)
class Numbers:
    """Of the whole installation, as the database says."""

    samples: Samples
    relay_lag_s: float


async def installation(db: Database, now: datetime | None = None) -> Numbers:
    """`now`: the caller's clock, which is compared with the database's. Raises Unavailable."""
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["installation_numbers"], VERSIONS)
    assert row is not None, "a SELECT without FROM has one row"
    skew = ((now or datetime.now(UTC)) - row["now"]).total_seconds()
    lag = float(row["lag_s"] or 0.0)
    plain = {
        metrics.DATABASE_UP: 1.0,
        metrics.DATABASE_BYTES: row["bytes"],
        metrics.DATABASE_CLOCK: skew,
        metrics.POSITION: row["position"],
        metrics.WAITING: row["waiting"],
        metrics.RELAY_LAG: lag,
        metrics.POISON: row["poison"],
    }
    samples: dict[str, list[Sample]] = {family.name: [((), float(value))] for family, value in plain.items()}
    for family, column in (
        (metrics.HOSTS, "hosts"),
        (metrics.AGENTS, "agents"),
        (metrics.COMMANDS, "commands"),
        (metrics.READER_LAG, "readers"),
        (metrics.WORK_LAG, "work_lag"),
    ):
        counted: Mapping[str, float] = loads(row[column]) or {}
        samples[family.name] = [((name,), float(value)) for name, value in sorted(counted.items())]
    samples[metrics.WORK.name] = _work(loads(row["work"]) or [])
    return Numbers(samples, lag)


def _work(rows: list[Mapping[str, Any]]) -> list[Sample]:
    states = ("due", "later", "waiting", "running", "halted")
    return [((row["queue"], state), float(row[state])) for row in rows for state in states]


_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


def certificates(directory: Path | None, now: datetime) -> Samples:
    """How long those of a secrets directory last, in seconds, by file name; those that can't be read count as ended."""
    found: list[Sample] = []
    for path in sorted(directory.glob("*.crt")) if directory is not None else ():
        try:
            [first, *_] = _CERTIFICATE.findall(path.read_text())
            left = (x509.load_pem_x509_certificate(first.encode()).not_valid_after_utc - now).total_seconds()
        except (OSError, ValueError):
            left = 0.0
        found.append(((path.stem,), left))
    return {metrics.CERTIFICATES.name: found} if found else {}

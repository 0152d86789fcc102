"""Samples of everything that a leak could show in: memory, descriptors, threads and tasks of each process, and the database's sizes.

Long form: a sample is (seconds since the start, subject, measure, value), so that a new measure changes no reader. `Sampler.take` is
called every half minute and costs some ten milliseconds, most of it the kernel's adding up of PSS.
"""

import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import asyncpg
import psutil

from benchmarks.soak.installation import ROLES, Installation

ASYNCIO = ("broker", "inventory", "managers", "web")
ANSWER_S = 5.0
"""For a process to write its vitals."""
_SAID = re.compile(r"\bvitals\b.*")
_MIB = 2**20

TABLES = """
SELECT relname, pg_table_size(relid) AS size, pg_indexes_size(relid) AS indexes, n_live_tup, n_dead_tup
FROM pg_stat_user_tables WHERE pg_total_relation_size(relid) > 0
"""
WHOLE = """
SELECT pg_database_size(current_database()) AS database, pg_current_wal_lsn() - '0/0'::pg_lsn AS wal_written,
       (SELECT position FROM relay) AS position,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections
"""


class Sample(NamedTuple):
    at: float
    subject: str
    measure: str
    value: float


class Sampler:
    """Needs to be the installation's user, or root, and the superuser's view of its database is not needed."""

    def __init__(self, installation: Installation, began: float) -> None:
        self._it, self._began = installation, began

    async def take(self) -> list[Sample]:
        at = round(time.monotonic() - self._began, 1)
        found = [Sample(at, role, *one) for role in ROLES for one in self._process(role)]
        found += [Sample(at, role, *one) for role in ASYNCIO for one in self._vitals(role)]
        return found + [Sample(at, *one) for one in await self._database()]

    def _process(self, role: str) -> Iterator[tuple[str, float]]:
        """Of a process with all its children, together."""
        process = psutil.Process(self._it.pid(role))
        whole = [process, *process.children(recursive=True)]
        memory = [_rollup(one.pid) for one in whole]
        # Postgres' shared buffers fill up as they are meant to: what its processes have of their own would show a leak.
        yield "pss_mib", sum(each["Pss_Anon" if role == "postgres" else "Pss"] for each in memory) / 1024
        yield "rss_mib", sum(each["Rss"] for each in memory) / 1024
        yield "fds", sum(_there(one.num_fds) for one in whole)
        yield "threads", sum(_there(one.num_threads) for one in whole)
        yield "processes", len(whole)
        yield "cpu_s", sum(_there(partial(_cpu_s, one)) for one in whole)
        yield "started", process.create_time()

    def _vitals(self, role: str) -> Iterator[tuple[str, float]]:
        """What the process says when asked (broker.vitals)."""
        log = self._it.data / "log" / f"{role}.log"
        before = log.stat().st_size
        psutil.Process(self._it.pid(role)).send_signal(signal.SIGUSR1)
        said = _new_line(log, before)
        for name in ("tasks", "blocks"):
            found = re.search(rf'\b{name}"?[=:] ?(\d+)', said)
            if found is None:
                raise RuntimeError(f"{role} did not say its {name} within {ANSWER_S:.0f} s: {said!r}")
            yield name, float(found[1])

    async def _database(self) -> list[tuple[str, str, float]]:
        connection = await asyncpg.connect(self._it.database())
        try:
            tables, whole = await connection.fetch(TABLES), await connection.fetchrow(WHOLE)
        finally:
            await connection.close()
        assert whole is not None
        found = [("database", f"{name}_mib", float(whole[name]) / _MIB) for name in ("database", "wal_written")]
        found += [("database", name, float(whole[name])) for name in ("position", "connections")]
        # From its files, because only a superuser may ask Postgres.
        kept = sum(file.stat().st_size for file in (self._it.data / "postgres").glob("*/pg_wal/0*"))
        found.append(("database", "wal_kept_mib", kept / _MIB))
        for row in tables:
            table = f"table:{row['relname']}"
            found += [(table, "size_mib", row["size"] / _MIB), (table, "indexes_mib", row["indexes"] / _MIB)]
            found += [(table, "rows", float(row["n_live_tup"])), (table, "dead", float(row["n_dead_tup"]))]
        return found


def _rollup(pid: int) -> dict[str, int]:
    """KiB by name, of /proc/PID/smaps_rollup (proc(5)); zeros for a process that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return {"Pss": 0, "Pss_Anon": 0, "Rss": 0}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _there(ask: Callable[[], float]) -> float:
    try:
        return float(ask())
    except psutil.NoSuchProcess:
        return 0.0


def _new_line(log: Path, before: int) -> str:
    """The line of vitals written after `before`, or what there is when the time is up. A log that was moved away starts again at 0."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        with log.open("rb") as file:
            file.seek(before if log.stat().st_size >= before else 0)
            text = file.read().decode(errors="replace")
        if (found := _SAID.search(text)) and "\n" in text[found.start() :]:
            return text[text.rindex("\n", 0, found.start()) + 1 if "\n" in text[: found.start()] else 0 :].split("\n")[0]
        if time.monotonic() > deadline:
            return text[-200:]
        time.sleep(0.02)

"""The database as a file and back: `python -m inventory dump` and `load`, called by `fleetward backup` and `restore`.

`dump` is pg_dump of one moment, beside running services. `load` puts a dump in the place of everything that the database holds, in one
transaction together with what a restored installation needs (`restored.sql`): versions, positions and fences rise by 10^9, so that nothing
on a device or in a reader is ahead of the server; readers that have seen what is lost are told `gone`; each device is asked for everything
again. Services must not run meanwhile, because they remember what they have read. Decision: docs/adr/0015-backup-and-restore.md.

Source: design.md section 5 ("restore").
"""

import asyncio
import gzip
import io
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from inventory import schema
from inventory.db import APP, Database

CLEAR = """
SET client_min_messages = warning;
DO $$
DECLARE thing record;
BEGIN
    FOR thing IN
        SELECT c.oid::regclass AS name, c.relkind FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'S') AND NOT c.relispartition
          AND NOT EXISTS (SELECT 1 FROM pg_depend d
                          WHERE d.objid = c.oid AND d.refobjid <> c.oid AND d.deptype IN ('e', 'i', 'a')
                            AND d.classid = 'pg_class'::regclass)
    LOOP
        EXECUTE format('DROP %s %s CASCADE', CASE thing.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, thing.name);
    END LOOP;
    FOR thing IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace
          AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass)
    LOOP
        EXECUTE format('DROP FUNCTION %s CASCADE', thing.name);
    END LOOP;
END $$;
"""
"""What stands in the database goes: everything of ours is a table, a sequence or a function of the schema `public`, or goes with one."""

LEFT_OUT = ("process_metrics",)
"""Tables whose rows nobody will miss."""


class BackupError(Exception):
    """It can't be done; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a dump holds: migrations that made its schema, the last position of its change log, how many hosts."""

    schema: tuple[str, ...]
    position: int
    hosts: int


async def describe(url: str) -> Described:
    """Raises Unavailable, BackupError where there is no schema."""
    db = await Database.open(url, application="fleetward-backup", pool_size=1)
    try:
        async with db.acquire() as connection:
            if await connection.fetchval("SELECT to_regclass('tortoise_migrations')") is None:
                raise BackupError("the database holds no Fleetward: is it the right one?")
            names = [r["name"] for r in await connection.fetch("SELECT name FROM tortoise_migrations WHERE app = $1 ORDER BY name", APP)]
            position = await connection.fetchval("SELECT position FROM relay")
            hosts = await connection.fetchval("SELECT count(*) FROM host")
    finally:
        await db.close()
    return Described(tuple(names), position, hosts)


async def dump(url: str, programs: Path, to: Path) -> Described:
    """Write the database into a new file (0600), as compressed SQL. libpq's variables name the database to pg_dump.

    Raises BackupError, Unavailable."""
    described = await describe(url)
    command = [str(programs / "pg_dump"), "--format=plain", "--compress=gzip:6", "--no-owner", "--no-privileges"]
    command += [f"--exclude-table-data={table}" for table in LEFT_OUT]
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        done = await asyncio.to_thread(subprocess.run, command, stdout=out, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
        out.flush()
        os.fsync(out.fileno())
    if done.returncode != 0:
        raise BackupError(f"pg_dump failed: {_last_line(done.stderr)}")
    return described


async def load(url: str, programs: Path, dumped: Path, migrations: Sequence[str]) -> None:
    """Replace everything by a dump, and raise what must never fall. All or nothing. `migrations`: those of the dump's schema.

    Raises BackupError before anything is touched where this release does not know that schema, or where services run on the database."""
    unknown = sorted(set(migrations) - schema.known())
    if unknown:
        raise BackupError(f"the backup is of a newer release (it has the migration {unknown[0]}): install that release, or a later one")
    await _refuse_company(url)
    command = [str(programs / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-o", os.devnull, "-f", "-"]
    await asyncio.to_thread(_feed, command, dumped)


async def _refuse_company(url: str) -> None:
    db = await Database.open(url, application="fleetward-restore", pool_size=1)
    try:
        async with db.acquire() as connection:
            found = await connection.fetch(
                "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name LIKE 'fleetward-%' AND pid <> pg_backend_pid() ORDER BY 1"
            )
    finally:
        await db.close()
    if found:
        names = ", ".join(row["application_name"] for row in found)
        raise BackupError(f"services run on this database ({names}): stop inventory, managers and web first")


def _feed(command: Sequence[str], dumped: Path) -> None:
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert server.stdin is not None
    broken = False
    try:
        for part in _script(dumped):
            shutil.copyfileobj(part, server.stdin, 1024 * 1024)
    except BrokenPipeError:
        broken = True  # it has given up, and says why below
    _, said = server.communicate() if not broken else (None, _rest(server))
    if broken or server.returncode != 0:
        raise BackupError(f"the dump can't be loaded: {_last_line(said)}")


def _rest(server: "subprocess.Popen[bytes]") -> bytes:
    assert server.stderr is not None
    said = server.stderr.read()
    server.wait()
    return said


def _script(dumped: Path) -> Iterator[IO[bytes]]:
    """Clear, load, raise: what psql is given as one transaction."""
    yield io.BytesIO(CLEAR.encode())
    with gzip.open(dumped) as file:
        yield file  # type: ignore[misc]
    yield io.BytesIO(files(APP).joinpath("restored.sql").read_bytes())


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    errors = [line for line in lines if "ERROR" in line or "error:" in line]
    return (errors or lines or ["no reason given"])[-1][:500]


def as_json(described: Described) -> dict[str, Any]:
    return {"schema": list(described.schema), "position": described.position, "hosts": described.hosts}

"""What a simulated world asked of its database, asked once more of a real Postgres: the models of the statements against the statements.

The replay runs the same transactions in the same order with the same parameters, at the same times: `now()` and `clock_timestamp()` are
functions of a schema that goes before `pg_catalog`. Each answer must be the model's. What Postgres leaves open is not compared: the order
of rows without ORDER BY, the form of JSON text, and which row of several gets which number of a sequence.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from inventory.db import Database, Tx
from inventory.kinds import BY_NAME
from inventory.writer import Writer
from tests.simulation.database import Asked
from tests.simulation.memory import Memory, Row

CLOCKS = """
CREATE SCHEMA simulated;
CREATE FUNCTION simulated.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT current_setting('simulated.now')::timestamptz $$;
CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS $$ SELECT current_setting('simulated.clock')::timestamptz $$;
TRUNCATE ingest_lease;
"""
TIMES = "SELECT set_config('simulated.now', $1, false), set_config('simulated.clock', $2, false)"
SHADOW = "SET LOCAL search_path = simulated, pg_catalog, public"

NUMBERED = frozenset({"version", "updated_at", "nextval", "fence", "hash"})
"""What is numbered row by row in an order of Postgres's own, or hangs on that."""


class Replayed:
    """`asked`: how many statements. `different`: those that Postgres answers otherwise than their model, one example each."""

    def __init__(self) -> None:
        self.asked = 0
        self.different: dict[str, str] = {}


async def replay(url: str, record: Sequence[Asked], shards: Sequence[str]) -> Replayed:
    """Ask everything again, in a database that has the product's schema and nothing else."""
    db = await Database.open(url, application="replay", pool_size=1)
    replayed = Replayed()
    try:
        async with db.acquire() as connection:
            await connection.execute(CLOCKS)
            await connection.executemany("INSERT INTO ingest_lease (shard, fence) VALUES ($1, 0)", [(shard,) for shard in shards])
        for transaction in _transactions(record):
            await _again(db, transaction, replayed)
    finally:
        await db.close()
    return replayed


async def _again(db: Database, transaction: "Transaction", replayed: Replayed) -> None:
    with suppress(_Undone):
        async with db.transaction() as tx:
            await tx.raw.execute(SHADOW)
            for asked in transaction:
                await tx.raw.execute(TIMES, str(asked.now), str(asked.clock))
                if difference := await _ask(tx, asked):
                    replayed.different.setdefault(asked.what, difference)
                replayed.asked += 1
            if not transaction.kept:
                raise _Undone


class _Undone(Exception):
    """The transaction was not committed in the simulated world either."""


def _transactions(record: Sequence[Asked]) -> list["Transaction"]:
    found: list[Transaction] = []
    for asked in record:
        match asked.what:
            case "BEGIN":
                found.append(Transaction())
            case "COMMIT" | "ROLLBACK":
                found[-1].kept = asked.what == "COMMIT"
            case _:
                found[-1].append(asked)
    return found


class Transaction(list[Asked]):
    """What was asked between its beginning and its end. `kept`: it was committed."""

    kept = False


async def _ask(tx: Tx, asked: Asked) -> str:
    """What is different; empty where nothing is."""
    if asked.what in ("insert", "update", "delete"):
        await _write_row(tx, asked)
        return ""
    rows = [dict(row) for row in await tx.raw.fetch(asked.what, *asked.args)]
    found, expected = _comparable(rows), _comparable(asked.result or [])
    return "" if found == expected else f"{asked.args}: Postgres says {found}, the model {expected}"


async def _write_row(tx: Tx, asked: Asked) -> None:
    kind, id, values = asked.args
    writer = Writer(tx, asked.now)
    match asked.what:
        case "insert":
            await writer._insert_row(BY_NAME[kind], dict(values))
        case "update":
            await writer._update_row(BY_NAME[kind], id, dict(values))
        case _:
            await writer._delete_row(BY_NAME[kind], id)


def _comparable(rows: Sequence[Row]) -> list[str]:
    return sorted(json.dumps({name: _plain(v) for name, v in row.items() if name not in NUMBERED}, sort_keys=True) for row in rows)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp(), 5)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    return value


async def tables(url: str, memory: Memory) -> dict[str, tuple[list[str], list[str]]]:
    """The tables that are not the same at the end: what Postgres has, and what the model has."""
    db = await Database.open(url, application="replay", pool_size=1)
    different = {}
    try:
        async with db.acquire() as connection:
            for name, table in memory.tables.items():
                rows = [dict(row) for row in await connection.fetch(f'SELECT * FROM "{name}"')]
                expected = list(table.rows.values())
                shared = set(rows[0]) & set(expected[0]) if rows and expected else set()
                found = _comparable([{n: row[n] for n in shared} for row in rows])
                wanted = _comparable([{n: row[n] for n in shared} for row in expected])
                if found != wanted:
                    different[name] = found, wanted
    finally:
        await db.close()
    return different

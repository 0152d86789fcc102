"""Somebody with the database in their hands: ways to change the change log's rows, and where each must show.

Each takes dice and a connection within a transaction that the test undoes, and gives the positions of which one must be named.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from inventory import changes
from inventory.db import Connection

Tamper = Callable[[random.Random, Connection], Awaitable[Sequence[int]]]

COLUMNS = "position, kind, resource_id, op, version, generation, changed, resource, before, host, actor, at, hash"


async def last(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT max(position) FROM changes"))


def some(dice: random.Random, most: int) -> int:
    return dice.randint(1, most)


async def edit(dice: random.Random, connection: Connection) -> Sequence[int]:
    """One member of one row gets another value, or its hash does."""
    return (await _edit(dice, connection, EDITS + HASHES),)


async def _edit(dice: random.Random, connection: Connection, edits: Sequence[tuple[str, str]]) -> int:
    at = some(dice, await last(connection))
    column, value = dice.choice(edits)
    await connection.execute(f"UPDATE changes SET {column} = {value} WHERE position = $1", at)
    return at


EDITS = (
    ("kind", "kind || 's'"),
    ("kind", "upper(kind)"),
    ("resource_id", "reverse(resource_id)"),
    ("op", "CASE op WHEN 'deleted' THEN 'updated' ELSE 'deleted' END"),
    ("version", "version + 1"),
    ("generation", "generation - 1"),
    ("changed", "changed || '[\"title\"]'"),
    ("resource", "CASE WHEN resource IS NULL THEN '{}'::jsonb ELSE NULL END"),
    ("resource", "coalesce(resource, '{}') || '{\"name\": \"other\"}'"),
    ("before", "CASE WHEN before IS NULL THEN 'null'::jsonb ELSE NULL END"),
    ("before", "coalesce(before, '{}') || '{\"role\": \"admin\"}'"),
    ("host", "CASE WHEN host IS NULL THEN '' ELSE NULL END"),
    ("host", "coalesce(host, '') || 'x'"),
    ("actor", 'actor || \'{"name": "mallory"}\''),
    ("actor", 'actor || \'{"address": "203.0.113.9"}\''),
    ("actor", "actor - 'type'"),
    ("at", "at + interval '1 microsecond'"),
    ("at", "at - interval '1 day'"),
    ("at", "'infinity'"),
    ("at", "'20000-01-01'"),
)
HASHES = (("hash", "sha256(hash)"), ("hash", "''"))


async def remove(dice: random.Random, connection: Connection) -> Sequence[int]:
    """Some rows in a row go."""
    first = some(dice, await last(connection))
    await connection.execute("DELETE FROM changes WHERE position BETWEEN $1 AND $2", first, first + dice.randint(0, 4))
    return (first,)


async def swap(dice: random.Random, connection: Connection) -> Sequence[int]:
    """Two rows change places, with their hashes or without."""
    one, other = sorted(dice.sample(range(1, await last(connection) + 1), 2))
    moved = COLUMNS.removeprefix("position, ").removesuffix("" if dice.random() < 0.5 else ", hash")
    new = ", ".join(f"{name} = b.{name}" for name in moved.split(", "))
    await connection.execute(
        f"UPDATE changes a SET {new} FROM changes b WHERE (a.position, b.position) IN (($1::bigint, $2::bigint), ($2, $1))", one, other
    )
    return (one, other)


async def close_ranks(dice: random.Random, connection: Connection) -> Sequence[int]:
    """A row goes and all behind it move up, the relay's word of the end too."""
    end = await last(connection)
    at = some(dice, end)
    await connection.execute("DELETE FROM changes WHERE position = $1", at)
    for position in range(at + 1, end + 1):
        await connection.execute("UPDATE changes SET position = position - 1 WHERE position = $1", position)
    await connection.execute("UPDATE relay SET position = position - 1")
    return range(at - 1, end + 1)


async def insert(dice: random.Random, connection: Connection) -> Sequence[int]:
    """A row that never was, at the end, with a hash that fits or one that does not."""
    end = await last(connection)
    row = await connection.fetchrow("SELECT * FROM changes WHERE position = $1", some(dice, end))
    assert row is not None
    digest = await connection.fetchval("SELECT hash FROM changes WHERE position = $1", end)
    fitting = changes.chain(bytes(digest), end + 1, row) if dice.random() < 0.5 else dice.randbytes(32)
    await _put(connection, dict(row) | {"position": end + 1, "hash": fitting})
    return (end, end + 1)


async def cut(dice: random.Random, connection: Connection) -> Sequence[int]:
    """The last rows go, and the relay goes on from where they stood on."""
    end = await last(connection)
    kept = dice.randint(0, end - 1)
    await connection.execute("DELETE FROM changes WHERE position > $1", kept)
    digest = await connection.fetchval("SELECT hash FROM changes WHERE position = $1", kept)
    await connection.execute("UPDATE relay SET position = $1, hash = $2", kept, digest or b"")
    return range(kept, end + 1)


async def recompute(dice: random.Random, connection: Connection) -> Sequence[int]:
    """A row is edited and every hash from it on computed anew, the relay's too: the chain fits again."""
    at, end = await _edit(dice, connection, EDITS), await last(connection)
    await connection.execute("UPDATE changes SET at = now() WHERE NOT isfinite(at) OR at > '9000-01-01'")
    await _rehash(connection, at)
    return range(at, end + 1)


async def rehash_one(dice: random.Random, connection: Connection) -> Sequence[int]:
    """A row is edited, and its own hash made to fit."""
    at = some(dice, await last(connection))
    await connection.execute('UPDATE changes SET actor = actor || \'{"name": "mallory"}\' WHERE position = $1', at)
    await _rehash(connection, at, only=True)
    return (at, at + 1)


async def excuse(dice: random.Random, connection: Connection) -> Sequence[int]:
    """Rows go, and a gap is noted as after a restore, with a signature of somebody else's."""
    end = await last(connection)
    first = dice.randint(2, end - 1)
    before = dice.randint(first, end - 1)
    await connection.execute("DELETE FROM changes WHERE position BETWEEN $1 AND $2", first, before)
    signature = None if dice.random() < 0.5 else dice.randbytes(64)
    await connection.execute("INSERT INTO log_gaps (after, before, at, signature) VALUES ($1, $2, now(), $3)", first - 1, before, signature)
    return (first - 1, first)


async def behead(dice: random.Random, connection: Connection) -> Sequence[int]:
    """The first rows go, as retention would have it, with an anchor that nobody has signed, or none."""
    floor = some(dice, await last(connection) - 1)
    digest = await connection.fetchval("SELECT hash FROM changes WHERE position = $1", floor)
    await connection.execute("DELETE FROM changes WHERE position <= $1", floor)
    await connection.execute("UPDATE relay SET floor = $1", floor)
    if dice.random() < 0.7:
        signature = None if dice.random() < 0.5 else dice.randbytes(64)
        await connection.execute(
            "INSERT INTO change_anchors (position, hash, at, signature) VALUES ($1, $2, now(), $3)", floor, digest, signature
        )
    return (floor,)


WAYS: tuple[Tamper, ...] = (edit, edit, edit, edit, remove, swap, close_ranks, insert, cut, recompute, rehash_one, excuse, behead)


async def _rehash(connection: Connection, at: int, *, only: bool = False) -> None:
    digest = bytes(await connection.fetchval("SELECT hash FROM changes WHERE position = $1", at - 1) or b"")
    for row in await connection.fetch("SELECT * FROM changes WHERE position >= $1 ORDER BY position LIMIT $2", at, 1 if only else None):
        digest = changes.chain(digest, row["position"], row)
        await connection.execute("UPDATE changes SET hash = $2 WHERE position = $1", row["position"], digest)
    if not only:
        await connection.execute("UPDATE relay SET hash = $1", digest)


async def _put(connection: Connection, row: dict[str, Any]) -> None:
    names = COLUMNS.split(", ")
    marks = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    await connection.execute(f"INSERT INTO changes ({COLUMNS}) VALUES ({marks})", *(row[name] for name in names))

"""The audit trail as people read it: changes by who, from where, what and when, newest first in pages or oldest first as a whole.

An entry is a change with the old and new values of what changed, and its hash. Without a choice of actors that leaves out devices and
managers a page looks at no more than WINDOW positions, and says where to go on: the log may be a hundred times as long, and what is
looked for at its other end. What people and programs did has an index of its own.

Called by `web.api.audit` and the audit page. Source: docs/adr/0018-audit.md.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inventory.db import Database, loads
from inventory.resource import ReadRow, time_text

PEOPLE = ("user", "token", "integration", "stranger", "system")
"""The types of actors whose changes are indexed: those that want something, and not those that bring it about."""
OTHERS = ("manager", "device", "inventory")
WINDOW = 200_000
"""Positions that a page without the index looks at: some tenths of a second."""
PORTION = 500
"""Rows of an export at once."""

_PEOPLE = f"actor->>'type' IN ({', '.join(repr(type_) for type_ in PEOPLE)})"
"""As in the index's own definition, or it is not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to show; empty: all. path: a changed member, such as `role` or `labels.line`. since is included, until is not."""

    types: tuple[str, ...] = ()
    actor: str = ""
    address: str = ""
    kinds: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    id: str = ""
    path: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def indexed(self) -> bool:
        return bool(self.types) and set(self.types) <= set(PEOPLE)


@dataclass(frozen=True, slots=True)
class Entries:
    """Newest first, and the position to go on below; None: that was all."""

    items: list[dict[str, Any]]
    next: int | None


async def page(db: Database, wanted: Wanted, *, before: int | None = None, limit: int = 100) -> Entries:
    """The newest entries below a position. May hold fewer than `limit`, or none, and still have a `next`. Raises Unavailable."""
    async with db.acquire() as connection:
        floor: int = await connection.fetchval("SELECT floor FROM relay")
        # The highest there is, since a restore leaves a thousand million positions out.
        top: int = await connection.fetchval("SELECT coalesce(max(position), 0) FROM changes WHERE position < $1", before or 2**62)
        bottom = floor if wanted.indexed else max(floor, top - WINDOW)
        conditions, values = _conditions(wanted, [bottom, top, limit])
        rows = await connection.fetch(
            f"SELECT * FROM changes WHERE position > $1 AND position <= $2{conditions} ORDER BY position DESC LIMIT $3", *values
        )
    if len(rows) == limit:
        return Entries([entry(row) for row in rows], rows[-1]["position"])
    return Entries([entry(row) for row in rows], bottom + 1 if bottom > floor else None)


async def everything(db: Database, wanted: Wanted, *, after: int = 0) -> AsyncIterator[list[dict[str, Any]]]:
    """All entries after a position, oldest first, up to where the log ends now, in portions: a live log of any length, in constant memory.

    Raises Unavailable."""
    async with db.acquire() as connection:
        end: int = await connection.fetchval("SELECT position FROM relay")
    while after < end:
        # Without the index, portions of positions and not of rows: one that holds nothing wanted must not take long.
        upper = end if wanted.indexed else min(end, after + WINDOW)
        conditions, values = _conditions(wanted, [after, upper, PORTION])
        async with db.acquire() as connection:
            rows = await connection.fetch(
                f"SELECT * FROM changes WHERE position > $1 AND position <= $2{conditions} ORDER BY position LIMIT $3", *values
            )
            if not rows and not wanted.indexed:
                beyond = await connection.fetchval("SELECT min(position) FROM changes WHERE position > $1", upper)
                upper = end if beyond is None else beyond - 1
        after = rows[-1]["position"] if len(rows) == PORTION else upper
        yield [entry(row) for row in rows]


def entry(row: ReadRow) -> dict[str, Any]:
    """An entry as JSON. `after`: what changed as it is now, of what was made all; `before`: what changed as it was, of what is gone all."""
    changed, after = loads(row["changed"]), loads(row["resource"])
    if row["op"] == "updated" and after is not None:
        heads = {str(path).split(".")[0] for path in changed}
        after = {name: value for name, value in after.items() if name in heads}
    return {
        "position": row["position"],
        "at": time_text(row["at"]),
        "actor": loads(row["actor"]),
        "kind": row["kind"],
        "id": row["resource_id"],
        "op": row["op"],
        "changed": changed,
        "before": loads(row["before"]),
        "after": after,
        "host": row["host"],
        "version": row["version"],
        "hash": bytes(row["hash"]).hex(),
    }


def _conditions(wanted: Wanted, values: list[Any]) -> tuple[str, list[Any]]:
    """SQL behind the WHERE's first terms, and all parameters."""
    terms = [_PEOPLE] if wanted.indexed else []
    for sql, value in (
        ("actor->>'type' = ANY (${}::text[])", list(wanted.types)),
        ("actor->>'name' = ${}", wanted.actor),
        ("actor->>'address' = ${}", wanted.address),
        ("kind = ANY (${}::text[])", list(wanted.kinds)),
        ("op = ANY (${}::text[])", list(wanted.ops)),
        ("resource_id = ${}", wanted.id),
        ("changed ? ${}", wanted.path),
        ("at >= ${}", wanted.since),
        ("at < ${}", wanted.until),
    ):
        if value:
            values.append(value)
            terms.append(sql.format(len(values)))
    return "".join(f" AND {term}" for term in terms), values


def types_of(words: Sequence[str]) -> tuple[str, ...]:
    """The types of actors that words stand for: `people` for all that are indexed, else their own."""
    return tuple(dict.fromkeys(type_ for word in words for type_ in (PEOPLE if word == "people" else (word,))))

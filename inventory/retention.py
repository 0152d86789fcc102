"""How long things are kept, and the deleting of what is older: in portions, each a short transaction, so that nobody waits for it.

Resources (commands, notifications) go through the store like every write, with their change, so that who watches sees them go. What is no
resource (logs, messages set aside, idempotency keys) goes by bare statements, oldest first by primary key, which needs no index on times.
Changes go by whole partitions. Called once an hour by `inventory.service`; two replicas at once only share the work.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from inventory import changes, idempotency
from inventory.actor import Actor
from inventory.db import SQL
from inventory.ids import first_id
from inventory.kinds import BY_NAME
from inventory.seals import Sealer
from inventory.store import Store

log = logging.getLogger(__name__)

PORTION = 500
"""Rows a transaction: some tenths of a second of work at most."""
MOST = 200_000
"""Rows of one table in one round, so that a round ends even after retention was shortened from a year to a day; the next goes on."""

CERTIFICATES = timedelta(days=90)
"""Certificates after their end: whose one was is asked long after it could be used."""

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long what is kept. As text: a number and h, d or w, such as `30d`."""

    changes: timedelta = timedelta(days=90)
    """The change log, which is history and audit: a quarter. Whole partitions of a million changes go, so it may be longer."""
    commands: timedelta = timedelta(days=30)
    """Commands after their end: a month to look into what went wrong. The last command of a host-config that is not as wanted stays."""
    notifications: timedelta = timedelta(days=90)
    """Notifications, read or not: as long as the changes that they tell of."""
    logs: timedelta = timedelta(days=30)
    """What devices logged: as long as their commands."""
    poison: timedelta = timedelta(days=30)
    """Device messages that could not be used: long enough to be looked at. At most 20 a device are kept in any case."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Retention":
        """From FLEETWARD_KEEP_CHANGES and so on. Raises ValueError naming the variable."""
        given = {field.name: environment.get(f"FLEETWARD_KEEP_{field.name.upper()}") for field in fields(cls)}
        return cls(**{name: duration(f"FLEETWARD_KEEP_{name.upper()}", text) for name, text in given.items() if text is not None})


def duration(variable: str, text: str) -> timedelta:
    """A number and h, d or w. Raises ValueError naming the variable."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([hdw])", text)
    if found is None:
        raise ValueError(f"{variable} must be a number and h, d or w, such as 30d, not {text!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


async def clean(store: Store, keep: Retention, now: datetime, sealer: Sealer | None = None) -> dict[str, int]:
    """Delete what is older; how many rows of each went. Changes stay where there is no `sealer` to sign where the log then begins.

    Raises Unavailable; what went until then is gone."""
    gone = {
        "idempotency": await _in_portions(lambda: idempotency.forget(store, now, PORTION)),
        "commands": await _commands(store, now - keep.commands),
        "notifications": await _notifications(store, now - keep.notifications),
        "logs": await _in_portions(lambda: _rows(store, "trim_logs", now - keep.logs)),
        "poison": await _in_portions(lambda: _rows(store, "trim_old_poison", now - keep.poison)),
        "certificates": await _in_portions(lambda: _rows(store, "forget_certificates", now - CERTIFICATES)),
    }
    if sealer is not None:
        await changes.trim(store.db, now - keep.changes, sealer.anchor)
    if any(gone.values()):
        log.info("old rows deleted", extra=gone)
    return gone


async def _in_portions(portion: Callable[[], Awaitable[int]]) -> int:
    total = 0
    while total < MOST and (gone := await portion()):
        total += gone
    return total


async def _rows(store: Store, statement: str, before: datetime) -> int:
    async with store.db.acquire() as connection:
        rows = await connection.fetch(SQL[statement], before, PORTION)
    return len(rows)


async def _commands(store: Store, before: datetime) -> int:
    return await _resources(store, "command", "old_commands", before)


async def _notifications(store: Store, before: datetime) -> int:
    return await _resources(store, "notification", "old_notifications", before)


async def _resources(store: Store, kind: str, selection: str, before: datetime) -> int:
    """Ids tell when they were made, so the primary key finds the old ones; what must stay is passed by once a round."""
    total, after, end = 0, "", first_id(BY_NAME[kind].prefix, before)
    while total < MOST:
        async with store.db.acquire() as connection:
            rows = await connection.fetch(SQL[selection], after, end, before, PORTION)
        if not rows:
            break
        after = rows[-1]["id"]
        total += await _remove(store, kind, [row["id"] for row in rows if row["old"]])
    return total


async def _remove(store: Store, kind: str, ids: list[str]) -> int:
    async def once() -> int:
        async with store.transaction() as w:
            there = await w.existing(BY_NAME[kind], ids)
            for id in there:
                await w.remove(BY_NAME[kind], id, Actor.inventory())
            return len(there)

    return await store.retrying(once) if ids else 0

"""The sending of commands, as far as it is in the database: what is due, the fences to sign with, what was sent. Called by
`managers.dispatch`, which decides, signs and publishes; an end is written through the store, as it makes a change.

Between its making and its end a command changes without changes or versions (design.md section 5).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inventory.db import SQL, Connection, Tx, loads


@dataclass(frozen=True, slots=True)
class DueCommand:
    """A command that wants attention, locked. `session`: the device's current one; `sent_session`: the one that it was sent to last;
    `first_fence`: what it was signed with first."""

    id: str
    host: str
    verb: str
    args: Mapping[str, Any]
    resource: Mapping[str, Any] | None
    state: str
    attempt: int
    timeout_s: int
    not_after: datetime
    first_fence: int | None
    sends: int
    sent_session: str | None
    session: str | None
    presence: str
    host_state: str
    enrolled: bool
    now: datetime
    """What time it is by the clock that all replicas share."""
    sealed: str | None = None
    """What belongs to its arguments besides (`managers.sealed_args`)."""


async def take_due(tx: Tx, now: datetime | None, limit: int) -> list[DueCommand]:
    """Lock commands that are due and that no other replica is at. `now`: for tests."""
    rows = await tx.raw.fetch(SQL["due_commands"], now, limit)
    return [DueCommand(**{**row, "args": loads(row["args"]), "resource": loads(row["resource"])}) for row in rows]


async def take_fences(tx: Tx, hosts: Sequence[str]) -> dict[str, list[int]]:
    """For each host as many new numbers, rising, as it is named."""
    wanted = Counter(hosts)
    rows = await tx.raw.fetch(SQL["take_fences"], list(wanted), list(wanted.values()))
    return {row["host"]: list(range(row["fence"] - wanted[row["host"]] + 1, row["fence"] + 1)) for row in rows}


@dataclass(frozen=True, slots=True)
class Sent:
    """A command that was signed with `fence`, and when it is to be looked at again."""

    command: DueCommand
    due_at: datetime
    fence: int


async def note_sent(tx: Tx, sent: Sequence[Sent], now: datetime) -> None:
    if sent:
        await tx.raw.execute(
            SQL["commands_sent"],
            [one.command.id for one in sent],
            [one.command.session for one in sent],
            [one.due_at for one in sent],
            [one.fence for one in sent],
            now,
        )


async def note_waiting(tx: Tx, waiting: Sequence[tuple[DueCommand, datetime]]) -> None:
    if waiting:
        await tx.raw.execute(SQL["commands_wait"], [command.id for command, _ in waiting], [due for _, due in waiting])


async def rouse(connection: Connection, now: datetime | None) -> int:
    """Make due what was sent to a session that is over; how many."""
    return len(await connection.fetch(SQL["rouse_commands"], now))

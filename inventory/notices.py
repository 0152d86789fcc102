"""What people have been told, and what there is to tell: reads and bookkeeping for the manager that makes notifications.

Told is told: `host_told`, `component.told_present` and `host_config.told_halted` are no part of any resource, so nothing here makes a
change or a version. Called by `managers.kinds.notification`; the statements are in queries.sql.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inventory.db import SQL, Connection, Tx, loads


@dataclass(frozen=True, slots=True)
class Told:
    """What people know of a host. `presence`: online or offline."""

    presence: str
    boot_id: str | None
    agent_version: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A host as it is. `known`: it has sent facts. `told` None: nobody has heard of it yet."""

    id: str
    name: str
    title: str
    site: str | None
    site_name: str | None
    presence: str
    boot_id: str | None
    agent_version: str | None
    known: bool
    told: Told | None


@dataclass(frozen=True, slots=True)
class Part:
    """A component that is not as people were told; `told_present` None: they were told nothing."""

    host: str
    type: str
    key: str
    attributes: Mapping[str, Any]
    present: bool
    told_present: bool | None


@dataclass(frozen=True, slots=True)
class Halt:
    """A host-config that has halted, or does no more, since people were told."""

    id: str
    config: str
    config_name: str
    host: str
    host_name: str
    reason: str
    message: str
    halted: bool


@dataclass(frozen=True, slots=True)
class Asking:
    """A device that people have not heard of and that asked to be let in. `waits`: nobody has decided yet. `replaces`: a host's name."""

    host: str
    name: str
    waits: bool
    serial: str | None
    address: str | None
    replaces: str | None


async def hosts(connection: Connection, ids: Sequence[str]) -> list[Seen]:
    return [_seen(row) for row in await connection.fetch(SQL["told_hosts"], list(ids))]


def _seen(row: Any) -> Seen:
    told = Told(row["told_presence"], row["told_boot_id"], row["told_agent_version"]) if row["told"] else None
    names = ("id", "name", "title", "site", "site_name", "presence", "boot_id", "agent_version", "known")
    return Seen(**{name: row[name] for name in names}, told=told)


async def parts(connection: Connection, hosts: Sequence[str]) -> dict[str, list[Part]]:
    """Components to tell of, by host."""
    found: dict[str, list[Part]] = {host: [] for host in hosts}
    for r in await connection.fetch(SQL["untold_components"], list(hosts)):
        found[r["host"]].append(Part(r["host"], r["type"], r["key"], loads(r["attributes"]), r["present"], r["told_present"]))
    return found


async def component_counts(connection: Connection, hosts: Sequence[str]) -> dict[str, int]:
    """How many components are present."""
    return {row["host"]: row["n"] for row in await connection.fetch(SQL["count_components"], list(hosts))}


async def asking(connection: Connection, hosts: Sequence[str]) -> list[Asking]:
    rows = await connection.fetch(SQL["untold_requests"], list(hosts))
    return [Asking(r["host"], r["title"] or r["name"], r["waits"], r["serial"], r["address"], r["replaces"]) for r in rows]


async def halts(connection: Connection, configs: Sequence[str]) -> list[Halt]:
    rows = await connection.fetch(SQL["untold_halts"], list(configs))
    return [
        Halt(r["id"], r["config"], r["config_name"], r["host"], r["host_name"], r["reason"] or "", r["message"] or "", r["halted"])
        for r in rows
    ]


async def tell_hosts(tx: Tx, told: Mapping[str, Told]) -> None:
    rows = list(told.values())
    await tx.raw.execute(
        SQL["tell_hosts"], list(told), [t.presence for t in rows], [t.boot_id for t in rows], [t.agent_version for t in rows]
    )


async def tell_parts(tx: Tx, told: Sequence[Part]) -> None:
    await tx.raw.execute(
        SQL["tell_components"], [p.host for p in told], [p.type for p in told], [p.key for p in told], [p.present for p in told]
    )


async def tell_asking(tx: Tx, told: Sequence[Asking]) -> None:
    await tx.raw.execute(SQL["tell_requests"], [one.host for one in told])


async def tell_halts(tx: Tx, told: Sequence[Halt]) -> None:
    await tx.raw.execute(SQL["tell_halts"], [h.id for h in told], [h.halted for h in told])

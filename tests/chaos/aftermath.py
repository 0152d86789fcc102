"""Looking at what is left: whether the installation has converged, and, at the end, everything that the checkers want to see."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from inventory import changes
from inventory.db import loads
from inventory.errors import Unavailable
from inventory.kinds import BY_NAME
from tests.chaos.checks import content
from tests.chaos.ground import Ground, ledger_of
from tests.chaos.history import Effect, Ended, History, Row
from tests.waiting import Deadline

UNDER_WAY = "state = queued OR state = sent OR state = accepted OR state = running"
READ_S = 20.0
"""For the reader, which asks every fifth of a second, to come to the end of the log."""
QUIET = """
SELECT NOT EXISTS (SELECT 1 FROM changes_in)
   AND NOT EXISTS (SELECT 1 FROM work WHERE manager <> 'notification' AND NOT halted
                   AND (lease_until IS NOT NULL OR due_at <= now() + interval '2 seconds'))
   AND (SELECT position FROM relay) = (SELECT position FROM cursors WHERE name = 'managers')
"""


async def lacking(ground: Ground, history: History) -> str:
    """What is not yet as it should be, in words; empty when all is."""
    try:
        async with asyncio.timeout(10):
            for look in (_offline, _unsettled, _commands, _undiscovered, _files, _busy):
                if missing := await look(ground, history):
                    return missing
    except (httpx.HTTPError, Unavailable, TimeoutError, OSError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


async def _offline(ground: Ground, history: History) -> str:
    missing = [h for h in await ground.items("hosts") if h["presence"] != "online" or h["current_state"] != "onboarded"]
    return f"{len(missing)} hosts not online: {', '.join(ground.hosts.get(str(h['id']), '?') for h in missing[:5])}" if missing else ""


async def _unsettled(ground: Ground, history: History) -> str:
    found = await ground.items("host-configs", 'NOT status.indicator = "idle"')
    first = found[0] if found else {}
    return f"{len(found)} host-configs not settled, the first: {ground.hosts.get(first['host'])} {first['status']}" if found else ""


async def _commands(ground: Ground, history: History) -> str:
    found = await ground.items("commands", UNDER_WAY)
    return f"{len(found)} commands under way, such as {found[0]['id']} ({found[0]['verb']}, {found[0]['state']})" if found else ""


async def _undiscovered(ground: Ground, history: History) -> str:
    known = await components(ground)
    missing = [d for d in history.discoveries if (d.host, d.key) not in known]
    return f"{len(missing)} disks not known, the first of {ground.hosts[missing[0].host]} ({missing[0].key})" if missing else ""


async def _files(ground: Ground, history: History) -> str:
    wanted = await wanted_files(ground)
    for device, held in files(ground).items():
        for name, text in held.items():
            if text != wanted.get(name):
                return f"the file of {device} holds {text!r}, not {wanted.get(name)!r}"
    return ""


async def _busy(ground: Ground, history: History) -> str:
    async with ground.pool.acquire() as connection:
        return "" if await connection.fetchval(QUIET) else "the managers have something to do"


async def components(ground: Ground) -> set[tuple[str, str]]:
    return {(c["host"], c["key"]) for c in await ground.items("components", "type = disk AND present = true")}


async def wanted_files(ground: Ground) -> dict[str, str]:
    return {config["name"]: content(config) or "" for config in await ground.items("configs")}


def files(ground: Ground) -> dict[str, dict[str, str]]:
    return {device.name: {device.name: _text(device.file)} for device in ground.devices.values()}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def collect(ground: Ground, history: History) -> None:
    """Everything that was not recorded on the way."""
    history.rows = await _rows(ground)
    history.components = await components(ground)
    history.wanted = await wanted_files(ground)
    history.files = files(ground)
    history.commands = [
        Ended(c["id"], c["host"], c["verb"], c["state"], (c["late_result"] or {}).get("state")) for c in await ground.items("commands")
    ]
    for device in ground.devices.values():
        for line in _text(ledger_of(device)).splitlines():
            command, _, phase = line.partition(" ")
            history.effects.append(Effect(device.host, command, phase))
    await _until_read(ground, history)
    last = history.rows[-1].position
    history.events = [event for event in history.events if event.position <= last]


async def _rows(ground: Ground) -> list[Row]:
    """The log from the database, not from the API: its hashes are compared here with what they should be."""
    rows: list[Row] = []
    digest = b""
    async with ground.pool.acquire() as connection:
        for row in await connection.fetch("SELECT * FROM changes ORDER BY position"):
            digest = changes.chain(digest, row["position"], row)
            good = digest == bytes(row["hash"])
            digest = bytes(row["hash"])
            resource: Mapping[str, Any] | None = loads(row["resource"])
            rows.append(
                Row(
                    position=row["position"],
                    id=row["resource_id"],
                    op=row["op"],
                    version=row["version"],
                    kind=row["kind"],
                    resource=dict(resource) if resource else None,
                    good=good,
                    published=row["kind"] in BY_NAME and BY_NAME[row["kind"]].published,
                )
            )
    return rows


async def _until_read(ground: Ground, history: History) -> None:
    """The reader is given the time to come to the end of what it is told of."""
    last, deadline = max(row.position for row in history.rows if row.published), Deadline(READ_S)
    while not deadline.over() and not (history.events and history.events[-1].position >= last):
        await asyncio.sleep(0.1)

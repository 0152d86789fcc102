"""What devices reported, as rows: facts, statuses, results and logs of a batch, each in as few statements as there are kinds.

`Reports` gathers the bodies that a transaction takes, in the order of each device; `write` puts them into the database through the
`BulkWriter` of that transaction. A device writes only what is its own; what names the rows of another host is left out. Of commands,
`accepted` and `running` are plain updates (they make no change), the end is a write like any other, and what comes later is kept beside it.

Called by `inventory.ingest`. Source: design.md sections 4 and 5.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from broker.messages import CommandState, Facts, Item, Log, Result, Status
from inventory import facts
from inventory.actor import Actor
from inventory.bulk import BulkWriter
from inventory.db import SQL, dumps
from inventory.kinds import BY_NAME
from inventory.resource import Resource, time_text
from inventory.validate import Values

log = logging.getLogger(__name__)

HOST, COMPONENT, HOST_CONFIG, COMMAND = (BY_NAME[name] for name in ("host", "component", "host-config", "command"))

Hashes = Mapping[str, str]
"""Section → hash."""

_PROGRESS = ("queued", "sent", "accepted", "running")
"""What a command goes through before its end; it never goes back."""

TOLD_SEVERITIES = ("error", "critical")
"""Logs of these are also made notifications."""


@dataclass(slots=True)
class Reports:
    """The bodies of one transaction. `known`: the hashes of the sections that are stored, of every host in `sections`."""

    sections: dict[str, dict[str, facts.Values]] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    manifests: dict[str, Hashes] = field(default_factory=dict)
    statuses: dict[str, list[Status]] = field(default_factory=dict)
    results: dict[tuple[str, str], Result] = field(default_factory=dict)
    """By who said it and of which command: what another device says of it must not take the place of what its own does."""
    logs: list[tuple[str, Log]] = field(default_factory=list)
    host_values: dict[str, Values] = field(default_factory=dict)
    presence: set[str] = field(default_factory=set)
    """Hosts whose values are Inventory's own (`presence`), not the device's alone."""
    ended: list[str] = field(default_factory=list)
    """The final states of commands that these reports ended; filled by `write`."""
    misplaced: int = 0
    """Results of commands that are not their sender's; filled by `write`."""

    def add_facts(self, host: str, message: Facts) -> None:
        self.sections.setdefault(host, {}).update({name: section.data for name, section in message.sections.items()})
        self.hashes.setdefault(host, {}).update({name: section.hash for name, section in message.sections.items()})
        self.manifests[host] = message.manifest

    def add_status(self, host: str, message: Status) -> None:
        self.statuses.setdefault(host, []).append(message)

    def add_result(self, host: str, message: Result) -> None:
        """Of several for one command the last one counts, unless it is progress after an end."""
        earlier = self.results.get((host, message.command))
        if earlier is None or not (earlier.state.final and not message.state.final):
            self.results[host, message.command] = message

    def add_log(self, host: str, message: Log) -> None:
        self.logs.append((host, message))

    def set_presence(self, host: str, **values: Any) -> None:
        self.host_values.setdefault(host, {}).update(values)
        self.presence.add(host)


async def write(w: BulkWriter, reports: Reports, known: Mapping[str, Hashes], tell: Sequence[tuple[str, Log]]) -> None:
    """Everything that was gathered. `known`: stored hashes, so that what is stored already costs nothing. `tell`: logs for people."""
    await _write_facts(w, reports, known)
    await _write_hosts(w, reports)
    reports.ended, reports.misplaced = await _write_results(w, reports.results)
    await _write_statuses(w, reports.statuses)
    await _write_logs(w, reports.logs)
    for host, message in tell:
        await notify(w, host, message.severity, message.type, message.message)


async def notify(w: BulkWriter, host: str, severity: str, type_: str, message: str) -> None:
    """A notification about a host."""
    values = {"severity": severity, "type": type_[:64], "message": message, "about": {"kind": "host", "id": host}, "host": host}
    await w.make(BY_NAME["notification"], values, Actor.inventory())


# --- facts --------------------------------------------------------------------------------------------------------------------


async def _write_facts(w: BulkWriter, reports: Reports, known: Mapping[str, Hashes]) -> None:
    changed: dict[str, dict[str, facts.Values]] = {}
    for host, sections in reports.sections.items():
        hashes, stored = reports.hashes[host], known[host]
        fresh = {name: data for name, data in sections.items() if stored.get(name) != hashes[name]}
        if fresh:
            changed[host] = fresh
    if not changed:
        return
    rows = [
        (host, name, reports.hashes[host][name], dumps(data)) for host in sorted(changed) for name, data in sorted(changed[host].items())
    ]
    await w.tx.raw.execute(SQL["store_facts"], *(list(column) for column in zip(*rows, strict=True)), w.at)
    for host, sections in changed.items():
        values = facts.host_values(sections)
        if values:
            reports.host_values[host] = values | reports.host_values.get(host, {})
    await _write_components(w, changed)


async def _write_components(w: BulkWriter, changed: Mapping[str, Mapping[str, facts.Values]]) -> None:
    looked_for = {host: [name for name in sections if name in facts.COMPONENTS] for host, sections in changed.items()}
    hosts = [host for host, names in looked_for.items() if names]
    if not hosts:
        return
    stored: dict[str, list[Resource]] = {host: [] for host in hosts}
    for component in await w.read_of_hosts(COMPONENT, hosts):
        stored[component["host"]].append(component)
    new: list[Values] = []
    writes: dict[str, Values] = {}
    for host in hosts:
        found: dict[facts.Key, Values] = {}
        for name in looked_for[host]:
            found |= facts.components(name, changed[host][name])
        types = [facts.TYPE_OF_SECTION[name] for name in looked_for[host]]
        compared = facts.compare(host, types, found, stored[host], w.at)
        new += compared.new
        writes |= compared.writes
    before = {c["id"]: c for host in hosts for c in stored[host] if c["id"] in writes}
    await w.write_read(COMPONENT, before, writes, _its_device)
    await w.make_many(COMPONENT, new, _its_device)


async def _write_hosts(w: BulkWriter, reports: Reports) -> None:
    def who(host: Resource) -> Actor:
        return Actor.inventory() if host["id"] in reports.presence else Actor.device(host["id"])

    await w.write_many(HOST, reports.host_values, who)


def _its_device(resource: Resource) -> Actor:
    return Actor.device(resource["host"])


# --- results ------------------------------------------------------------------------------------------------------------------


async def _write_results(w: BulkWriter, said: Mapping[tuple[str, str], Result]) -> tuple[list[str], int]:
    """The states that commands ended in, and how many results were of no command of their sender."""
    if not said:
        return [], 0
    rows = await w.tx.raw.fetch(SQL["lock_commands"], sorted({command for _, command in said}))
    own = {row["id"]: row["state"] for row in rows if (row["host"], row["id"]) in said}
    results = {row["id"]: said[row["host"], row["id"]] for row in rows if row["id"] in own}
    if len(own) < len(said):
        log.info("results for no command of the device", extra={"commands": sorted({c for _, c in said} - set(own))[:10]})
    progress = [result for id, state in own.items() if _goes_on(state, result := results[id])]
    if progress:
        await w.tx.raw.execute(SQL["progress_commands"], *_progress_columns(progress), w.at)
    ended = {id: results[id] for id in own if results[id].state.final}
    before = await w.read_locked(COMMAND, list(ended))
    values = {id: _end_values(before[id], result, w.at) for id, result in ended.items()}
    await w.write_read(COMMAND, before, values, _result_actor)
    return [str(end["state"]) for end in values.values() if "state" in end], len(said) - len(own)


def _goes_on(state: str, result: Result) -> bool:
    if result.state.final or result.state not in (CommandState.ACCEPTED, CommandState.RUNNING):
        return False
    return state in _PROGRESS and _PROGRESS.index(state) <= _PROGRESS.index(result.state)


def _progress_columns(results: Sequence[Result]) -> tuple[list[str], list[str], list[datetime | None], list[str]]:
    return (
        [result.command for result in results],
        [result.state.value for result in results],
        [_moment(result.started_at) for result in results],
        [dumps(_result_json(result)) for result in results],
    )


def _end_values(command: Resource, result: Result, at: datetime) -> Values:
    """The end of a command that had none; a later word is kept beside the one that counts, the same word again is nothing."""
    said = _result_json(result)
    if command["state"] in _PROGRESS:
        started = _moment(result.started_at)
        values = {"state": result.state.value, "result": said, "finished_at": at, "due_at": None, "sealed": None}
        return values | ({"started_at": started} if started else {})
    if command["result"] is not None and command["result"].get("id") == result.id:
        return {}
    return {"late_result": said}


def _result_json(result: Result) -> dict[str, Any]:
    error = result.error
    return {
        "id": result.id,
        "state": result.state.value,
        "progress": result.progress,
        "output": result.output,
        "error": None if error is None else {"code": error.code, "message": error.message, "recoverable": error.recoverable},
        "started_at": result.started_at,
        "finished_at": result.finished_at,
    }


def _result_actor(command: Resource) -> Actor:
    """The device's word ends a command: it may write `state`, which is otherwise the dispatcher's."""
    return Actor("system", command["host"])


def _moment(text: str | None) -> datetime | None:
    """A time as a device gave it; None for one that no calendar has."""
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None


# --- statuses -----------------------------------------------------------------------------------------------------------------


async def _write_statuses(w: BulkWriter, statuses: Mapping[str, Sequence[Status]]) -> None:
    if not statuses:
        return
    last = {host: _last_items(messages) for host, messages in statuses.items()}
    named = sorted({id for items, _ in last.values() for id in items})
    own = ((id, row) for id, row in (await w.read_locked(HOST_CONFIG, named)).items() if row["host"] in last)
    before = {id: row for id, row in own if id in last[row["host"]][0]}
    full = [host for host, (_, complete) in last.items() if complete]
    for row in await w.read_of_hosts(HOST_CONFIG, full) if full else ():
        before.setdefault(row["id"], row)
    values = {id: _reported(row, last[row["host"]][0].get(id), w.at) for id, row in before.items()}
    await w.write_read(HOST_CONFIG, before, values, _its_device)
    unknown = [(host, item) for host, (items, _) in last.items() for item in items.values() if item.id not in before]
    await _note_strays(w, full, unknown)


async def _note_strays(w: BulkWriter, full: Sequence[str], unknown: Sequence[tuple[str, Item]]) -> None:
    """After a restore a device may have what was asked for since the backup and is known to nobody now: it is to be removed from there.
    Once a device has told everything, it is in doubt no more."""
    gone = [item.id for _, item in unknown if item.state == "absent"]
    if gone:
        await w.tx.raw.execute("DELETE FROM strays WHERE id = ANY ($1::text[])", gone)
    if not full:
        return
    doubted = {row["host"] for row in await w.tx.raw.fetch(SQL["end_doubts"], sorted(full))}
    strays = sorted((item.id, host, item.kind, item.generation) for host, item in unknown if host in doubted and item.state != "absent")
    if strays:
        log.info("a device has what nobody asks for", extra={"keys": [id for id, *_ in strays][:10]})
        await w.tx.raw.execute(SQL["note_strays"], *(list(column) for column in zip(*strays, strict=True)), w.at)


def _last_items(messages: Iterable[Status]) -> tuple[dict[str, Item], bool]:
    """What was said last of each host-config, and whether that is all there is."""
    items: dict[str, Item] = {}
    complete = False
    for message in messages:
        if message.full:
            items, complete = {}, True
        items |= {item.id: item for item in message.items if item.kind == HOST_CONFIG.name}
    return items, complete


def _reported(row: Resource, item: Item | None, at: datetime) -> Values:
    before = row["reported"]
    if item is None:
        if before is None or before.get("state") == "absent":
            return {}
        return {"reported": before | {"state": "absent", "digest": None, "reason": "", "message": "", "at": time_text(at)}}
    said = {
        "generation": item.generation,
        "state": item.state,
        "digest": item.digest,
        "reason": item.reason,
        "message": item.message,
    }
    if before is not None and {name: before.get(name) for name in said} == said:
        return {}
    return {"reported": said | {"at": time_text(at)}}


# --- logs ---------------------------------------------------------------------------------------------------------------------


async def _write_logs(w: BulkWriter, logs: Sequence[tuple[str, Log]]) -> None:
    if logs:
        rows = [(host, m.id, m.type, m.severity, m.message, dumps(m.data)) for host, m in logs]
        await w.tx.raw.execute(SQL["store_logs"], *(list(column) for column in zip(*rows, strict=True)), w.at)

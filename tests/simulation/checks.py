"""What must hold in a simulated world, at every step and at its end: design.md section 7 as assertions.

Whoever sees something happen tells it here: the database each commit, devices each step of their agent, the managers' engine each
reconcile. What is found wrong is a `Broken`, with the promise that it breaks; the first one ends the world.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

from broker.messages import CommandState, Presence
from edge_agent.signals import Run
from edge_agent.state import Phase, State
from inventory.changes import chain
from inventory.db import loads
from managers.service import Running
from tests.simulation.database import Connection
from tests.simulation.device import PUMP, Device
from tests.simulation.memory import Row, Touched
from tests.simulation.statements import ACTIVE

if TYPE_CHECKING:
    from tests.simulation.processes import ServerProcess
    from tests.simulation.world import World


class Broken(Exception):
    """A promise is not kept."""


_FENCES: ContextVar[Mapping[str, int]] = ContextVar("fences")
"""Of the keys in the batch that a task settles."""

RESOURCES = ("host", "config", "host_config", "command", "notification")


class Checks:
    """The checks of one world."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.found: list[Broken] = []
        self.committed: dict[str, set[tuple[str, int]]] = {}
        self.taken: dict[str, list[tuple[str, int]]] = {}
        """By the transaction under way."""
        self.versions: dict[str, int] = {}
        self.fences: dict[tuple[str, str], int] = {}
        self.farewells: set[str] = set()
        """Sessions of which a Will or a goodbye has come to the broker."""
        self.starts: dict[str, int] = {}
        self.promised: dict[str, int] = {}

    def fail(self, promise: str, what: str) -> None:
        self.world.trace("CHECK", f"{promise}: {what}")
        self.found.append(Broken(f"{promise}: {what}"))

    def broke(self, what: str, error: BaseException | None) -> None:
        """A part of the product ended by an error that nobody expected."""
        self.fail("no part fails", f"{what}: {type(error).__name__}: {error}")

    # --- the database -----------------------------------------------------------------------------------------------------------

    def commit(self, written: Touched, connection: Connection) -> None:
        """Called after each commit."""
        memory = self.world.memory
        logged = {
            (row["resource_id"], row["version"])
            for (table, key), before in written.items()
            if table == "changes_in" and before is None and (row := memory["changes_in"].get(key)) is not None
        }
        for (table, key), before in written.items():
            after = memory[table].get(key)
            if table in RESOURCES:
                self._resource(table, key, before, after, logged)
            match table:
                case "device_stream" if after is not None:
                    self._stream(before, after)
                case "device_identity" if before is not None and after is not None and after["fence"] < before["fence"]:
                    self.fail("G6 fences rise", f"of {key}: {before['fence']} became {after['fence']}")
                case "changes":
                    self._change(key)
                case "work":
                    self._work(key, before, after)
                case "host" if before is not None and after is not None:
                    self._presence(before, after)
                case "command":
                    self._command(before, after)
        if connection.decided is not None:
            self._settled(*connection.decided)

    def _resource(self, table: str, id: str, before: Row | None, after: Row | None, logged: set[tuple[str, int]]) -> None:
        if after is None:
            if all(id != logged_id for logged_id, _ in logged):
                self.fail("G1 each write has its change", f"{id} was deleted without one")
            return
        known = self.versions.get(id, 0)
        if before is not None and after["version"] == before["version"]:
            if {n: before[n] for n in _SHOWN if n in before} != {n: after[n] for n in _SHOWN if n in after}:
                self.fail("G5 versions rise with each write", f"{id} changed at version {after['version']}")
            return
        if after["version"] <= known:
            self.fail("G5 versions never fall", f"{id}: {known} became {after['version']}")
        self.versions[id] = after["version"]
        shown = before is None or any(before[n] != after[n] for n in after if n not in _UNTOLD)
        if shown and (id, after["version"]) not in logged:
            self.fail("G1 each write has its change", f"{id} at version {after['version']} has none")

    def _stream(self, before: Row | None, after: Row) -> None:
        host = after["host"]
        if before is None or (before["epoch"], before["seq"]) == (after["epoch"], after["seq"]):
            return
        committed = self.committed.setdefault(host, set())
        place = before["epoch"], before["seq"]
        for epoch, seq in self.taken.get(host, ()):
            if epoch != place[0] and any(epoch == known for known, _ in committed):
                self.fail("G4 an epoch that was left never comes back", f"{self.world.alias(host)} is at {epoch} again")
            if seq != (place[1] + 1 if epoch == place[0] else 1):
                self.fail("G4 a device's messages are applied in order", f"{self.world.alias(host)} took {epoch} {seq} after {place}")
            place = epoch, seq
            committed.add(place)
        if place != (after["epoch"], after["seq"]):
            self.fail("G4 what was applied is what is noted", f"{self.world.alias(host)} is at {after['seq']} after {place[1]}")

    def take(self, host: str, epoch: str, seq: int) -> None:
        """Ingest applies a message, in the transaction under way."""
        self.taken.setdefault(host, []).append((epoch, seq))

    def _change(self, position: int) -> None:
        memory = self.world.memory
        row = memory["changes"].rows[position]
        if position > 1 and position - 1 not in memory["changes"].rows:
            self.fail("G8 positions have no holes", f"{position} has none before it")
        known = self.promised.get(row["resource_id"], 0)
        if row["version"] <= known:
            self.fail("G5 a reader sees versions rise", f"{row['resource_id']} at {position}: {known}, then {row['version']}")
        self.promised[row["resource_id"]] = row["version"]

    def _work(self, key: tuple[str, str], before: Row | None, after: Row | None) -> None:
        if after is not None and after["lease_until"] is not None and (before is None or before["fence"] != after["fence"]):
            self.fences[key] = after["fence"]

    def _settled(self, queue: str, fences: Mapping[str, int], settled: Sequence[str]) -> None:
        """A settlement has just been committed: each key in it must have been its holder's."""
        for key in settled:
            if self.fences.get((queue, key)) != fences[key]:
                self.fail("G6 who lost a key writes nothing", f"{queue} {key}: fence {fences[key]}, latest {self.fences.get((queue, key))}")

    def _command(self, before: Row | None, after: Row | None) -> None:
        if before is None or after is None or before["state"] == after["state"]:
            return
        id = after["id"]
        if before["state"] not in ACTIVE:
            self.fail("G9 an end is final", f"{self.world.alias(id)} was {before['state']} and became {after['state']}")
        if _PLACE[after["state"]] < _PLACE[before["state"]]:
            self.fail("G9 a command never goes back", f"{self.world.alias(id)} was {before['state']} and became {after['state']}")
        self.world.trace("db", f"{self.world.alias(id)} is {after['state']}")
        if after["state"] == CommandState.SUCCEEDED and after["verb"] == PUMP and not self._effects(id):
            self.fail("G3 success is an effect", f"{self.world.alias(id)} succeeded and never moved the pump")

    # --- presence ---------------------------------------------------------------------------------------------------------------

    def published(self, topic: str, payload: bytes) -> None:
        """The broker has a message of a device, or its Will."""
        if topic.endswith(Presence.suffix) and b'"online":false' in payload:
            self.farewells.add(json.loads(payload)["session"])

    def _presence(self, before: Row, after: Row) -> None:
        if before["presence"] == after["presence"]:
            return
        host = after["id"]
        self.world.trace("db", f"{self.world.alias(host)} is {after['presence']}")
        if after["presence"] == "offline":
            self._offline(host)

    def _offline(self, host: str) -> None:
        """By a Will or a goodbye: that of the session that was current. By its silence: there was some."""
        memory = self.world.memory
        stream, live = memory["device_stream"].rows[host], memory["device_liveness"].get(host)
        if stream["session"] is None:
            ended = loads(stream["retired"])[-1][0]
            if ended not in self.farewells:
                self.fail("a late Will harms nobody", f"{self.world.alias(host)} is offline, and nobody said that its session has ended")
            return
        if live is None:
            return
        silent_s = (memory.clock() - live["last_seen"]).total_seconds()
        if silent_s <= 3 * stream["heartbeat_s"] + 4:
            self.fail("no false offline", f"{self.world.alias(host)} was heard {silent_s:.1f} s ago")

    # --- devices ----------------------------------------------------------------------------------------------------------------

    def stepped(self, device: Device, before: State, after: State) -> None:
        """The agent has taken a step."""
        if before is after:
            return
        old, new = before.durable, after.durable
        if old.outbox.sent is not new.outbox.sent and old.outbox.epoch == new.outbox.epoch:
            self._acknowledged(device, {m.seq for m in old.outbox.sent} - {m.seq for m in new.outbox.sent}, old.outbox.epoch)
        if old.commands is not new.commands:
            self._admitted(device, before, after)
        if new.fence < old.fence:
            self.fail("G6 the highest fence is remembered", f"{device.name}: {old.fence} became {new.fence}")

    def _acknowledged(self, device: Device, dropped: set[int], epoch: str) -> None:
        committed = self.committed.get(device.host, set())
        for seq in sorted(dropped):
            if (epoch, seq) not in committed:
                self.fail("G2 nothing is dropped before it is committed", f"{device.name} dropped {epoch} {seq}")

    def _admitted(self, device: Device, before: State, after: State) -> None:
        known = {entry.id for entry in before.durable.commands}
        for entry in after.durable.commands:
            if entry.id not in known and entry.fence <= before.durable.fence:
                self.fail("G6 a stale fence never runs", f"{device.name} took {self.world.alias(entry.id)} at fence {entry.fence}")

    def ran(self, device: Device, command: Run) -> None:
        """An applier has been handed a command."""
        journalled = device.shell is None or device.shell.state.broken is not None or self._on_disk(device, command.command)
        if not journalled:
            self.fail("a start is journalled before its effect", f"{device.name} runs {self.world.alias(command.command)}")
        count = self.starts[command.command] = self.starts.get(command.command, 0) + 1
        if command.verb == PUMP and count > 1:
            self.fail("G3 what is not idempotent runs once", f"{device.name} started {self.world.alias(command.command)} {count} times")
        if other := self.world.busy(device):
            self.fail("one command at a time", f"{device.name} runs {self.world.alias(command.command)} beside {self.world.alias(other)}")

    def _on_disk(self, device: Device, id: str) -> bool:
        found = device.disk.kept.get(("command", id))
        return found is not None and loads(found[1])["phase"] == Phase.STARTED

    def moved(self, device: Device, command: str) -> None:
        if self._effects(command) > 1:
            self.fail("G3 an effect happens once", f"{self.world.alias(command)} moved the pump {self._effects(command)} times")

    def _effects(self, command: str) -> int:
        return sum(device.hands.effects.get(command, 0) for device in self.world.devices)

    # --- the managers -----------------------------------------------------------------------------------------------------------

    def observe(self, process: "ServerProcess", running: Running) -> None:
        """Look at each settlement of a managers process within its transaction."""
        settler: Any = running.workers[0]._engine.settler
        finish: Callable[..., Any] = settler._finish
        once: Callable[..., Any] = settler._once

        async def watched_once(terms: Any, claimed: Any, outcomes: Any) -> Any:
            _FENCES.set({c.key: c.fence for c in claimed})
            return await once(terms, claimed, outcomes)

        async def watched_finish(tx: Any, terms: Any, settled: Any) -> None:
            await finish(tx, terms, settled)
            tx.raw.decided = (terms.queue, _FENCES.get(), list(settled))

        settler._once, settler._finish = watched_once, watched_finish

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def unrest(self) -> str:
        """What has not come to rest yet; empty when everything has."""
        memory = self.world.memory
        for device in self.world.devices:
            if device.shell is None or not device.shell.state.link.connected:
                return f"{device.name} is not connected"
            if device.shell.state.durable.outbox.unacked or device.shell.state.broken is not None:
                return f"{device.name} has {device.shell.state.durable.outbox.unacked} unacknowledged"
            if memory["host"].rows[device.host]["presence"] != "online":
                return f"{device.name} is shown {memory['host'].rows[device.host]['presence']}"
        for command in memory["command"].rows.values():
            if command["state"] in ACTIVE:
                return f"{self.world.alias(command['id'])} is {command['state']}"
        if memory["changes_in"].rows:
            return "changes wait for the relay"
        if memory["cursors"].rows["managers"]["position"] < memory["relay"].rows[1]["position"]:
            return "the managers have not read all changes"
        return self._unsettled()

    def unsent(self, made_before: datetime) -> str:
        """A command made before that time that its device has not taken, where there is one."""
        old = (row for row in self.world.memory["command"].rows.values() if row["created_at"] < made_before)
        return next((f"{self.world.alias(row['id'])} is {row['state']}" for row in old if row["state"] in ("queued", "sent")), "")

    def _unsettled(self) -> str:
        memory = self.world.memory
        for row in memory["config"].rows.values():
            if row["deleted_at"] is not None:
                return f"{row['name']} is still there"
        for row in memory["host"].rows.values():
            if row["current_state"] != row["desired_state"]:
                return f"{row['name']} is {row['current_state']}, not {row['desired_state']}"
        for row in memory["host_config"].rows.values():
            onboarded = memory["host"].rows[row["host"]]["current_state"] == "onboarded"
            if onboarded and loads(row["status"])["indicator"] != "idle":
                return f"{self.world.alias(row['id'])} says {loads(row['status'])['reason']}: {loads(row['status'])['message']}"
        for row in memory["work"].rows.values():
            if row["due_at"] is not None or row["lease_until"] is not None:
                return f"{row['manager']} {self.world.alias(row['key'])} is queued"
        return self._different()

    def _different(self) -> str:
        """Desired against what really is on the devices."""
        for device in self.world.devices:
            host = self.world.memory["host"].rows[device.host]
            if host["current_state"] == "onboarded":
                wanted = self.world.wanted(host)
                real = {path: text for files in device.hands.placed.values() for path, text in files.items()}
                if wanted != real:
                    return f"{device.name} has {_short(real)} and not {_short(wanted)}"
        return ""

    def at_rest(self) -> None:
        """What must be so when everything has come to rest."""
        memory = self.world.memory
        for device in self.world.devices:
            stored = {key[1]: loads(row["data"]) for key, row in memory["host_facts"].rows.items() if key[0] == device.host}
            if stored != device.facts:
                self.fail("G2 no discovery is lost", f"{device.name}: stored {stored}, found {device.facts}")
        for row in memory["poison"].rows.values():
            self.fail("nothing is poison", f"{row['suffix']}: {row['error']}")
        for command in memory["command"].rows.values():
            self._pump(command)
        for kind, id, version in self.world.acknowledged:
            table = memory[kind.replace("-", "_")]
            if id not in table.rows and id not in self.world.deleted:
                self.fail("G1 no intent is lost", f"{id} is gone")
            elif id in table.rows and table.rows[id]["version"] < version:
                self.fail("G1 no intent is lost", f"{id} is at {table.rows[id]['version']}, answered was {version}")
        self._chain()

    def _pump(self, command: Row) -> None:
        """The ambiguous case of a verb that is not idempotent says `unknown`."""
        if command["verb"] != PUMP:
            return
        effects, state = self._effects(command["id"]), command["state"]
        told = {state} | ({loads(command["late_result"])["state"]} if command["late_result"] else set())
        if state == "succeeded" and effects < 1:
            self.fail("G3 success is an effect", f"{self.world.alias(command['id'])} succeeded without one")
        if effects and not told & {"succeeded", "unknown", "timed_out", "cancelled"}:
            self.fail("G3 an effect is told of", f"{self.world.alias(command['id'])} is {state} and moved the pump")

    def _chain(self) -> None:
        digest = b""
        for position in sorted(self.world.memory["changes"].rows):
            row = self.world.memory["changes"].rows[position]
            digest = chain(digest, position, row)
            if digest != row["hash"]:
                self.fail("G12 the audit shows tampering", f"the chain breaks at {position}")
                return


_UNTOLD = frozenset(
    (
        *("version", "updated_at", "args", "command", "due_at", "sent_at", "sent_session", "sends", "first_fence"),
        *("accepted_at", "started_at", "told_halted"),
    )
)
"""Columns of which no change tells."""

_SHOWN = ("name", "labels", "desired_state", "current_state", "generation", "digest", "reported", "presence", "files", "selector", "status")
"""Columns that never change without a version."""

_PLACE = {state: n for n, state in enumerate(ACTIVE)} | {str(state): len(ACTIVE) for state in CommandState if state.final}


def _short(files: Mapping[str, str]) -> str:
    return ", ".join(f"{path.rpartition('/')[2]}={text[-9:]}" for path, text in sorted(files.items())) or "nothing"


class ErrorsFail(logging.Handler):
    """What the product logs with a traceback is an error that nobody expected."""

    def __init__(self, checks: Checks) -> None:
        super().__init__(logging.ERROR)
        self._checks = checks

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._checks.broke(record.getMessage(), record.exc_info[1])

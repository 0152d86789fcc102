"""A device of a simulated world: the product's agent and its shell, on a machine whose power and disk can fail at any point.

The shell is `edge_agent.runtime.Runtime` with its threads replaced: one queue, timers, invented hands and eyes. The journal is the
product's own over a model of what SQLite does to a disk: a commit is kept by a crash if it was synchronous, and may be lost if not.
"""

import sqlite3
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from random import Random
from typing import TYPE_CHECKING, Any

from broker.messages import ErrorCode, Verb
from edge_agent import agent
from edge_agent.identity import Identity
from edge_agent.lock import Lock
from edge_agent.runtime import Runtime
from edge_agent.settings import Settings
from edge_agent.signals import (
    Booted,
    Clock,
    Finished,
    Input,
    Observed,
    Outcome,
    Run,
    Scan,
    Scanned,
    Stop,
    Stopped,
    StopReason,
    Succeeded,
    Tick,
)
from edge_agent.simulated.files import Files
from edge_agent.state import VERBS, Lane, Profile, Rule
from tests.simulation.clockwork import BEGINNING, later
from tests.simulation.network import DeviceLink, Path
from tests.simulation.seams import Here

if TYPE_CHECKING:
    from tests.simulation.world import World

PUMP = "pump.start"
"""A verb of the simulation alone, that is not idempotent."""

SECTIONS = ("os", "software", "time")


class PowerLoss(BaseException):
    """The machine stops here: nothing after this point happens."""


class Disk:
    """One table of one SQLite file, and whose it is (`owner`).

    `kept`: what a crash leaves. A synchronous commit is kept; others are on their way."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self.kept: dict[tuple[str, str], tuple[int, str]] = {}
        self.seen = self.kept
        self.working: dict[tuple[str, str], tuple[int, str]] | None = None
        self.owner: str | None = None
        self.synchronous = False
        self.full = False
        self._answer: tuple[str] | None = None
        self.fails_at_commit: bool | None = None
        """The power goes at the next commit: before it (False), or after it (True)."""

    def open(self) -> "Disk":
        self.synchronous = False
        return self

    def crash(self) -> None:
        self.working = None
        self.seen = self.kept

    def wipe(self) -> None:
        self.kept = self.seen = {}
        self.owner = None

    # --- what a sqlite3.Connection does ---

    @property
    def in_transaction(self) -> bool:
        return self.working is not None

    def execute(self, sql: str, *args: Any) -> "Disk":
        match sql.split()[0]:
            case "PRAGMA" if "synchronous=FULL" in sql:
                self.synchronous = True
            case "BEGIN":
                self._writable()
                self.working = dict(self.seen)
            case "COMMIT":
                self._commit()
            case "ROLLBACK":
                self.working = None
            case "DELETE":
                assert self.working is not None
                self.working.clear()
            case _:
                self._other(sql, *args)
        return self

    def _other(self, sql: str, *args: Any) -> None:
        match sql.split():
            case ["PRAGMA", what]:
                self._answer = ("ok",) if what.startswith("quick_check") else None
            case ["SELECT", "device", "FROM", "owner"]:
                self._answer = None if self.owner is None else (self.owner,)
            case ["INSERT", "INTO", "owner", *_]:
                self._writable()
                self.owner = args[0][0]
            case ["CREATE", *_] | ["SELECT", "space,", "key,", "body", *_]:
                pass
            case _:
                raise NotImplementedError(f"no model of this statement on the device's disk: {sql}")

    def executemany(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        assert self.working is not None
        for row in rows:
            if sql.startswith("DELETE"):
                self.working.pop((row[0], row[1]), None)
            else:
                self.working[row[0], row[1]] = (row[2], row[3])

    def fetchone(self) -> tuple[str] | None:
        return self._answer

    def fetchall(self) -> list[tuple[str, str, str]]:
        ordered = sorted(self.seen.items(), key=lambda item: (item[1][0], item[0]))
        return [(space, key, body) for (space, key), (_, body) in ordered]

    def close(self) -> None:
        self.working = None

    def _writable(self) -> None:
        if self.full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error

    def _commit(self) -> None:
        assert self.working is not None
        if self.fails_at_commit is False:
            raise PowerLoss
        self.seen, self.working = self.working, None
        if self.synchronous:
            self.kept = self.seen
        if self.fails_at_commit is True:
            raise PowerLoss


@dataclass(slots=True)
class Hands(Files):
    """The device's files and its pump. `placed`: contents by path, for each config; `effects`: how often each command moved the pump."""

    placed: dict[str, dict[str, str]] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)

    def run(self, command: Run) -> Outcome:
        outcome = Files.run(self, command)
        if isinstance(outcome, Succeeded) and command.resource is not None:
            self.placed.pop(command.resource.id, None)
            if command.verb == Verb.CONFIG_APPLY:
                self.placed[command.resource.id] = {file["path"]: file["content"] for file in command.args["files"]}
        return outcome


class Shell(Runtime):
    """A process of the agent. `device` is the machine it runs on."""

    def __init__(self, device: "Device") -> None:
        self.device = device
        self._identity = device.identity
        self._inputs = _Inputs(self)  # type: ignore[assignment]
        self._path = FilePath("journal.db")
        self._journal = None
        self._saved = None
        self._mend_at = 0.0
        self._session = None
        self._me = device.profile()
        self._executor = _Executor(self)  # type: ignore[assignment]
        self._lookout = _Eyes(self)  # type: ignore[assignment]
        self._keeper = _NoKeeper()  # type: ignore[assignment]
        self._lock = Lock(FilePath("there is no agent.toml"), Settings())
        self.alive = True
        self.timer: Any = None

    def boot(self) -> None:
        durable, first = self._open()
        if self.device.disk.kept and self._saved is None and not self.device.disk.full:
            self.device.world.checks.fail(
                "what is journalled is there after a crash", f"{self.device.name} begins with {durable.outbox.epoch}"
            )
        self._state = agent.begin(durable, self.device.world.dice.randbytes(32))
        for entry in (*first, Booted()):
            self._take(entry)

    def take(self, signal: Input) -> None:
        before = self._state
        self._take(signal)
        self.device.world.checks.stepped(self.device, before, self._state)

    def wake_at(self) -> float | None:
        at = agent.wake_at(self._state)
        if self._state.broken is not None:
            at = self._mend_at if at is None else min(at, self._mend_at)
        return at

    @property
    def state(self) -> Any:
        return self._state

    def _perform(self, effects: Any) -> None:
        for effect in effects:
            self.device.before_effect()
            super()._perform((effect,))


class _Inputs:
    """The shell's queue: each input is taken by itself, a moment after it came."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._waiting: deque[Input] = deque()

    def put(self, signal: Input) -> None:
        self._waiting.append(signal)
        if len(self._waiting) == 1:
            self._shell.device.world.loop.call_soon(self._turn)

    def _turn(self) -> None:
        while self._waiting and self._shell.alive:
            self._shell.device.run(lambda: self._shell.take(self._waiting[0]))
            if self._waiting:
                self._waiting.popleft()


class _Executor:
    """Hands that take their time; the pump moves somewhere on the way."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._stopped: set[str] = set()
        self.at: str | None = None
        """The command under way."""

    def run(self, command: Run) -> None:
        device = self._shell.device
        device.world.trace(device.name, f"runs {command.verb} {device.world.alias(command.command)}")
        device.world.checks.ran(device, command)
        self.at = command.command
        takes = device.world.dice.choice((0.05, 0.5, 3.0, 20.0)) * device.world.dice.random()
        if command.verb == PUMP:
            later(takes * device.world.dice.random(), self._move, command)
        later(takes, self._end, command)

    def stop(self, stop: Stop) -> None:
        self._stopped.add(stop.command)
        later(0.1, self._end_early, stop.command, stop.reason)

    def _move(self, command: Run) -> None:
        if self._shell.alive and command.command not in self._stopped:
            effects = self._shell.device.hands.effects
            effects[command.command] = effects.get(command.command, 0) + 1
            self._shell.device.world.checks.moved(self._shell.device, command.command)

    def _end(self, command: Run) -> None:
        if self._shell.alive and command.command not in self._stopped:
            self.at = None
            outcome = Succeeded("moved") if command.verb == PUMP else self._shell.device.hands.run(command)
            self._shell._inputs.put(Finished(command.command, outcome))

    def _end_early(self, command: str, reason: StopReason) -> None:
        if self._shell.alive and self.at == command:
            self.at = None
            self._shell._inputs.put(Finished(command, Stopped(reason)))


class _NoKeeper:
    """Certificates are not part of this world: nobody looks at them, so that none is ever due."""

    def do(self, job: Any) -> None:
        pass


class _Eyes:
    """What the lookout's thread does: answers scans, looks for drift from time to time."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        later(shell.device.world.dice.uniform(0.05, 1.0), self._look_again)

    def scan(self, scan: Scan) -> None:
        later(self._shell.device.world.dice.uniform(0.02, 0.5), self._answer, scan)

    def look(self) -> None:
        if self._shell.alive:
            self._shell._inputs.put(Observed(self._shell.device.hands.items(), complete=True))

    def _look_again(self) -> None:
        if self._shell.alive:
            self.look()
            later(60.0, self._look_again)

    def _answer(self, scan: Scan) -> None:
        if self._shell.alive:
            facts = self._shell.device.facts
            wanted = SECTIONS if scan.sections is None else tuple(name for name in scan.sections if name in facts)
            self._shell._inputs.put(Scanned({name: dict(facts[name]) for name in wanted}, {}, scan.force, scan.commands))


class Device:
    """The machine. `boots`: how often it was switched on."""

    def __init__(self, world: "World", name: str, host: str, identity: Identity) -> None:
        self.world, self.name, self.host, self.identity = world, name, host, identity
        self.path = Path(name)
        self.disk = Disk(world.dice)
        self.hands = Hands()
        self.facts: dict[str, dict[str, Any]] = {
            "os": {"name": "linux", "version": "1", "kernel": "6.1"},
            "software": {"packages": 0},
            "time": {"zone": "UTC"},
        }
        self.skew_s = 0.0
        self.boots = 0
        self.booted_at = 0.0
        self.effects_left: int | None = None
        """The power goes after so many effects."""
        self.shell: Shell | None = None
        self._here = Here(self.clock, self.connect, self.disk.open)

    # --- the machine ---

    def clock(self) -> Clock:
        now = self.world.loop.now
        return Clock(now - self.booted_at, BEGINNING.timestamp() + now + self.skew_s)

    def connect(self, identity: Identity, effect: Any, deliver: Any) -> DeviceLink:
        return DeviceLink(self.world.broker, self.host, self.path, effect, deliver)

    def profile(self) -> Profile:
        me = self.identity
        verbs = dict(VERBS) | {PUMP: Rule(Lane.WORKER, idempotent=False)}
        return Profile(me.device, me.topics, me.ring, me.channel_key, f"{self.name}-boot-{self.boots}", "0.1.0", verbs=verbs)

    def switch_on(self) -> None:
        if self.shell is not None:
            return
        self.boots += 1
        self.booted_at = self.world.loop.now
        self.world.trace(self.name, "boots")
        shell = self.shell = Shell(self)
        self.run(shell.boot)

    def run(self, act: Any) -> None:
        """A step of the process, which may be its last."""
        shell = self.shell
        if shell is None:
            return
        self.world.seams.here = self._here
        try:
            act()
        except PowerLoss:
            self.crash("in the middle of a step", noticed=False)
            return
        finally:
            self.world.seams.here = None
        self._plan(shell)

    def _plan(self, shell: Shell) -> None:
        if shell.timer is not None:
            shell.timer.cancel()
        at = shell.wake_at()
        if at is not None and shell.alive:
            shell.timer = later(max(0.0, at - self.clock().mono) + 1e-6, self._tick, shell)

    def _tick(self, shell: Shell) -> None:
        if shell.alive:
            shell._inputs.put(Tick())

    def before_effect(self) -> None:
        if self.effects_left is not None:
            self.effects_left -= 1
            if self.effects_left < 0:
                raise PowerLoss

    # --- what befalls it ---

    def crash(self, why: str, *, noticed: bool, off_s: float | None = None) -> None:
        shell, self.shell = self.shell, None
        if shell is None:
            return
        self.world.trace(self.name, f"crashes {why}")
        shell.alive = False
        if shell.timer is not None:
            shell.timer.cancel()
        session: object = shell._session
        if isinstance(session, DeviceLink):
            session.vanish(noticed)
        self.effects_left, self.disk.fails_at_commit = None, None
        self.disk.crash()
        later(off_s if off_s is not None else self.world.dice.uniform(0.5, 10.0), self.switch_on)

    def lose_journal(self) -> None:
        """Crash, and nothing of the journal is there afterwards."""
        self.crash("and loses its journal", noticed=False)
        self.disk.wipe()

    def look(self) -> None:
        eyes: object = self.shell._lookout if self.shell is not None else None
        if isinstance(eyes, _Eyes):
            eyes.look()

    def find(self, section: str, data: dict[str, Any]) -> None:
        """Its hardware or software has changed, and it notices."""
        self.facts[section] = data
        if self.shell is not None:
            self.shell._inputs.put(Scanned({section: dict(data)}))

    def fail_next(self, code: ErrorCode) -> None:
        self.hands.failures.append(code)

"""The agent against a hostile network: whatever is doubled, reordered, dropped or cut off by a crash, the end is the same.

Hypothesis plays the network, the device and the power switch. The server is `rig.Server`. After each run the network becomes reliable, and
then the server must know exactly what is on the device, and every command must have ended.
"""

import os
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.messages import ErrorCode, Item, Order, section_hash
from edge_agent import agent
from edge_agent.signals import (
    Booted,
    Clock,
    Connect,
    Connected,
    Disconnected,
    Effect,
    Finished,
    Input,
    JournalFailed,
    JournalLost,
    JournalMended,
    Observed,
    Publish,
    Received,
    Run,
    Scan,
    Scanned,
    Stop,
    Stopped,
    Succeeded,
    Tick,
)
from edge_agent.state import Durable, Lane, Rule, State, fresh
from tests.agent.rig import START, Authority, Server

SECTIONS = ("cpu", "storage", "network")
VERBS = {
    "config.apply": Rule(Lane.WORKER, idempotent=True),
    "facts.refresh": Rule(Lane.SCAN, idempotent=True),
    "pump.start": Rule(Lane.WORKER, idempotent=False),
    "cancel": Rule(Lane.AGENT, idempotent=True),
}


class Manager:
    """Signs, and signs again until there is an outcome."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.fence = 0
        self.orders: dict[str, Order] = {}

    def issue(self, verb: str, now: float, args: dict[str, Any]) -> bytes:
        id = f"cmd-{len(self.orders)}"
        self.orders[id] = self.authority.order(id, 1, verb, at=now, args=args, not_after=_after(now, 10**6), timeout_s=50)
        return self.sign(id, now)

    def sign(self, id: str, now: float) -> bytes:
        self.fence += 1
        self.orders[id] = replace(self.orders[id], fence=self.fence, issued_at=_after(now, 0))
        return self.authority.command(self.orders[id], now)


def _after(now: float, seconds: float) -> str:
    return Authority().order("x", 1, at=now + seconds).issued_at


class AgentMachine(RuleBasedStateMachine):
    """One device, its network and its server."""

    @initialize()
    def boot(self) -> None:
        self.authority = Authority()
        self.authority.valid = (START - 1e6, START + 1e9)
        self.me = self.authority.profile(VERBS)
        self.server = Server(self.authority)
        self.manager = Manager(self.authority)
        self.mono = 0.0
        self.epochs = self.losses = self.starts = 0
        self.facts: dict[str, Any] = dict.fromkeys(SECTIONS, 0)
        self.items: dict[str, Item] = {}
        self.up: list[tuple[str, bytes]] = []
        self.down: list[tuple[str, bytes]] = []
        self.executions: dict[str, int] = {}
        self.lose_effects = False
        self.disk: Durable = fresh(self.epoch())
        self.disk_broken = False
        self.start()

    def epoch(self) -> str:
        self.epochs += 1
        return f"epoch-{self.epochs}"

    # --- the shell ---

    def start(self, lost: bool = False) -> None:
        """A process begins: all but the disk is gone."""
        self.working: Run | None = None
        self.session = ""
        self.starts += 1
        self.state: State = agent.begin(self.disk, f"seed-{self.starts}".encode().ljust(32, b"s"))
        if self.disk_broken:
            self.put(JournalFailed(ErrorCode.NO_SPACE, "disk full"))
        if lost or self.disk_broken:
            self.put(JournalLost("test"))
        self.put(Booted())
        self.look()

    def put(self, signal: Input) -> None:
        """One step: what is durable goes to disk before any effect; sometimes the power goes between the two."""
        now = Clock(self.mono, 1000.0 + self.mono)
        self.state, effects = agent.step(self.me, self.state, now, signal)
        if self.state.broken is None:
            self.disk = self.state.durable
        if self.lose_effects:
            self.lose_effects = False
            self.start()
            return
        for effect in effects:
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        match effect:
            case Publish(topic, payload):
                if self.session:
                    self.up.append((topic.split("/", 5)[5], payload))
            case Connect(session):
                self.session = session
            case Run(command):
                assert self.working is None, "two commands at once"
                assert any(e.id == command and e.phase == "started" for e in self.disk.commands), "run before it was journalled"
                self.executions[command] = self.executions.get(command, 0) + 1
                self.working = effect
            case Stop(command, reason):
                if self.working is not None and self.working.command == command:
                    self.working = None
                    self.put(Finished(command, Stopped(reason)))
            case Scan(sections, force, commands):
                names = SECTIONS if sections is None else tuple(n for n in sections if n in SECTIONS)
                self.put(Scanned({n: {"value": self.facts[n]} for n in names}, {}, force, commands))
            case _:
                pass

    def look(self) -> None:
        self.put(Observed(tuple(self.items.values()), complete=True))

    @property
    def now(self) -> float:
        return START + self.mono

    # --- the device ---

    @rule(name=st.sampled_from(SECTIONS), value=st.integers(0, 3))
    def hardware_changes(self, name: str, value: int) -> None:
        self.facts[name] = value
        self.put(Scanned({name: {"value": value}}))

    @rule(id=st.sampled_from(["hcfg-a", "hcfg-b"]), state=st.sampled_from(["present", "drifted", "absent"]))
    def files_change(self, id: str, state: str) -> None:
        self.items.pop(id, None)
        if state != "absent":
            self.items[id] = Item(kind="host-config", id=id, generation=1, state=state, digest="sha256:1")
        self.look()

    @precondition(lambda self: self.working is not None)
    @rule()
    def work_ends(self) -> None:
        assert self.working is not None
        command, self.working = self.working.command, None
        self.put(Finished(command, Succeeded("done")))

    @rule(seconds=st.sampled_from([0.3, 2.0, 6.0, 20.0, 65.0]))
    def time_passes(self, seconds: float) -> None:
        self.mono += seconds
        self.put(Tick())

    # --- the power switch and the disk ---

    @rule()
    def crash(self) -> None:
        self.start()

    @rule()
    def crash_between_journal_and_effects(self) -> None:
        self.lose_effects = True

    @rule()
    def journal_is_lost(self) -> None:
        self.losses += 1
        self.disturbed = True
        self.disk = fresh(self.epoch())
        self.start(lost=True)

    @precondition(lambda self: not self.disk_broken)
    @rule()
    def disk_fills(self) -> None:
        self.disk_broken = self.disturbed = True
        self.put(JournalFailed(ErrorCode.NO_SPACE, "disk full"))

    @precondition(lambda self: self.disk_broken)
    @rule()
    def disk_has_room(self) -> None:
        self.disk_broken = False
        self.disk = self.state.durable
        self.put(JournalMended())

    # --- the network ---

    @precondition(lambda self: self.session and not self.state.link.connected)
    @rule()
    def connect(self) -> None:
        self.put(Connected(self.session))

    @precondition(lambda self: self.session)
    @rule()
    def disconnect(self) -> None:
        session, self.session = self.session, ""
        self.put(Disconnected(session, "cut"))

    @precondition(lambda self: self.up)
    @rule(data=st.data(), again=st.booleans())
    def server_gets_one(self, data: st.DataObject, again: bool) -> None:
        """Any of those on their way, and sometimes it stays on its way as well."""
        index = data.draw(st.integers(0, min(len(self.up), 8) - 1))
        suffix, payload = self.up[index]
        if not again:
            del self.up[index]
        self.down += self.server.receive(suffix, payload, self.now)

    @precondition(lambda self: self.down and self.state.link.connected)
    @rule(data=st.data(), again=st.booleans())
    def agent_gets_one(self, data: st.DataObject, again: bool) -> None:
        index = data.draw(st.integers(0, min(len(self.down), 8) - 1))
        suffix, payload = self.down[index]
        if not again:
            del self.down[index]
        self.put(Received(self.session, self.authority.topic(suffix), payload))

    @rule(rounds=st.integers(1, 4))
    def network_works_for_a_moment(self, rounds: int) -> None:
        """Without this, hardly any run would get as far as a command under way."""
        if self.session and not self.state.link.connected:
            self.put(Connected(self.session))
        for _ in range(rounds):
            for suffix, payload in self.up[:]:
                self.up.remove((suffix, payload))
                self.down += self.server.receive(suffix, payload, self.now)
            for suffix, payload in self.down[:]:
                self.down.remove((suffix, payload))
                if self.state.link.connected:
                    self.put(Received(self.session, self.authority.topic(suffix), payload))

    @rule()
    def all_on_its_way_is_lost(self) -> None:
        self.up.clear()
        self.down.clear()

    # --- the server ---

    @rule(verb=st.sampled_from(["config.apply", "pump.start", "facts.refresh"]))
    def server_commands(self, verb: str) -> None:
        args = {"sections": ["cpu"]} if verb == "facts.refresh" else {}
        self.down.append(("down/command", self.manager.issue(verb, self.now, args)))

    @precondition(lambda self: self.manager.orders)
    @rule(data=st.data())
    def server_cancels(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(sorted(self.manager.orders)))
        self.down.append(("down/command", self.manager.issue("cancel", self.now, {"command": target})))

    @precondition(lambda self: self.manager.orders)
    @rule(data=st.data())
    def server_signs_again(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.manager.orders)))
        self.down.append(("down/command", self.manager.sign(id, self.now)))

    @rule(items=st.booleans())
    def server_resyncs(self, items: bool) -> None:
        self.down.append(self.server.resync(self.now, None, items))

    @rule()
    def server_is_restored(self) -> None:
        """From a backup made when this epoch began: it has forgotten what came since, but asks for it."""
        self.disturbed = True
        self.server.seq = 0
        self.server.sections, self.server.items = {}, {}
        self.down.append(self.server.resync(self.now, None, True))
        self.owed_resync = True

    owed_resync = False
    disturbed = False

    # --- what always holds ---

    @invariant()
    def what_is_not_idempotent_runs_once_at_most(self) -> None:
        """Who loses the journal loses the memory of it: then a command that is signed anew may run again."""
        for id, count in self.executions.items():
            assert self.manager.orders[id].verb != "pump.start" or count <= 1 + self.losses, f"{id} ran {count} times"

    @invariant()
    def a_hostile_network_alone_begins_no_epoch(self) -> None:
        """As long as disk and server keep what they promised, numbering heals itself; beginning anew would cover up a loss."""
        assert self.disturbed or self.state.durable.outbox.epoch == "epoch-1", self._plight()

    @invariant()
    def nothing_is_ever_poison(self) -> None:
        assert self.server.poisoned == []

    # --- the end ---

    def teardown(self) -> None:
        """The network works, the disk works, work ends: everything comes to rest in the right place."""
        if not hasattr(self, "state"):
            return
        self.lose_effects = False
        if self.disk_broken:
            self.disk_has_room()
        for round in range(400):
            self._settle(round)
            if self._at_rest():
                break
        self.a_hostile_network_alone_begins_no_epoch()
        hashes = {name: section_hash({"value": value}) for name, value in self.facts.items()}
        assert self.server.sections == hashes, self._plight()
        assert self.server.items == self.items, self._plight()
        assert self.state.durable.outbox.unacked == 0, self._plight()
        for id in self.manager.orders:
            assert self.server.final(id) is not None, f"{id} never ended: {self.server.states(id)}"

    def _plight(self) -> str:
        box, server = self.state.durable.outbox, self.server
        numbers = f"agent at {box.epoch} {box.base} to {box.next_seq}, server at {server.epoch} {server.seq}, left {server.retired}"
        return f"{numbers}; {self.state.resend}; {self.state.link}; lacking {server.lacking()}"

    def _settle(self, round: int) -> None:
        if not self.session:
            self.mono += 61
            self.put(Tick())
        if not self.state.link.connected:
            self.put(Connected(self.session))
        while self.up:
            self.down += self.server.receive(*self.up.pop(0), self.now)
        while self.down:
            suffix, payload = self.down.pop(0)
            self.put(Received(self.session, self.authority.topic(suffix), payload))
        if self.working is not None:
            self.work_ends()
        elif not self.up and not self.down:
            self._server_insists()
            self.mono += 2
            self.put(Tick())

    def _server_insists(self) -> None:
        """What the server does by itself: sign again what has no outcome, ask for what it lacks."""
        if self.owed_resync or self.server.lacking():
            self.owed_resync = False
            self.down.append(self.server.resync(self.now, None, True))
        for id in self.manager.orders:
            if self.server.final(id) is None:
                self.down.append(("down/command", self.manager.sign(id, self.now)))

    def _at_rest(self) -> bool:
        return (
            not self.up
            and not self.down
            and self.working is None
            and self.state.durable.outbox.unacked == 0
            and not self.owed_resync
            and all(self.server.final(id) is not None for id in self.manager.orders)
            and not self.server.lacking()
        )


TestAgentMachine = AgentMachine.TestCase
EXAMPLES = os.environ.get("FLEETWARD_EXAMPLES")
"""How many runs; where it is set, others each time. `make test` makes the same ones always, so that a failure is never a matter of luck."""

TestAgentMachine.settings = settings(
    max_examples=int(EXAMPLES or "60"),
    derandomize=EXAMPLES is None,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

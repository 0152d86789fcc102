"""The shell around thousands of pure agents: one thread, one selector, one heap of times.

It does for each what `runtime` does on a device, with invented hands: scans and commands are answered from `Hardware` and `Files`, the
journal is the memory of this process (it survives a simulated reboot, not the end of the process). `simulator` starts it.
"""

import contextlib
import heapq
import itertools
import logging
import os
import queue
import random
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from edge_agent import VERSION, agent
from edge_agent.connection import DIAL_LIMIT_S
from edge_agent.runtime import new_epoch
from edge_agent.signals import (
    Adopt,
    Booted,
    CertificateJob,
    Clock,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Effect,
    Finished,
    Input,
    Note,
    Observed,
    Publish,
    Received,
    Run,
    Scan,
    Scanned,
    Stop,
    Stopping,
    Tick,
)
from edge_agent.simulated.certificates import Clerk, Errand
from edge_agent.simulated.enrollment import Enrolled
from edge_agent.simulated.files import Files
from edge_agent.simulated.hardware import Hardware
from edge_agent.simulated.wire import Message, Subscribed, Wire, WireError
from edge_agent.state import Durable, Profile, State, fresh
from edge_agent.trust import Ring

log = logging.getLogger(__name__)

HANDSHAKES = 128
"""Connections being made at once: one thread does them all, and a handshake that has to wait would time out."""
WORK_S = (0.005, 0.05)
"""How long an invented command takes."""
NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Member:
    """One simulated device."""

    enrolled: Enrolled
    hardware: Hardware
    me: Profile
    state: State
    zero: float
    files: Files = field(default_factory=Files)
    wire: Wire | None = None
    session: str = ""
    events: int = 0
    due: float = NEVER
    offline: bool = False


class Fleet:
    """All members of one process. `keepalive_s`, `heartbeat_s`: as in agent.toml."""

    def __init__(self, seed: int, keepalive_s: int = 30, heartbeat_s: int = 30) -> None:
        self.members: dict[int, Member] = {}
        self.by_device: dict[str, Member] = {}
        self.selector = selectors.DefaultSelector()
        self._seed = seed
        self._rhythm = (keepalive_s, heartbeat_s)
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, Member | Callable[[], None]]] = []
        self._count = itertools.count()
        self._inbox: deque[tuple[Member, Input]] = deque()
        self._dials: deque[tuple[Member, Connect]] = deque()
        self._handshakes: dict[Member, float] = {}
        self._context: ssl.SSLContext | None = None
        self._authorities = 0
        """The generation of the list of keys that the file of CAs is of."""
        self._address: tuple[int, tuple[Any, ...]] | None = None
        self._arrivals: queue.SimpleQueue[Enrolled | tuple[Member, Input]] = queue.SimpleQueue()
        self._clerk = Clerk()
        self._ring, self._bell = socket.socketpair()
        for end in (self._ring, self._bell):
            end.setblocking(False)
        self.selector.register(self._ring, selectors.EVENT_READ, self._answer_bell)
        self._stopping = False

    # --- from other threads ---

    def arrive(self, enrolled: Enrolled) -> None:
        """A device is enrolled: let it boot. Callable from any thread."""
        self._arrivals.put(enrolled)
        self._wake()

    def stop(self) -> None:
        """End `run`, each agent saying goodbye. Callable from a signal handler."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        """Never waits: a signal handler runs in the very thread that answers the bell."""
        try:
            self._bell.send(b"!")
        except BlockingIOError:
            pass  # it rings as loud as it can

    # --- the loop ---

    def run(self) -> None:
        while not self._stopping:
            self.turn()
        self._end()

    def turn(self) -> None:
        """One round: what is due, what has come."""
        self._run_due()
        self._drain()
        self._dial_next()
        timeout = max(0.0, min(1.0, (self._heap[0][0] if self._heap else NEVER) - time.monotonic()))
        for key, _ in self.selector.select(0 if self._inbox else timeout):
            if isinstance(key.data, Member):
                self._ready(key.data)
            else:
                key.data()

    def put(self, member: Member, signal: Input) -> None:
        """Feed one agent; it decides in this or the next round."""
        self._inbox.append((member, signal))

    def scan(self, member: Member, *sections: str) -> None:
        """Its hardware has changed."""
        self.put(member, self._scanned(member, Scan(sections)))

    def look(self, member: Member) -> None:
        """Its files have changed."""
        self.put(member, Observed(member.files.items(), complete=True))

    def cut(self, member: Member, reason: str) -> None:
        """The connection is gone, without a word."""
        session, wire = member.session, member.wire
        if wire is not None:
            self._forget(member, wire)
            self.put(member, Disconnected(session, reason))

    def reboot(self, member: Member) -> None:
        """Power off and on again: another boot id, the journal as it was."""
        if member.wire is not None:
            self._forget(member, member.wire)
        member.hardware.boots += 1
        self._boot(member, member.state.durable)

    def _boot(self, member: Member, durable: Durable) -> None:
        member.zero = time.monotonic()
        member.me = self._profile(member.enrolled, member.hardware)
        member.state = agent.begin(durable, os.urandom(32))
        self.put(member, Booted())
        self.look(member)

    def _profile(self, enrolled: Enrolled, hardware: Hardware) -> Profile:
        me = enrolled.identity
        keepalive_s, heartbeat_s = self._rhythm
        return Profile(me.device, me.topics, me.ring, me.channel_key, hardware.boot_id, VERSION, keepalive_s, heartbeat_s)

    def _answer_bell(self) -> None:
        try:
            self._ring.recv(4096)
        except BlockingIOError:
            pass  # rung twice, answered once
        while True:
            try:
                arrived = self._arrivals.get_nowait()
            except queue.Empty:
                return
            if isinstance(arrived, Enrolled):
                self._welcome(arrived)
            else:
                self.put(*arrived)

    def _welcome(self, enrolled: Enrolled) -> None:
        hardware = Hardware(self._seed, enrolled.index)
        durable = fresh(new_epoch())
        member = Member(enrolled, hardware, self._profile(enrolled, hardware), agent.begin(durable, b"\0" * 32), time.monotonic())
        self.members[enrolled.index] = member
        self.by_device[enrolled.identity.device] = member
        self._boot(member, durable)

    def _run_due(self) -> None:
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            at, _, what = heapq.heappop(self._heap)
            if not isinstance(what, Member):
                what()
            elif at == what.due:
                what.due = NEVER
                self._keep_alive(what, now)
                self.put(what, Tick())
        for member, since in list(self._handshakes.items()):
            if now - since > DIAL_LIMIT_S:
                self.cut(member, "the handshake took too long")

    def _keep_alive(self, member: Member, now: float) -> None:
        try:
            if member.wire is not None:
                member.wire.keep_alive(now)
                self._flush(member)
        except WireError as error:
            self.cut(member, str(error))

    def _drain(self) -> None:
        for _ in range(len(self._inbox) + 1000):
            if not self._inbox:
                return
            member, signal = self._inbox.popleft()
            self._step(member, signal)

    def _step(self, member: Member, signal: Input) -> None:
        now = time.monotonic()
        clock = Clock(now - member.zero, time.time())
        member.state, effects = agent.step(member.me, member.state, clock, signal)
        for effect in effects:
            self._perform(member, effect)
        self._flush(member)
        self._plan(member)

    def _plan(self, member: Member) -> None:
        at = agent.wake_at(member.state)
        due = NEVER if at is None else at + member.zero
        if member.wire is not None:
            due = min(due, member.wire.ping_at())
        if due != member.due and due != NEVER:
            member.due = due
            heapq.heappush(self._heap, (due, next(self._count), member))

    # --- effects ---

    def _perform(self, member: Member, effect: Effect) -> None:
        match effect:
            case Publish(topic, payload, qos):
                if member.wire is not None:
                    member.wire.publish(topic, payload, qos)
            case Connect():
                self._dials.append((member, effect))
            case Disconnect(session, clean) if member.session == session:
                self._disconnect(member, clean)
            case Disconnect():
                pass  # it is over already
            case Scan():
                self.put(member, self._scanned(member, effect))
            case Run():
                self._work(member, effect)
            case Stop():
                pass  # invented work is over before anybody could stop it
            case Note(level, message, fields):
                log.log(min(level, logging.DEBUG), message, extra={"device": member.me.device, **fields})
            case Adopt(ring):
                self._adopt(member, ring)
            case _:
                self._send_errand(member, effect)

    def _disconnect(self, member: Member, clean: bool) -> None:
        if member.wire is not None and clean:
            member.wire.goodbye()
            self._flush(member)
        if member.wire is not None:
            self._forget(member, member.wire)

    def _send_errand(self, member: Member, job: CertificateJob) -> None:
        def tell(signal: Input) -> None:
            self._arrivals.put((member, signal))
            self._wake()

        ring = member.state.ring or member.me.ring
        self._clerk.take(Errand(job, member.enrolled.identity, member.enrolled.pem, ring, tell))

    def _adopt(self, member: Member, ring: Ring) -> None:
        """They share one file of CAs, and one TLS context: what one of them believes, all of them would."""
        member.enrolled = replace(member.enrolled, identity=replace(member.enrolled.identity, ring=ring))
        if ring.generation > self._authorities:
            self._authorities, self._context = ring.generation, None
            temporary = member.enrolled.identity.ca_file.with_suffix(".new")
            temporary.write_text("".join(ring.authorities))
            temporary.replace(member.enrolled.identity.ca_file)

    def _scanned(self, member: Member, scan: Scan) -> Scanned:
        found = member.hardware.sections()
        wanted = found if scan.sections is None else {name: found[name] for name in scan.sections if name in found}
        return Scanned(wanted, {}, scan.force, scan.commands)

    def _work(self, member: Member, command: Run) -> None:
        boots = member.hardware.boots

        def done() -> None:
            if member.hardware.boots == boots:
                self.put(member, Finished(command.command, member.files.run(command)))

        heapq.heappush(self._heap, (time.monotonic() + self._random.uniform(*WORK_S), next(self._count), done))

    # --- connections ---

    def _dial_next(self) -> None:
        while self._dials and len(self._handshakes) < HANDSHAKES:
            member, connect = self._dials.popleft()
            if member.state.link.session != connect.session:
                continue
            if member.offline:
                self.put(member, Disconnected(connect.session, "taken offline"))
                continue
            try:
                self._open(member, connect)
            except OSError as error:
                self.put(member, Disconnected(connect.session, str(error)))

    def _open(self, member: Member, connect: Connect) -> None:
        me = member.enrolled.identity
        if self._address is None:
            found = socket.getaddrinfo(me.host, me.port, type=socket.SOCK_STREAM)[0]
            self._address = found[0], found[4]
        now = time.monotonic()
        member.wire = Wire(*self._address, me.device, connect, now)
        member.session = connect.session
        member.events = selectors.EVENT_READ | selectors.EVENT_WRITE
        self.selector.register(member.wire.sock, member.events, member)
        self._handshakes[member] = now

    def _ready(self, member: Member) -> None:
        wire = member.wire
        if wire is None:
            return
        try:
            if not wire.in_tls:
                self._secure(member, wire)
            for arrival in wire.advance(time.monotonic()):
                match arrival:
                    case Subscribed():
                        self._handshakes.pop(member, None)
                        self.put(member, Connected(member.session))
                    case Message(topic, payload):
                        self.put(member, Received(member.session, topic, payload))
        except WireError as error:
            self.cut(member, str(error))
            return
        self._watch(member, wire)

    def _secure(self, member: Member, wire: Wire) -> None:
        """The socket object changes, so it is registered anew; where TLS can't begin, there is none to be registered."""
        context = self._tls(member)
        self.selector.unregister(wire.sock)
        wire.secure(context, member.enrolled.identity.host)
        self.selector.register(wire.sock, member.events, member)

    def _tls(self, member: Member) -> ssl.SSLContext:
        """The one context, holding this member's certificate for the moment."""
        if self._context is None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._context.load_verify_locations(member.enrolled.identity.ca_file)
        self._context.load_cert_chain(member.enrolled.pem)
        return self._context

    def _flush(self, member: Member) -> None:
        wire = member.wire
        if wire is None:
            return
        try:
            wire.flush(time.monotonic())
        except WireError as error:
            self.cut(member, str(error))
            return
        self._watch(member, wire)

    def _watch(self, member: Member, wire: Wire) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.wants_write else 0)
        if events != member.events:
            member.events = events
            self.selector.modify(wire.sock, events, member)

    def _forget(self, member: Member, wire: Wire) -> None:
        self._handshakes.pop(member, None)
        with contextlib.suppress(KeyError, ValueError):  # whose TLS could not begin is registered no more
            self.selector.unregister(wire.sock)
        wire.close()
        member.wire = None

    def _end(self) -> None:
        for member in self.members.values():
            self._step(member, Stopping())
        self.selector.close()
        self._ring.close()
        self._bell.close()

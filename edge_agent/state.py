"""What the agent knows: `Durable` survives a crash (the journal stores exactly this), `State` is one process's view around it.

Frozen values, so that a step whose writes fail is simply forgotten. `Turn` is the working copy within one step; it collects effects and is
how `agent`, `commands` and `report` change the state. Nothing here decides anything.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from broker.messages import CertificateRequest, Doubt, Item, Message, Order, Result, Verb, encode, now_text
from broker.topics import DeviceTopic, Topics
from edge_agent.outbox import Outbox, Part, put
from edge_agent.policy import Policy
from edge_agent.signals import Clock, Effect, Held, JournalFailed, Note, Publish, StopReason
from edge_agent.trust import Ring

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


class Lane(StrEnum):
    """Who does a verb: the appliers' thread (one command at a time), discovery, or the agent itself."""

    WORKER = "worker"
    SCAN = "scan"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Rule:
    """How a verb is run. One that is not idempotent never runs twice by itself."""

    lane: Lane
    idempotent: bool


VERBS: Mapping[str, Rule] = {
    Verb.CONFIG_APPLY: Rule(Lane.WORKER, idempotent=True),
    Verb.CONFIG_REMOVE: Rule(Lane.WORKER, idempotent=True),
    Verb.FACTS_REFRESH: Rule(Lane.SCAN, idempotent=True),
    Verb.CANCEL: Rule(Lane.AGENT, idempotent=True),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """Who this agent is and how it was set up; never changes while it runs. `ring`: whom it trusted when it started."""

    device: str
    topics: Topics
    ring: Ring
    channel_key: bytes = field(repr=False)
    boot_id: str
    agent_version: str
    keepalive_s: int = 30
    heartbeat_s: int = 30
    verbs: Mapping[str, Rule] = field(default_factory=lambda: VERBS)

    def topic(self, suffix: str) -> str:
        return self.topics.build(DeviceTopic(self.device, suffix))


class Phase(StrEnum):
    RECEIVED = "received"
    STARTED = "started"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command in the journal. `fence`: that of the order that made it known; `signed`: of the last one that was answered. `order` is
    dropped when it is done; `result` is then its outcome."""

    id: str
    fence: int
    phase: Phase
    order: Order | None
    starts: int = 0
    started_at: str | None = None
    result: Result | None = None
    signed: int = 0


@dataclass(frozen=True, slots=True)
class Durable:
    """`fence`: the highest seen. `generation`: the highest delegation seen. `born`: the highest that the server had given when this journal
    began (its first checkpoint says); what was first sent up to there, a lost journal may have run. None before that."""

    outbox: Outbox
    commands: tuple[Entry, ...] = ()
    items: Mapping[str, Item] = field(default_factory=dict)
    manifest: Mapping[str, str] = field(default_factory=dict)
    fence: int = 0
    generation: int = 0
    born: int | None = None
    logs: int = 0


@dataclass(frozen=True, slots=True)
class Trusted:
    """Trusted time: `at` (Unix seconds) was when the monotonic clock stood at `mono`."""

    at: float
    mono: float


@dataclass(frozen=True, slots=True)
class Running:
    """A command under way. `given_up`: it has been reported as ended, but its applier has not come back yet."""

    command: str
    lane: Lane
    deadline: float
    stopping: StopReason | None = None
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """The connection as the agent sees it: `session` is None while down; `connected` once the subscription stands. `acked`: the epoch, and
    what of it was acknowledged when the checkpoint was asked for. `resyncs`: those heard in this session."""

    session: str | None = None
    connected: bool = False
    since: float = 0.0
    failures: int = 0
    dial_at: float | None = None
    nonce: str = ""
    nonce_at: float = 0.0
    presence_at: float | None = None
    presence_tries: int = 0
    acked: tuple[str, int] = ("", 0)
    resyncs: frozenset[str] = frozenset()
    heartbeat_at: float | None = None
    estranged: bool = False
    """The broker showed the certificate of a CA that is not trusted here."""
    owes_presence: bool = False
    """The server is to be told what is trusted by now, after the checkpoint that is on its way."""


@dataclass(frozen=True, slots=True)
class Resend:
    """When to repeat what is not acknowledged. `behind` counts answers that lack what they had acknowledged, one for each time that we
    sent again (`asked`); after some of them the server is asked what it has (`doubted`)."""

    at: float | None = None
    tries: int = 0
    last: float = float("-inf")
    behind: int = 0
    asked: bool = True
    doubted: bool = False


@dataclass(frozen=True, slots=True)
class Awaited:
    """Commands that the server says it has sent and we have not answered. `due`: by when they must have come. `missing`: those that had
    not, and since when."""

    commands: tuple[str, ...] = ()
    due: float | None = None
    missing: tuple[str, ...] = ()
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Renewal:
    """The certificate's renewal. `at`: when to look again, monotonic, None before it has been looked at; `busy`: somebody is at the files;
    `request`: what was sent and not answered; `lot`: a number in [0, 1) that spreads a fleet enrolled in one hour."""

    at: float | None = None
    tries: int = 0
    busy: bool = False
    request: CertificateRequest | None = None
    lot: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    durable: Durable
    seed: bytes = field(repr=False)
    draws: int = 0
    link: Link = field(default_factory=Link)
    resend: Resend = field(default_factory=Resend)
    time: Trusted | None = None
    running: tuple[Running, ...] = ()
    unjudged: tuple[Any, ...] = ()
    """Commands that came before the first checkpoint (`messages.Command`)."""
    policy: Policy | None = None
    """What the device's owner allows; None until the shell has said."""
    awaited: Awaited = field(default_factory=Awaited)
    refused: Mapping[str, int] = field(default_factory=dict)
    """Why and how many messages were dropped, since last reported."""
    report_at: float | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    """Sections of the facts that could not be read."""
    scanned: bool = False
    """Whether this process has scanned yet."""
    looked: bool = False
    """Whether this process has seen all items yet."""
    owes_items: bool = False
    """A full status was asked for before that."""
    samples: tuple[tuple[str, int, float], ...] = ()
    samples_lost: int = 0
    broken: JournalFailed | None = None
    """Why nothing is durable at the moment."""
    ring: Ring | None = None
    """Whom it trusts, where that has changed since it started."""
    certificate: Held | None = None
    """None until it has been looked at."""
    renewal: Renewal = field(default_factory=Renewal)


class Turn:
    """One step under way."""

    __slots__ = ("effects", "me", "now", "state")

    def __init__(self, me: Profile, state: State, now: Clock) -> None:
        self.me = me
        self.state = state
        self.now = now
        self.effects: list[Effect] = []

    @property
    def ring(self) -> Ring:
        """Whom the device trusts."""
        return self.state.ring or self.me.ring

    def set(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)

    def link(self, **changes: Any) -> None:
        self.set(link=replace(self.state.link, **changes))

    def keep(self, **changes: Any) -> None:
        """Change what is durable."""
        self.set(durable=replace(self.state.durable, **changes))

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def note(self, level: int, message: str, **fields: Any) -> None:
        self.do(Note(level, message, fields))

    def put(self, part: Part, hold_s: float = 0.0) -> None:
        self.keep(outbox=put(self.state.durable.outbox, part, self.now.mono + hold_s if hold_s else 0.0))

    def publish(self, message: Message, qos: int) -> None:
        """One that is not durable."""
        self.do(Publish(self.me.topic(message.suffix), encode(message, sent_at=self.time_text()), qos))

    def unix(self) -> float:
        """Seconds: trusted where there was a checkpoint, else what the local clock says."""
        trusted = self.trusted()
        return self.now.wall if trusted is None else trusted

    def trusted(self) -> float | None:
        time = self.state.time
        return None if time is None else time.at + self.now.mono - time.mono

    def time_text(self) -> str:
        return now_text(datetime.fromtimestamp(min(max(self.unix(), 0.0), 253402300799.0), UTC))

    def fraction(self) -> float:
        """A random number in [0, 1)."""
        return int.from_bytes(self._draw()[:6], "big") / 2**48

    def token(self) -> str:
        """A ULID in lower case: 48 bits of time, 80 random ones."""
        number = (int(max(self.unix(), 0.0) * 1000) % 2**48) << 80 | int.from_bytes(self._draw()[:10], "big")
        return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))

    def _draw(self) -> bytes:
        self.set(draws=self.state.draws + 1)
        return hashlib.blake2b(self.state.draws.to_bytes(8, "big"), key=self.state.seed, digest_size=16).digest()

    def refuse(self, doubt: Doubt, reason: str, **fields: Any) -> None:
        """Count a message that is not believed or not understood; `uplink` tells of it later. The local log hears of the first of its kind:
        whoever sends them must not be able to fill the disk."""
        before = self.state.refused.get(doubt, 0)
        self.set(refused={**self.state.refused, doubt: before + 1})
        if before == 0:
            self.note(logging.WARNING, "message refused", doubt=doubt, reason=reason, **fields)


def fresh(epoch: str) -> Durable:
    """What a new journal holds."""
    return Durable(Outbox(epoch))

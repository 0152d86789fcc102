"""A batch being decided: what each message is to its device's stream, and what the transaction then has to do. Pure.

`decide` goes through the messages of a batch in the order in which they came, each against its device's locked `Stream`; what follows
from all of them together stands in the `Batch`: rows to write, acknowledgements and checkpoints to send once it is committed.
Called by `inventory.ingest`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from broker.messages import DURABLE, Facts, Heartbeat, Log, Presence, Result, Status
from inventory.inbound import Inbound
from inventory.reports import Reports
from inventory.streams import Heard, Stream, Verdict, hear_heartbeat, hear_presence, judge, take


@dataclass(slots=True)
class Counts:
    """How many messages met which fate."""

    taken: int = 0
    duplicates: int = 0
    gaps: int = 0
    retired: int = 0
    set_aside: int = 0
    ignored: int = 0

    def add(self, other: "Counts") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Batch:
    """What one transaction does, and what is said after it. `alive`: when each device was last heard, monotonic seconds. `awaited`: of
    those that are answered with a checkpoint, the commands that they have not answered."""

    streams: Mapping[str, Stream]
    at: datetime
    reports: Reports = field(default_factory=Reports)
    acks: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    nonces: dict[str, str] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    """Which list of keys devices say that they trust."""
    awaited: Mapping[str, Sequence[str]] = field(default_factory=dict)
    poison: list[Inbound] = field(default_factory=list)
    alive: dict[str, float] = field(default_factory=dict)
    advanced: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    cloned: set[str] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)


def decide(streams: Mapping[str, Stream], inbound: Iterable[Inbound], at: datetime) -> Batch:
    """Messages of devices that have no stream (deleted or revoked meanwhile) are left out."""
    batch = Batch(streams, at)
    for m in inbound:
        stream = streams.get(m.device)
        if stream is None:
            batch.counts.ignored += 1
        elif m.suffix in DURABLE:
            _durable(batch, stream, m)
        else:
            _passing(batch, stream, m)
    return batch


def _durable(batch: Batch, stream: Stream, m: Inbound) -> None:
    if m.envelope is None or m.envelope.epoch is None or m.envelope.seq is None:
        _set_aside(batch, m)  # its MAC is good, but it has no number that could be acknowledged
        return
    epoch, seq = m.envelope.epoch, m.envelope.seq
    verdict = judge(stream, epoch, seq)
    batch.acks[m.device, epoch] = verdict
    match verdict:
        case Verdict.NEXT:
            if epoch != stream.epoch:
                batch.sessions.add(m.device)
            take(stream, epoch, seq)
            batch.advanced.add(m.device)
            batch.alive[m.device] = m.at
            _report(batch, m)
        case Verdict.DUPLICATE:
            batch.counts.duplicates += 1
        case Verdict.GAP:
            batch.counts.gaps += 1
        case Verdict.RETIRED:
            batch.counts.retired += 1


def _report(batch: Batch, m: Inbound) -> None:
    match m.message:
        case Facts() as message:
            batch.reports.add_facts(m.device, message)
        case Status() as message:
            batch.reports.add_status(m.device, message)
        case Result() as message:
            batch.reports.add_result(m.device, message)
        case Log() as message:
            batch.reports.add_log(m.device, message)
        case _:
            _set_aside(batch, m)
            return
    batch.counts.taken += 1


def _passing(batch: Batch, stream: Stream, m: Inbound) -> None:
    match m.message:
        case Presence() as message:
            heard = hear_presence(stream, message, batch.at)
            if message.online and stream.session == message.session:
                batch.reports.set_presence(m.device, presence="online", boot_id=message.boot_id, agent_version=message.agent_version)
                batch.nonces[m.device] = message.nonce
                if message.keys is not None:
                    batch.keys[m.device] = message.keys
        case Heartbeat() as message:
            heard = hear_heartbeat(stream, message, batch.at)
            if stream.session == message.session:
                batch.reports.set_presence(m.device, presence="online")
        case _:
            _set_aside(batch, m)
            return
    batch.sessions.add(m.device)
    match heard:
        case Heard.ONLINE:
            batch.alive[m.device] = m.at
            batch.counts.taken += 1
        case Heard.OFFLINE:
            batch.reports.set_presence(m.device, presence="offline")
            batch.nonces.pop(m.device, None)
            batch.counts.taken += 1
        case Heard.IGNORED:
            batch.counts.ignored += 1
        case Heard.CLONED:
            batch.cloned.add(m.device)
            batch.counts.ignored += 1


def _set_aside(batch: Batch, m: Inbound) -> None:
    batch.poison.append(m)
    batch.counts.set_aside += 1

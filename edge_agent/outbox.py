"""The outbox: go-back-N over whatever MQTT gives. Pure values; the journal keeps them, `agent` drives them.

What waits has no number yet and coalesces (facts by section, statuses by item, results by command). What has been sent has its `seq` for
ever and is repeated byte for byte until the other end says that it has committed it. At most `WINDOW` messages are on their way. It is
not a queue for metrics: those are neither durable nor numbered.

Source: design.md section 4 (Up); RFC 3366 section 1.3 on go-back-N.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from broker.messages import SPLIT_BYTES, Ack, Facts, Item, Log, Result, Section, Status, encode, to_json

WINDOW = 16
"""Messages sent and not acknowledged."""

MAX_LOGS = 200
"""Waiting log messages; past it the mildest and oldest go. Everything else that waits coalesces and so is bounded by what exists."""

MERGE_BYTES = SPLIT_BYTES - 16 * 1024
"""How much of what waits goes into one message: room is left for manifest and envelope."""

MAX_ITEMS = 1000
"""Items in one status message (contract)."""


@dataclass(frozen=True, slots=True)
class FactsPart:
    """One section that waits to be sent."""

    name: str
    section: Section


@dataclass(frozen=True, slots=True)
class Manifest:
    """A facts message is due though nothing changed: the hashes let the server see whether it has what it should."""


@dataclass(frozen=True, slots=True)
class FullStatus:
    """The status of every item, taken when it is sent."""


Part = FactsPart | Manifest | Item | FullStatus | Result | Log
Body = Facts | Status | Result | Log


@dataclass(frozen=True, slots=True)
class Waiting:
    """`hold_until` (monotonic seconds) lets a message that will soon be outdated wait for the next one of its key."""

    key: str
    part: Part
    size: int
    hold_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Sent:
    seq: int
    sent_at: str
    body: Body


@dataclass(frozen=True, slots=True)
class Outbox:
    epoch: str
    next_seq: int = 1
    sent: tuple[Sent, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    dropped: int = 0
    """Messages lost to the bound since the last report of it."""

    @property
    def base(self) -> int:
        """The oldest number that is not acknowledged."""
        return self.sent[0].seq if self.sent else self.next_seq

    @property
    def unacked(self) -> int:
        return len(self.sent) + len(self.waiting)


class Verdict(Enum):
    """What an acknowledgement means for the outbox."""

    PROGRESS = "progress"
    GAP = "gap"
    BEHIND = "behind"
    AHEAD = "ahead"
    FOREIGN = "foreign"


def key_of(part: Part) -> str:
    """What coalesces with what."""
    match part:
        case FactsPart(name, _):
            return f"facts/{name}"
        case Manifest():
            return "facts"
        case Item(kind=kind, id=id):
            return f"status/{kind}/{id}"
        case FullStatus():
            return "status"
        case Result(command=command):
            return f"result/{command}"
        case Log(id=id):
            return f"log/{id}"


def put(outbox: Outbox, part: Part, hold_until: float = 0.0) -> Outbox:
    """Let a part wait, at the end; the unsent one of its key is outdated and goes. A full status outdates all single ones."""
    new = Waiting(key_of(part), part, _size(part), hold_until)
    full = isinstance(part, FullStatus)
    kept = tuple(w for w in outbox.waiting if w.key != new.key and not (full and isinstance(w.part, Item)))
    return _bound(replace(outbox, waiting=(*kept, new)))


def take(outbox: Outbox, now: float, sent_at: str, manifest: Mapping[str, str], items: Iterable[Item]) -> tuple[Outbox, tuple[Sent, ...]]:
    """Number what may be sent now: as much as the window has room for. `manifest` and `items` are those of this moment."""
    fresh: list[Sent] = []
    while len(outbox.sent) < WINDOW:
        ready = [w for w in outbox.waiting if w.hold_until <= now]
        if not ready:
            break
        body, used = _merge(ready, manifest, items)
        message = Sent(outbox.next_seq, sent_at, body)
        fresh.append(message)
        outbox = replace(
            outbox,
            next_seq=outbox.next_seq + 1,
            sent=(*outbox.sent, message),
            waiting=tuple(w for w in outbox.waiting if w.key not in used),
        )
    return outbox, tuple(fresh)


def acknowledge(outbox: Outbox, ack: Ack) -> tuple[Outbox, Verdict]:
    """Drop what is committed.

    GAP: nothing new, the other end lacks our oldest. BEHIND: it lacks what it had acknowledged (it was restored, or the message is late).
    AHEAD: it has numbers that we never gave (our journal was rolled back).
    """
    if ack.epoch != outbox.epoch:
        return outbox, Verdict.FOREIGN
    if ack.seq >= outbox.next_seq:
        return outbox, Verdict.AHEAD
    if ack.seq >= outbox.base:
        return replace(outbox, sent=tuple(s for s in outbox.sent if s.seq > ack.seq)), Verdict.PROGRESS
    return outbox, Verdict.GAP if ack.seq == outbox.base - 1 else Verdict.BEHIND


def renumber(outbox: Outbox, epoch: str) -> Outbox:
    """Begin a new epoch with all that is not acknowledged."""
    sent = tuple(replace(message, seq=n) for n, message in enumerate(outbox.sent, 1))
    return replace(outbox, epoch=epoch, next_seq=len(sent) + 1, sent=sent)


def held_until(outbox: Outbox, now: float) -> float | None:
    """When the next held part may go, if one is held."""
    return min((w.hold_until for w in outbox.waiting if w.hold_until > now), default=None)


def payload(outbox: Outbox, message: Sent, topic: str, key: bytes) -> bytes:
    """The exact bytes: the same for each repetition."""
    return encode(message.body, sent_at=message.sent_at, epoch=outbox.epoch, seq=message.seq, topic=topic, key=key)


def _merge(ready: list[Waiting], manifest: Mapping[str, str], items: Iterable[Item]) -> tuple[Body, frozenset[str]]:
    first = ready[0]
    match first.part:
        case Result() | Log():
            return first.part, frozenset({first.key})
        case FullStatus():
            return Status(full=True, items=tuple(items)), frozenset({first.key})
        case FactsPart() | Manifest():
            chosen = _fitting([w for w in ready if isinstance(w.part, FactsPart | Manifest)])
            sections = {w.part.name: w.part.section for w in chosen if isinstance(w.part, FactsPart)}
            return Facts(sections=sections, manifest=dict(manifest)), frozenset(w.key for w in chosen)
        case Item():
            chosen = _fitting([w for w in ready if isinstance(w.part, Item)])
            return Status(full=False, items=tuple(w.part for w in chosen if isinstance(w.part, Item))), frozenset(w.key for w in chosen)


def _fitting(ready: list[Waiting]) -> list[Waiting]:
    """The first, and what else fits beside it into one message."""
    chosen, size = [ready[0]], ready[0].size
    for candidate in ready[1:]:
        if size + candidate.size <= MERGE_BYTES and len(chosen) < MAX_ITEMS:
            chosen.append(candidate)
            size += candidate.size
    return chosen


def _bound(outbox: Outbox) -> Outbox:
    """Keep the number of waiting logs below its bound; results, facts and statuses are never dropped."""
    logs = [w for w in outbox.waiting if isinstance(w.part, Log)]
    if len(logs) <= MAX_LOGS:
        return outbox
    mildest = min(logs, key=lambda w: _severity(w.part))
    return replace(outbox, waiting=tuple(w for w in outbox.waiting if w is not mildest), dropped=outbox.dropped + 1)


def _severity(part: Part) -> int:
    order = {"info": 0, "warning": 1, "error": 2, "critical": 3}
    return order[part.severity] if isinstance(part, Log) else len(order)


def _size(part: Part) -> int:
    value = part.section if isinstance(part, FactsPart) else part
    if isinstance(value, FullStatus | Manifest):
        return 0
    return len(json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":")).encode()) + 64

"""A device's durable stream and its sessions: what the next message means, decided without a database. Pure; called by `inventory.ingest`.

A stream takes each `seq` once and in order; an epoch is left for ever when a new one begins at 1. Sessions and epochs are compared for
equality, never for order, because clocks lie: one that has been seen and left (the last `KEPT`, of epochs `KEPT_EPOCHS`) does not come
back into effect. But a session that another one took the place of, and that speaks on, is the living one: the other's first message was
late.

Source: design.md section 4 ("Up", "Sessions and epochs").
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from broker.messages import Ack, Heartbeat, Presence

KEPT = 8
"""Retired sessions that are remembered."""

KEPT_EPOCHS = 1000
"""Retired epochs that are remembered: whoever has kept the messages of a forgotten one could replay it from its first message on. A device
begins one when its journal has failed or the server has lost something, so that few ever come together."""

NEVER_GIVEN = 2**53 - 1
"""A seq that no device reaches: the answer to a retired epoch. A device that still uses it has been rolled back, and begins a new one."""

CALM = timedelta(minutes=10)
"""A session that has lasted so long ends the suspicion that two machines take turns."""

RETURNS = 2
"""So often a session has to speak that another one took the place of, and then it is current again. It was the other one that was late: its
first message was overtaken, and nothing else would ever be heard of the device until it connects anew."""

TURNS = 3
"""So often a retired session, or a left boot, has to come back before it is called a clone: once may be a message that was late."""


@dataclass(slots=True)
class Stream:
    """One row of `device_stream` under its lock, being changed. `retired` holds [session, boot_id, heard], the newest last; `heard`: how
    often it has spoken since another one took its place, null where it has ended. Older rows hold two members, of sessions that ended.
    `fence`: the highest number that a command to the device has been signed with."""

    host: str
    epoch: str | None = None
    seq: int = 0
    session: str | None = None
    session_since: datetime | None = None
    boot_id: str | None = None
    retired: list[list[Any]] = field(default_factory=list)
    retired_epochs: list[str] = field(default_factory=list)
    keepalive_s: int = 30
    heartbeat_s: int = 30
    flaps: int = 0
    fence: int = 0


class Verdict(Enum):
    """What a durable message is to its stream."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    GAP = "gap"
    RETIRED = "retired"


def judge(stream: Stream, epoch: str, seq: int) -> Verdict:
    if epoch == stream.epoch:
        if seq == stream.seq + 1:
            return Verdict.NEXT
        return Verdict.DUPLICATE if seq <= stream.seq else Verdict.GAP
    if epoch in stream.retired_epochs:
        return Verdict.RETIRED
    return Verdict.NEXT if seq == 1 else Verdict.GAP


def take(stream: Stream, epoch: str, seq: int) -> None:
    """The message that `judge` called NEXT is part of this transaction."""
    if epoch != stream.epoch:
        if stream.epoch is not None:
            stream.retired_epochs = [*stream.retired_epochs, stream.epoch][-KEPT_EPOCHS:]
        stream.epoch = epoch
    stream.seq = seq


def answer(stream: Stream, epoch: str, verdict: Verdict) -> Ack:
    """What the device is told after the commit."""
    if verdict is Verdict.RETIRED:
        return Ack(epoch=epoch, seq=NEVER_GIVEN)
    return Ack(epoch=epoch, seq=stream.seq if epoch == stream.epoch else 0)


class Heard(Enum):
    """What a presence message or a heartbeat says."""

    ONLINE = "online"
    OFFLINE = "offline"
    IGNORED = "ignored"
    CLONED = "cloned"
    """Ignored, and it is by now certain that two machines use this identity."""


def hear_presence(stream: Stream, message: Presence, at: datetime) -> Heard:
    """A session begins or ends."""
    if not message.online:
        return _end(stream, message.session)
    if not _may_speak(stream, message.session, at):
        return _flap(stream)
    cloned = Heard.IGNORED
    if message.session != stream.session:
        if message.boot_id != stream.boot_id and any(each[1] == message.boot_id for each in stream.retired):
            cloned = _flap(stream)
        _begin(stream, message.session, at)
    stream.boot_id = message.boot_id
    stream.keepalive_s, stream.heartbeat_s = message.keepalive_s, message.heartbeat_s
    return Heard.CLONED if cloned is Heard.CLONED else Heard.ONLINE


def hear_heartbeat(stream: Stream, message: Heartbeat, at: datetime) -> Heard:
    """A session that is not known began while nobody listened: it is taken for current, its boot unknown until it says."""
    if not _may_speak(stream, message.session, at):
        return _flap(stream)
    if message.session != stream.session:
        _begin(stream, message.session, at)
        stream.boot_id = None
    return Heard.ONLINE


def _begin(stream: Stream, session: str, at: datetime) -> None:
    if stream.session_since is not None and at - stream.session_since > CALM:
        stream.flaps = 0
    _retire(stream, 0)
    stream.session, stream.session_since = session, at


def _end(stream: Stream, session: str) -> Heard:
    """Only the current session ends; the Will of an earlier one is late and harms nobody."""
    if session != stream.session:
        return Heard.IGNORED
    _retire(stream, None)
    stream.session = None
    return Heard.OFFLINE


def _retire(stream: Stream, heard: int | None) -> None:
    if stream.session is not None:
        stream.retired = [*stream.retired, [stream.session, stream.boot_id, heard]][-KEPT:]


def _may_speak(stream: Stream, session: str, at: datetime) -> bool:
    """Whether a session counts: the current one, an unseen one, and one that was displaced but goes on, which then is current again."""
    found = next((each for each in stream.retired if each[0] == session), None)
    if found is None:
        return True
    heard = found[2] if len(found) > 2 else None
    if heard is None:
        return False
    others = [each for each in stream.retired if each is not found]
    if heard + 1 < RETURNS:
        stream.retired = [[session, found[1], heard + 1] if each is found else each for each in stream.retired]
        return False
    stream.retired = others
    _begin(stream, session, at)
    stream.boot_id = found[1]
    return True


def _flap(stream: Stream) -> Heard:
    stream.flaps += 1
    return Heard.CLONED if stream.flaps == TURNS else Heard.IGNORED

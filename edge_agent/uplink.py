"""Sending and being acknowledged: the agent's half of go-back-N, and when a new epoch has to begin. Pure.

`outbox` numbers and merges; this decides when to send, when to go back, and what an acknowledgement that does not fit means.

Source: design.md section 4 (Up).
"""

import logging
from dataclasses import replace
from typing import Any

from broker.messages import MESSAGES_REFUSED, QOS, Ack, Doubt, Log, Moment
from edge_agent import outbox, standing
from edge_agent.facts import cleaned
from edge_agent.outbox import FullStatus, Verdict
from edge_agent.signals import JournalFailed, Publish, Scan
from edge_agent.state import Resend, Turn

RESEND_FIRST_S = 5.0
RESEND_MAX_S = 300.0
GO_BACK_S = 1.0
"""A gap answer makes everything be sent again at most this often: each message of a window draws one."""
MAX_BEHIND = 3
"""After so many answers without what had been acknowledged the server is asked: it has lost it, or somebody repeats old answers."""
REPORT_S = 600.0
"""How often refused messages are told of, at most; the first time after `REPORT_FIRST_S`."""
REPORT_FIRST_S = 5.0


FORGERY = (
    "Somebody between this device and its server sends messages that the server has not made, or not for this device. None took effect; "
    "look at who runs the broker, and what has its certificate."
)


def send(turn: Turn) -> None:
    """Number and send what the window has room for."""
    _fill_window(turn)
    if _own_up(turn):
        _fill_window(turn)


def _fill_window(turn: Turn) -> None:
    durable = turn.state.durable
    taken, fresh = outbox.take(durable.outbox, turn.now.mono, turn.time_text(), durable.manifest, durable.items.values())
    if not fresh:
        return
    turn.keep(outbox=taken)
    for message in fresh:
        _emit(turn, message)
    if turn.state.resend.at is None:
        _plan_resend(turn)


def go_back(turn: Turn) -> None:
    """Send everything from the oldest unacknowledged again."""
    sent = turn.state.durable.outbox.sent
    for message in sent:
        _emit(turn, message)
    turn.set(resend=replace(turn.state.resend, at=None, last=turn.now.mono, asked=True))
    if sent:
        _plan_resend(turn)


def _plan_resend(turn: Turn) -> None:
    tries = turn.state.resend.tries
    delay = min(RESEND_MAX_S, RESEND_FIRST_S * 2.0 ** min(tries, 10)) * (1.0 + 0.2 * turn.fraction())
    turn.set(resend=replace(turn.state.resend, at=turn.now.mono + delay, tries=tries + 1))


def _emit(turn: Turn, message: outbox.Sent) -> None:
    suffix = message.body.suffix
    topic = turn.me.topic(suffix)
    turn.do(Publish(topic, outbox.payload(turn.state.durable.outbox, message, topic, turn.me.channel_key), QOS[suffix]))


def _own_up(turn: Turn) -> bool:
    """Tell of what the bounds have cost; after room was made, so that telling costs nothing again."""
    lost, samples = turn.state.durable.outbox.dropped, turn.state.samples_lost
    if not lost and not samples:
        return False
    turn.keep(outbox=replace(turn.state.durable.outbox, dropped=0))
    turn.set(samples_lost=0)
    log(turn, "dropped", "warning", "messages were dropped for want of room", logs=lost, samples=samples)
    return True


def log(turn: Turn, type: str, severity: str, message: str, **data: Any) -> None:
    count = turn.state.durable.logs + 1
    turn.keep(logs=count)
    turn.put(
        Log(
            id=f"{turn.state.durable.outbox.epoch}-{count}",
            type=type,
            severity=severity,
            message=cleaned(message)[:4096],
            data=cleaned(data),
        )
    )


def tell_refused(turn: Turn, now: bool = False) -> None:
    """Refused messages are counted, and told of together: whoever sends them must not be able to fill the outbox. `now`: the counts would
    be lost otherwise."""
    if not turn.state.refused:
        return
    at = turn.state.report_at
    if now or (at is not None and turn.now.mono >= at):
        _tell_refused(turn)
    elif at is None:
        turn.set(report_at=turn.now.mono + REPORT_FIRST_S)


def _tell_refused(turn: Turn) -> None:
    """An error, of which people are told, where somebody must have meant it."""
    counts = dict(sorted(turn.state.refused.items()))
    listed = ", ".join(f"{n} {doubt}" for doubt, n in counts.items())
    if any(Doubt(doubt).hostile for doubt in counts):
        log(turn, MESSAGES_REFUSED, "error", f"{FORGERY} Refused: {listed}.", **counts)
    else:
        log(turn, MESSAGES_REFUSED, "warning", f"messages were refused: {listed}", **counts)
    turn.set(refused={}, report_at=turn.now.mono + REPORT_S)


def acknowledged(turn: Turn, ack: Ack) -> None:
    box, verdict = outbox.acknowledge(turn.state.durable.outbox, ack)
    match verdict:
        case Verdict.FOREIGN:
            turn.refuse(Doubt.LATE_ACK, "it is of another epoch")
        case Verdict.PROGRESS:
            turn.keep(outbox=box)
            turn.set(resend=Resend())
            if box.sent:
                _plan_resend(turn)
        case Verdict.GAP:
            _gap(turn)
        case Verdict.BEHIND:
            _behind(turn)
        case Verdict.AHEAD:
            _new_epoch(turn, "the server has more of this epoch than was ever sent")


def _gap(turn: Turn) -> None:
    if turn.state.durable.outbox.sent and turn.now.mono - turn.state.resend.last >= GO_BACK_S:
        go_back(turn)


def compared(turn: Turn, moment: Moment) -> None:
    """What the server has committed, in a fresh answer to a question of ours: less than it had acknowledged before that, and it was
    lost."""
    (epoch, acked), doubted = turn.state.link.acked, turn.state.resend.doubted
    turn.set(resend=replace(turn.state.resend, doubted=False))
    if epoch != turn.state.durable.outbox.epoch or acked == 0:
        return
    lacks = doubted if moment.seq is None else moment.epoch != epoch or moment.seq < acked
    if lacks:
        _new_epoch(turn, "the server lacks what it had acknowledged")


def _behind(turn: Turn) -> None:
    """Perhaps only late, so it counts once for each time that we have sent again; if it stays so, ask: an old answer can be repeated by
    whoever carries it, one to a new question can't."""
    turn.refuse(Doubt.LATE_ACK, "it lacks what was acknowledged before")
    resend = turn.state.resend
    if not turn.state.durable.outbox.sent:
        return
    if resend.asked:
        resend = replace(resend, asked=False, behind=resend.behind + 1)
        turn.set(resend=resend)
    if resend.behind >= MAX_BEHIND:
        turn.set(resend=replace(resend, behind=0, doubted=True))
        turn.link(presence_at=turn.now.mono)
    elif turn.now.mono - resend.last >= GO_BACK_S:
        go_back(turn)


def _new_epoch(turn: Turn, why: str) -> None:
    turn.note(logging.WARNING, "new epoch", reason=why)
    turn.keep(outbox=outbox.renumber(turn.state.durable.outbox, turn.token()))
    turn.set(resend=Resend())
    report_all(turn)
    if turn.state.link.connected:
        go_back(turn)


def report_all(turn: Turn) -> None:
    report_items(turn)
    standing.report(turn, force=True)
    turn.do(Scan(None, None))


def report_items(turn: Turn) -> None:
    """The status of every item; not before the device has been looked at, or all would seem to be gone."""
    if turn.state.looked:
        turn.put(FullStatus())
    else:
        turn.set(owes_items=True)


def journal_failed(turn: Turn, signal: JournalFailed) -> None:
    """Go on without: numbers given from here on may be forgotten, so they belong to an epoch that the broken journal has never seen."""
    first = turn.state.broken is None
    turn.set(broken=signal)
    if not first:
        return
    turn.note(logging.ERROR, "journal can't be written", code=signal.code, error=signal.message)
    turn.keep(outbox=outbox.renumber(turn.state.durable.outbox, turn.token()))
    log(turn, "journal-failed", "error", f"the agent's journal can't be written: {signal.message}", code=signal.code)
    if turn.state.link.connected:
        turn.set(resend=Resend())
        go_back(turn)

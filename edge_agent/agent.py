"""The agent's decisions, all of them: (state, input) -> (state, effects). No I/O; the clock comes along.

A shell feeds it and executes what comes out: `runtime` on a device, `simulated.fleet` for thousands in one process. Whatever changed in
`state.durable` must be on disk before the effects of the step are executed; if that fails, the shell forgets the step, feeds
`JournalFailed` and then the same input again. This module only hands each input to
whom it concerns (`connection`, `uplink`, `commands`, `findings`, `renewal`) and asks each what the clock makes due.

Source: design.md section 4; contract.md section 3.
"""

import logging
from collections.abc import Callable
from typing import Any

from broker.messages import (
    AGENT_SECTION,
    Ack,
    BadMac,
    CertificateAnswer,
    Checkpoint,
    Command,
    ContractError,
    Doubt,
    Keys,
    Resync,
    open_envelope,
    read,
)
from edge_agent import commands, connection, facts, findings, outbox, renewal, standing, uplink, withheld
from edge_agent.signals import (
    Booted,
    Clock,
    Connected,
    Disconnect,
    Disconnected,
    Effect,
    Finished,
    Governed,
    Input,
    Inspect,
    Inspected,
    JournalFailed,
    JournalLost,
    JournalMended,
    Measured,
    Observed,
    Prepared,
    Progressed,
    Received,
    RenewalFailed,
    Renewed,
    Scan,
    Scanned,
    Stopping,
    Tick,
)
from edge_agent.state import Durable, Profile, State, Turn


def begin(durable: Durable, seed: bytes) -> State:
    """The state before the first input. `seed`: 32 random bytes; nonces and session names come from it."""
    return State(durable=durable, seed=seed)


def step(me: Profile, state: State, now: Clock, signal: Input) -> tuple[State, tuple[Effect, ...]]:
    """One decision. Total: no input makes it raise."""
    turn = Turn(me, state, now)
    _dispatch(turn, signal)
    _due(turn)
    return turn.state, tuple(turn.effects)


def wake_at(state: State) -> float | None:
    """The monotonic time by which `Tick` is due."""
    link = state.link
    times = [link.dial_at, commands.deadline(state.running), state.report_at if state.refused else None, state.awaited.due]
    if link.connected:
        times += [link.heartbeat_at, link.presence_at, state.resend.at]
        if len(state.durable.outbox.sent) < outbox.WINDOW:
            times.append(outbox.held_until(state.durable.outbox, float("-inf")))
    elif link.session is not None:
        times.append(link.since + connection.DIAL_LIMIT_S)
    times.append(renewal.due_at(state))
    return min((at for at in times if at is not None), default=None)


def _dispatch(turn: Turn, signal: Input) -> None:
    match signal:
        case Booted():
            _booted(turn)
        case Tick():
            pass
        case Connected(session):
            connection.connected(turn, session)
        case Disconnected(session, reason):
            connection.disconnected(turn, session, reason)
        case Received(session, topic, payload):
            _received(turn, session, topic, payload)
        case Scanned():
            findings.scanned(turn, signal)
        case Observed(items, complete):
            findings.observed(turn, items, complete)
        case Finished():
            findings.observed(turn, signal.outcome.items, complete=False)
            commands.finished(turn, signal)
        case Progressed():
            commands.progressed(turn, signal)
        case Measured():
            findings.measured(turn, signal)
        case Inspected() | Prepared() | Renewed() | RenewalFailed():
            renewal.told(turn, signal)
        case _:
            _lifecycle(turn, signal)


def _lifecycle(turn: Turn, signal: Governed | JournalFailed | JournalMended | JournalLost | Stopping) -> None:
    match signal:
        case Governed(policy):
            turn.set(policy=policy)
            standing.report(turn)
        case JournalFailed():
            uplink.journal_failed(turn, signal)
        case JournalMended():
            turn.set(broken=None)
            turn.note(logging.INFO, "journal is durable again")
            uplink.log(turn, "journal-mended", "info", "the agent's journal can be written again")
            commands.start(turn)
        case JournalLost(message):
            uplink.log(turn, "journal-lost", "error", f"the agent's journal was set aside: {message}")
            uplink.report_all(turn)
        case Stopping():
            uplink.tell_refused(turn, now=True)
            connection.stopping(turn)


def _due(turn: Turn) -> None:
    """What the clock asks for, whatever the input was."""
    now, link = turn.now.mono, turn.state.link
    if link.dial_at is not None and now >= link.dial_at:
        connection.dial(turn)
    elif link.session is not None and not link.connected and now >= link.since + connection.DIAL_LIMIT_S:
        turn.do(Disconnect(link.session, clean=False))
        connection.disconnected(turn, link.session, "no answer to the subscription")
    commands.expire(turn)
    renewal.due(turn)
    uplink.tell_refused(turn)
    withheld.check(turn)
    if turn.state.link.connected:
        _due_connected(turn)


def _due_connected(turn: Turn) -> None:
    now, link = turn.now.mono, turn.state.link
    if link.presence_at is not None and now >= link.presence_at:
        connection.presence(turn)
    if link.heartbeat_at is not None and now >= link.heartbeat_at:
        connection.heartbeat(turn)
    if turn.state.resend.at is not None and now >= turn.state.resend.at:
        uplink.go_back(turn)
    uplink.send(turn)


def _booted(turn: Turn) -> None:
    commands.recover(turn)
    if turn.state.durable.outbox.next_seq == 1:
        uplink.report_items(turn)  # a new journal: whatever the server knows of an earlier one is to be confirmed
    turn.do(Scan(None))
    turn.do(Inspect())
    turn.link(dial_at=turn.now.mono)


def _resync(turn: Turn, resync: Resync) -> None:
    """Each counts once, and in its own session: a replayed one would have the device look and tell for nobody."""
    heard = turn.state.link.resyncs
    if resync.session is not None and (resync.session != turn.state.link.session or resync.id in heard):
        turn.refuse(Doubt.REPLAYED_RESYNC, "it was heard before, or was for another session")
        return
    if resync.id is not None:
        turn.link(resyncs=heard | {resync.id})
    if resync.items:
        uplink.report_items(turn)
    if resync.sections is None or AGENT_SECTION in resync.sections:
        standing.report(turn, force=True)
        turn.link(presence_at=turn.now.mono)  # how we stand is to be fresh, and so is what the server awaits
    wanted = facts.known(resync.sections)
    if wanted is None or wanted:
        turn.do(Scan(wanted, wanted))


def _received(turn: Turn, session: str, topic: str, payload: bytes) -> None:
    if session != turn.state.link.session:
        return
    suffix = topic.removeprefix(turn.me.topics.device_prefix(turn.me.device) + "/")
    handler = _HANDLERS.get(suffix)
    if handler is None:
        turn.refuse(Doubt.FOREIGN_TOPIC, "it is for nobody here", topic=topic)
        return
    try:
        envelope = open_envelope(suffix, payload, topic=topic, key=turn.me.channel_key)
        handler(turn, read(envelope))
    except BadMac as error:
        turn.refuse(Doubt.BAD_MAC, str(error), topic=topic)
    except ContractError as error:
        turn.refuse(Doubt.UNREADABLE, str(error), topic=topic)


_HANDLERS: dict[str, Callable[[Turn, Any], None]] = {
    Ack.suffix: uplink.acknowledged,
    Resync.suffix: _resync,
    Checkpoint.suffix: connection.checkpoint,
    Command.suffix: commands.receive,
    CertificateAnswer.suffix: renewal.answered,
    Keys.suffix: connection.keys,
}

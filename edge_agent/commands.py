"""Commands: believed, journalled, run once, reported. Pure; called by `agent` alone.

An order is journalled as *received*, then as *started* before its applier sees it, then as *done* with its result. One that was started
when the process died runs again if its verb is idempotent, and is `unknown` otherwise; likewise one that was first sent before
this journal began, because a lost one may have known it. It is the server's business to send an order again
when nothing came back, and to sign one again whose fence was overtaken: a stale order is only counted here.

What the device's owner does not allow (`policy`) is refused here, whoever has signed it.

Source: design.md section 4 (Commands).
"""

from dataclasses import replace

from broker.messages import SECTIONS, Command, CommandState, Doubt, Error, ErrorCode, Order, Result
from edge_agent import trust, uplink, withheld
from edge_agent.facts import cleaned
from edge_agent.signals import Failed, Finished, Outcome, Progressed, Run, Scan, Stop, Stopped, StopReason, Succeeded
from edge_agent.state import Entry, Lane, Phase, Rule, Running, Turn

HOLD_S = 0.25
"""Reports of a command under way wait this long, so that of a quick one only the outcome is sent."""

GRACE_S = 15.0
"""An applier has this long to come back after `Stop`; then its command is reported as ended without it."""

MAX_STARTS = 3
"""An idempotent command that brings the agent down each time is given up after this many starts."""

KEPT = 256
"""Finished commands remembered, so that a repeated order gets the result that it had."""

MAX_UNJUDGED = 64
"""Commands held until the first checkpoint."""

HURRY_S = 10.0
"""While commands are held, a checkpoint is asked for as often: the server sends them again at that pace."""

MAX_OUTPUT = 16 * 1024
"""Characters of output in a result."""


def receive(turn: Turn, command: Command) -> None:
    """Judge one command as it came; before the first checkpoint it is only held, if it can be one of ours at all."""
    now, durable = turn.trusted(), turn.state.durable
    try:
        order, generation = trust.read_order(turn.ring.roots, command, turn.me.device, now, durable.generation)
    except trust.Untrusted as error:
        turn.refuse(Doubt(f"{error.fault}-command"), str(error))
        return
    if now is None:
        _hold(turn, command)
        return
    turn.keep(generation=max(generation, durable.generation))
    _take_in(turn, order)


def _hold(turn: Turn, command: Command) -> None:
    _hurry(turn)
    held = turn.state.unjudged
    if command in held:
        turn.refuse(Doubt.REPLAYED_COMMAND, "it is held already")
    elif len(held) == MAX_UNJUDGED:
        turn.refuse(Doubt.UNJUDGED_COMMAND, "too many came before the first checkpoint")
    else:
        turn.set(unjudged=(*held, command))


def _hurry(turn: Turn) -> None:
    """However long the pauses between two questions for a checkpoint have become: there is something that waits for it."""
    link = turn.state.link
    soon = max(turn.now.mono, link.nonce_at + HURRY_S)
    if link.presence_at is None or soon < link.presence_at:
        turn.link(presence_at=soon)


def judge_held(turn: Turn) -> None:
    """There is a checkpoint now: judge what came before it, in its order."""
    held = turn.state.unjudged
    turn.set(unjudged=())
    for command in held:
        receive(turn, command)


def recover(turn: Turn) -> None:
    """After a start: what had been started runs again or is `unknown`."""
    for entry in turn.state.durable.commands:
        if entry.phase is not Phase.STARTED or entry.order is None:
            continue
        rule = turn.me.verbs.get(entry.order.verb)
        if rule is None or not rule.idempotent:
            _end(
                turn,
                entry,
                CommandState.UNKNOWN,
                Failed(ErrorCode.INTERNAL, "the agent ended while this ran; how far it came is not known"),
            )
        elif entry.starts >= MAX_STARTS:
            _end(turn, entry, CommandState.FAILED, Failed(ErrorCode.INTERNAL, f"the agent ended {entry.starts} times while this ran"))
        else:
            _journal(turn, replace(entry, phase=Phase.RECEIVED))
    start(turn)


def start(turn: Turn) -> None:
    """Start what waits and whose lane is free, in the order of arrival. Nothing starts while a start can't be journalled."""
    for known in turn.state.durable.commands:
        entry = _find(turn, known.id)  # a cancel before it may have ended it
        if entry is None or entry.phase is not Phase.RECEIVED or entry.order is None:
            continue
        rule = turn.me.verbs.get(entry.order.verb)
        lane = rule.lane if rule is not None else Lane.AGENT
        if lane is Lane.WORKER and any(r.lane is Lane.WORKER for r in turn.state.running):
            continue
        _start(turn, entry, entry.order, lane)


def finished(turn: Turn, signal: Finished) -> None:
    """An applier came back."""
    turn.set(running=tuple(r for r in turn.state.running if r.command != signal.command))
    entry = _find(turn, signal.command)
    if entry is not None and entry.phase is Phase.STARTED:
        _end(turn, entry, _state_of(signal.outcome), signal.outcome)
    if isinstance(signal.outcome, Succeeded):
        for text in signal.outcome.warnings:
            uplink.log(turn, "command-warning", "warning", text, command=signal.command)
    start(turn)


def progressed(turn: Turn, signal: Progressed) -> None:
    entry = _find(turn, signal.command)
    if entry is not None and entry.phase is Phase.STARTED:
        _report_running(turn, entry, min(max(signal.percent, 0), 100))


def expire(turn: Turn) -> None:
    """Enforce run limits, and give up what does not end."""
    for running in turn.state.running:
        if turn.now.mono < running.deadline:
            continue
        if running.stopping is None and running.lane is Lane.WORKER:
            _stop(turn, running, StopReason.TIMED_OUT)
        elif not running.given_up:
            _give_up(turn, running)
    start(turn)


def deadline(running: tuple[Running, ...]) -> float | None:
    """When `expire` has something to do."""
    return min((r.deadline for r in running if not r.given_up), default=None)


def _take_in(turn: Turn, order: Order) -> None:
    durable = turn.state.durable
    known = _find(turn, order.id)
    if known is not None:
        _hear_again(turn, known, order)
    elif order.fence <= durable.fence:
        turn.refuse(Doubt.STALE_COMMAND, "its fence has been overtaken", command=order.id)
    else:
        turn.keep(fence=order.fence)
        withheld.arrived(turn, order.id)
        _admit(turn, Entry(order.id, order.fence, Phase.RECEIVED, order, signed=order.fence), order)


def _hear_again(turn: Turn, known: Entry, order: Order) -> None:
    """The server has signed it once more because it lacks an answer: each signing gets one. The same signing again is somebody's replay."""
    if order.fence <= known.signed:
        turn.refuse(Doubt.REPLAYED_COMMAND, "it was heard before", command=order.id)
        return
    turn.keep(fence=max(order.fence, turn.state.durable.fence))
    again = replace(known, signed=order.fence)
    _journal(turn, again)
    _report_known(turn, again)


def _older_than_the_journal(turn: Turn, order: Order) -> bool:
    """Whether a journal before this one may have seen the command under an earlier number, and may have run it."""
    born = turn.state.durable.born
    return born is not None and order.first_fence is not None and order.first_fence <= born


def _admit(turn: Turn, entry: Entry, order: Order) -> None:
    broken = turn.state.broken
    rule = turn.me.verbs.get(order.verb)
    if rule is None:
        _end(turn, entry, CommandState.REJECTED, Failed(ErrorCode.POLICY_REFUSED, f"this agent knows no verb {order.verb!r}"))
    elif _too_late(turn, order):
        turn.refuse(Doubt.EXPIRED_COMMAND, f"it was to start before {order.not_after}", command=order.id)
        _end(turn, entry, CommandState.TIMED_OUT, Failed(ErrorCode.TIMED_OUT, f"it was to start before {order.not_after}"))
    elif veto := _veto(turn, order.verb, rule):
        _end(turn, entry, CommandState.REJECTED, Failed(ErrorCode.POLICY_REFUSED, veto))
    elif not rule.idempotent and _older_than_the_journal(turn, order):
        _end(
            turn, entry, CommandState.UNKNOWN, Failed(ErrorCode.INTERNAL, "it is older than the agent's journal, which may have been lost")
        )
    elif broken is not None:
        _end(turn, entry, CommandState.FAILED, Failed(broken.code, f"the agent's journal can't be written: {broken.message}"))
    else:
        _journal(turn, entry)
        turn.put(Result(id=f"{entry.id}-accepted", command=entry.id, state=CommandState.ACCEPTED), HOLD_S)
        start(turn)


def _veto(turn: Turn, verb: str, rule: Rule | None) -> str:
    """Why the device's owner does not let this run; empty where he does."""
    policy = turn.state.policy
    return "" if policy is None else policy.veto(verb, changes=rule is None or rule.lane is Lane.WORKER)


def _start(turn: Turn, entry: Entry, order: Order, lane: Lane) -> None:
    if entry.starts == 0 and _too_late(turn, order):
        _end(turn, entry, CommandState.TIMED_OUT, Failed(ErrorCode.TIMED_OUT, f"it was to start before {order.not_after}"))
        return
    if veto := _veto(turn, order.verb, turn.me.verbs.get(order.verb)):
        state = CommandState.FAILED if entry.starts else CommandState.REJECTED
        _end(turn, entry, state, Failed(ErrorCode.POLICY_REFUSED, veto))
        return
    if turn.state.broken is not None or (turn.trusted() is None and entry.starts == 0):
        return
    started = replace(entry, phase=Phase.STARTED, starts=entry.starts + 1, started_at=entry.started_at or turn.time_text())
    _journal(turn, started)
    _report_running(turn, started, 0)
    if lane is Lane.AGENT:
        _cancel(turn, started, order)
        return
    turn.set(running=(*turn.state.running, Running(order.id, lane, turn.now.mono + order.timeout_s)))
    if lane is Lane.WORKER:
        turn.do(Run(order.id, order.verb, order.args, order.resource, order.timeout_s))
    else:
        _refresh(turn, started, order)


def _too_late(turn: Turn, order: Order) -> bool:
    now = turn.trusted()
    return now is not None and now > trust.seconds(order.not_after)


def _refresh(turn: Turn, entry: Entry, order: Order) -> None:
    sections = order.args.get("sections")
    if sections is None:
        turn.do(Scan(None, None, (order.id,)))
    elif isinstance(sections, list) and all(name in SECTIONS for name in sections):
        turn.do(Scan(tuple(sections), tuple(sections), (order.id,)))
    else:
        turn.set(running=tuple(r for r in turn.state.running if r.command != order.id))
        _end(
            turn,
            entry,
            CommandState.REJECTED,
            Failed(ErrorCode.POLICY_REFUSED, f"sections: must be null or a list of {', '.join(SECTIONS)}"),
        )


def _cancel(turn: Turn, entry: Entry, order: Order) -> None:
    """`args` {"command": id}. What has not started never will; what runs is stopped; what is done stays as it is."""
    target = _find(turn, str(order.args.get("command", "")))
    if target is None:
        output = "there is no such command here"
    elif target.phase is Phase.DONE:
        output = "it had ended before"
    else:
        output = "it is being stopped" if target.phase is Phase.STARTED else "it will not start"
        _cancel_one(turn, target)
    _end(turn, entry, CommandState.SUCCEEDED, Succeeded(output))


def _cancel_one(turn: Turn, target: Entry) -> None:
    running = next((r for r in turn.state.running if r.command == target.id), None)
    if running is None:
        _end(turn, target, CommandState.CANCELLED, Stopped(StopReason.CANCELLED))
    elif running.lane is Lane.WORKER:
        _stop(turn, running, StopReason.CANCELLED)
    else:
        turn.set(running=tuple(r for r in turn.state.running if r is not running))
        _end(turn, target, CommandState.CANCELLED, Stopped(StopReason.CANCELLED))


def _stop(turn: Turn, running: Running, reason: StopReason) -> None:
    stopping = replace(running, stopping=reason, deadline=turn.now.mono + GRACE_S)
    turn.set(running=tuple(stopping if r is running else r for r in turn.state.running))
    turn.do(Stop(running.command, reason))


def _give_up(turn: Turn, running: Running) -> None:
    """Report the end; the lane stays taken until the applier really comes back (discovery's is given free)."""
    entry = _find(turn, running.command)
    left = (replace(running, given_up=True, deadline=float("inf")),) if running.lane is Lane.WORKER else ()
    turn.set(running=tuple(r for r in turn.state.running if r is not running) + left)
    if entry is not None and entry.phase is Phase.STARTED:
        outcome = Stopped(running.stopping or StopReason.TIMED_OUT)
        _end(turn, entry, _state_of(outcome), outcome)


def _state_of(outcome: Outcome) -> CommandState:
    match outcome:
        case Succeeded():
            return CommandState.SUCCEEDED
        case Failed():
            return CommandState.FAILED
        case Stopped(StopReason.CANCELLED):
            return CommandState.CANCELLED
        case Stopped():
            return CommandState.TIMED_OUT


def _end(turn: Turn, entry: Entry, state: CommandState, outcome: Outcome) -> None:
    result = Result(
        id=f"{entry.id}-{state}",
        command=entry.id,
        state=state,
        progress=100 if state is CommandState.SUCCEEDED else 0,
        output=cleaned(outcome.output)[-MAX_OUTPUT:],
        error=_error_of(outcome),
        started_at=entry.started_at,
        finished_at=turn.time_text(),
    )
    _journal(turn, replace(entry, phase=Phase.DONE, order=None, result=result))
    turn.put(result)


def _error_of(outcome: Outcome) -> Error | None:
    match outcome:
        case Failed(code, message):
            return Error(code=code, message=cleaned(message)[:4096], recoverable=code.recoverable)
        case Stopped(StopReason.TIMED_OUT):
            return Error(code=ErrorCode.TIMED_OUT, message="the time limit was reached", recoverable=True)
        case _:
            return None


def _report_known(turn: Turn, entry: Entry) -> None:
    match entry.phase:
        case Phase.RECEIVED:
            turn.put(Result(id=f"{entry.id}-accepted", command=entry.id, state=CommandState.ACCEPTED))
        case Phase.STARTED:
            _report_running(turn, entry, 0)
        case Phase.DONE if entry.result is not None:
            turn.put(entry.result)


def _report_running(turn: Turn, entry: Entry, progress: int) -> None:
    report = Result(
        id=f"{entry.id}-running-{entry.starts}-{progress}",
        command=entry.id,
        state=CommandState.RUNNING,
        progress=progress,
        started_at=entry.started_at,
    )
    turn.put(report, HOLD_S)


def _find(turn: Turn, id: str) -> Entry | None:
    return next((e for e in turn.state.durable.commands if e.id == id), None)


def _journal(turn: Turn, entry: Entry) -> None:
    """Put an entry into the journal; the oldest finished ones make room."""
    commands = turn.state.durable.commands
    if any(e.id == entry.id for e in commands):
        commands = tuple(entry if e.id == entry.id else e for e in commands)
    else:
        commands = (*commands, entry)
    done = [e for e in commands if e.phase is Phase.DONE]
    if len(done) > KEPT:
        commands = tuple(e for e in commands if e is not done[0])
    turn.keep(commands=commands)

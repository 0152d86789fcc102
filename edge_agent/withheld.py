"""Commands that the server has sent and that do not arrive: a checkpoint names them, and what has not come a while later is said. Pure.

A broker can withhold a command; it can't keep the device from hearing of it, short of withholding the checkpoint as well, without which the
server shows commands that stay unanswered. What is said stands in the facts (`standing`) until it is so no more. Called by `connection`,
`commands` and `agent`.

Source: design.md section 4 (Time), section 7 (G11).
"""

from dataclasses import replace

from edge_agent import standing, uplink
from edge_agent.state import Turn

GRACE_S = 35.0
"""What was sent and lost is sent again every 10 s: three chances, and a little."""
RECHECK_S = 300.0
"""While something is missing, a checkpoint is asked for this often: the command may have ended meanwhile."""


def expect(turn: Turn, awaiting: tuple[str, ...]) -> None:
    """What a fresh checkpoint says. Those that we know are answered already, and on their way."""
    commands = _unknown(turn, awaiting)
    missing = tuple(id for id in turn.state.awaited.missing if id in commands)
    _now_missing(turn, missing)
    turn.set(awaited=replace(turn.state.awaited, commands=commands, due=turn.now.mono + GRACE_S if commands else None))


def arrived(turn: Turn, command: str) -> None:
    """One of them has come after all."""
    awaited = turn.state.awaited
    if command in (*awaited.commands, *awaited.missing):
        turn.set(awaited=replace(awaited, commands=tuple(id for id in awaited.commands if id != command)))
        _now_missing(turn, tuple(id for id in awaited.missing if id != command))


def disconnected(turn: Turn) -> None:
    """Nothing can arrive; the next session's checkpoint says what is awaited then."""
    turn.set(awaited=replace(turn.state.awaited, commands=(), due=None))


def check(turn: Turn) -> None:
    """Say what has not come in time."""
    awaited = turn.state.awaited
    if awaited.due is None or turn.now.mono < awaited.due:
        return
    turn.set(awaited=replace(awaited, due=None))
    missing = _unknown(turn, awaited.commands)
    fresh = set(missing) - set(awaited.missing)
    _now_missing(turn, missing)
    if fresh:
        uplink.log(turn, "commands-withheld", "error", _words(len(missing)), commands=list(missing))


def _now_missing(turn: Turn, missing: tuple[str, ...]) -> None:
    before = turn.state.awaited
    if missing:
        at = turn.now.mono + RECHECK_S
        turn.link(presence_at=at if turn.state.link.presence_at is None else min(at, turn.state.link.presence_at))
    if missing != before.missing:
        since = (before.since or turn.time_text()) if missing else None
        turn.set(awaited=replace(before, missing=missing, since=since))
        standing.report(turn)


def _unknown(turn: Turn, commands: tuple[str, ...]) -> tuple[str, ...]:
    known = {entry.id for entry in turn.state.durable.commands}
    return tuple(id for id in commands if id not in known)


def _words(number: int) -> str:
    what = "a command" if number == 1 else f"{number} commands"
    return f"The server has sent {what} that did not reach this device, while other messages do: the broker between them withholds it."

"""`fleetward wait`: until a resource is as wanted, gone, or has a field's value. Exit 5 when time is up."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from fleetward.cli import render
from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.output import reference, talk
from fleetward.cli.resources import one_target
from fleetward.cli.session import Session, connected
from fleetward.client import Json, Kind, NotFound, Resource, Unreachable

_LOOK_SECONDS = 0.2
_LONGEST_LOOK_SECONDS = 2.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_NO_OBSTACLE = frozenset({"Shadowed"})
"""What `explain` mentions although it is as it should be."""

Met = Callable[[Resource | None], bool]
"""Whether a resource is as waited for; None where there is none."""


def seconds(text: str) -> float:
    """`60s`, `1m30s`, `90`. Raises CommandError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise CommandError(f"{text}: must be a duration, such as 90s, 15m or 1h30m", Exit.USAGE)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def end_of(ttl: str) -> str:
    """The moment that is `ttl` from now, as the API takes it. Raises CommandError."""
    lifetime = seconds(ttl)
    if lifetime <= 0:
        raise CommandError(f"--ttl {ttl}: must be longer than nothing", Exit.USAGE)
    try:
        return (datetime.now(UTC) + timedelta(seconds=lifetime)).isoformat(timespec="milliseconds")
    except OverflowError:
        raise CommandError(f"--ttl {ttl}: ends too far ahead", Exit.USAGE) from None


def condition(text: str) -> Met:
    """What --for asks. Raises CommandError."""
    match text.partition("="):
        case ["current", "", ""]:
            return is_current
        case ["deleted", "", ""]:
            return lambda resource: resource is None
        case [field, "=", wanted] if field:
            return lambda resource: resource is not None and same(render.value_at(resource, field), wanted)
    raise CommandError(f"--for={text}: must be current, deleted or FIELD=VALUE", Exit.USAGE)


def obstacles(told: Json) -> list[str]:
    """What, by its explanation, keeps a resource from being as asked for."""
    return [str(cause.get("reason")) for cause in told.get("causes") or () if cause.get("reason") not in _NO_OBSTACLE]


def is_current(resource: Resource | None) -> bool:
    """What is wanted is what is: states equal, the newest generation seen, the manager at rest."""
    if resource is None:
        return False
    if resource.get("desired_state") != resource.get("current_state"):
        return False
    observed = resource.get("observed_generation")
    if observed is not None and observed < resource["generation"]:
        return False
    return (resource.get("status") or {}).get("indicator") in (None, "idle")


def same(value: Any, wanted: str) -> bool:
    match value:
        case None:
            return wanted in ("null", "")
        case bool():
            return wanted == ("true" if value else "false")
        case dict() | list():
            return render.to_json_line(value) == wanted
        case _:
            return str(value) == wanted


@click.command()
@click.argument("resource", metavar="KIND/NAME")
@click.argument("name", required=False, metavar="")
@click.option("--for", "for_", required=True, metavar="current|deleted|FIELD=VALUE", help="What to wait for.")
@click.option("--timeout", metavar="DURATION", default="60s", show_default=True, help="For so long at the most, such as 90s or 5m.")
@connected
def wait(session: Session, resource: str, name: str | None, for_: str, timeout: str) -> None:
    """Wait until KIND/NAME is as asked for. Exit 5 when time is up, 1 when it halted."""
    met, limit = condition(for_), seconds(timeout)
    kind, one = one_target(session, resource, name)
    deadline = time.monotonic() + limit
    pause = _LOOK_SECONDS
    found = look(session, kind, one)
    while not (met(found) and (for_ != "current" or settled(session, kind, found))):
        if found is None and for_ != "deleted":
            raise NotFound(404, "Not Found", f"there is no {kind.kind} {one}")
        if for_ == "current" and halted(found):
            raise CommandError(f"{kind.kind}/{one} halted: {said(found)}")
        if time.monotonic() + pause > deadline:
            raise CommandError(f"{kind.kind}/{one}: not {for_} after {timeout}: {why_not(session, kind, found)}", Exit.TIMED_OUT)
        time.sleep(pause)
        pause = min(pause * 1.2, _LONGEST_LOOK_SECONDS)
        found = look(session, kind, one, found)
    talk(f"{kind.kind}/{one}: {for_}")


def settled(session: Session, kind: Kind, found: Resource | None) -> bool:
    """Of a kind without states of its own: whether all that it brings about elsewhere is as asked for. Raises CommandError where
    something of it halted."""
    if found is None or found.get("desired_state") is not None:
        return True
    told = session.client.explain(kind.collection, str(found["id"]))
    reasons = obstacles(told)
    if "Halted" in reasons:
        raise CommandError(f"{reference(found)} halted: {in_short(told)} (fleetward explain {kind.kind} {found.get('name')})")
    return not reasons


def look(session: Session, kind: Kind, one: str, before: Resource | None = None) -> Resource | None:
    """The resource now, or None. A server that is away for a moment is waited for, once it has answered."""
    try:
        return session.client.get(kind.collection, one)
    except NotFound:
        return None
    except Unreachable:
        if before is None:
            raise
        return before


def halted(resource: Resource | None) -> bool:
    return bool(resource and (resource.get("status") or {}).get("halted"))


def why_not(session: Session, kind: Kind, found: Resource | None) -> str:
    """What its status says, or, of a kind without one, its explanation."""
    if found is None or found.get("status"):
        return said(found)
    return in_short(session.client.explain(kind.collection, str(found["id"])))


def in_short(told: Json) -> str:
    """The summary of an explanation and its last cause, which is the most exact one."""
    causes = [cause for cause in told.get("causes") or () if cause.get("reason") not in _NO_OBSTACLE]
    return "; ".join(str(part) for part in (told.get("summary"), *(cause.get("message") for cause in causes[-1:])) if part)


def said(resource: Resource | None) -> str:
    status = (resource or {}).get("status") or {}
    return ": ".join(str(part) for part in (status.get("reason"), status.get("message")) if part) or "it gives no reason"

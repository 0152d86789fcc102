"""Host-config: one config on one device, from what is wanted to what the device says it has. Key: a host-config's id.

`plan` decides from what stands: an `apply` or a `remove` is sent only where the device does not already report what is wanted, and only
while it is online and onboarded. The command's end and the device's reports trigger the key again. A failure that the device reported
is counted once: the host-config then no longer points to the command that failed.

Source: design.md sections 4 (Commands) and 6, contract.md section 4 (Config).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from broker.messages import CommandState, ErrorCode, Verb
from inventory import applying
from inventory.applying import CommandView, Config, Configs, Host, Stray, View
from inventory.changes import Change
from inventory.db import Database
from inventory.ids import new_id
from inventory.vault import Vault
from inventory.work import Strength
from managers.reconcile import Again, AnyTrigger, Done, Error, Failed, Make, Outcome, Remove, Request, Trigger, TriggerSelected, Write
from managers.rendering import Job, Rendered, Renderer
from managers.sealed_args import put_away

QUEUE = "host-config"
KIND = "host-config"

START_WITHIN = timedelta(minutes=10)
"""A command that could not start by then ends, and is made anew if it is still wanted: long enough for the commands before it."""
RUN_S = 60
"""For placing files, in seconds; what on_change may take comes on top."""
ON_CHANGE_S = 60
"""What on_change may take where it does not say."""
LOCKED = timedelta(seconds=30)
"""Until it is looked again whether a config's secrets can be read: another process may have the key, and takes the work then."""
SETTLE = timedelta(seconds=2)
"""Where the files render to something else than was decided, that decision is about to be made anew."""


def interest(change: Change) -> Sequence[AnyTrigger]:
    match change:
        case Change(kind="host-config", op="updated") if "retry" in change.changed:
            return [Trigger(QUEUE, change.id, Strength.FRESH)]
        case Change(kind="host-config", op="updated") if "reported" in change.changed:
            return [Trigger(QUEUE, change.id)]
        case Change(kind="command", op="updated", resource=dict(command)) if _ended_for_us(command):
            return [Trigger(QUEUE, command["resource"]["id"])]
        case Change(kind="host", op="updated", resource=dict(host)) if _opened(change.changed, host):
            return [TriggerSelected(QUEUE, "unsettled_host_configs", change.id, Strength.NOW)]
        case Change(kind="host", op="updated") if any(path.partition(".")[0] == "policy" for path in change.changed):
            return [TriggerSelected(QUEUE, "refused_host_configs", change.id, Strength.FRESH)]
    return ()


def _ended_for_us(command: Mapping[str, Any]) -> bool:
    return CommandState(command["state"]).final and (command.get("resource") or {}).get("kind") == KIND


def _opened(changed: Sequence[str], host: Mapping[str, Any]) -> bool:
    """The host came online, or was onboarded."""
    came = "presence" in changed and host["presence"] in ("online", "stale")
    return came or ("current_state" in changed and host["current_state"] == "onboarded")


# --- the decision ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """The device has what is wanted. `confirmed`: it said so itself since the last command, which has served then."""

    confirmed: bool


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of it is on the device, and nothing should be."""


@dataclass(frozen=True, slots=True)
class Send:
    """A command is needed; `drifted` says so where somebody else changed what was placed."""

    verb: Verb
    drifted: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The device reported that the command failed."""

    error: Error


Step = Settled | Gone | Send | Wait | Broken


def plan(view: View) -> Step:
    """What is to be done next for a host-config. Pure."""
    command = view.command
    if command is not None and not CommandState(command.state).final:
        return _under_way(view, command)
    if view.desired_state == "absent":
        return _plan_absent(view, command)
    if command is not None and command.generation == view.generation and command.verb == Verb.CONFIG_APPLY:
        if command.state == CommandState.SUCCEEDED:
            return _after_success(view, command)
        if (error := error_of(command)) is not None:
            return Broken(error)
    if _reports_wanted(view, command):
        return Settled(confirmed=True)
    return _send(view, Verb.CONFIG_APPLY)


def _plan_absent(view: View, command: CommandView | None) -> Step:
    reported = view.reported
    if command is None and reported is None and view.current_state == "absent":
        return Gone()  # nothing was ever sent
    if reported is not None and reported.state == "absent" and reported.generation >= view.generation:
        return Gone()
    if command is not None and command.verb == Verb.CONFIG_REMOVE and command.generation == view.generation:
        if command.state == CommandState.SUCCEEDED:
            return Gone()
        if (error := error_of(command)) is not None:
            return Broken(error)
    return _send(view, Verb.CONFIG_REMOVE)


def _after_success(view: View, command: CommandView) -> Step:
    """The command did it. A report that came after the command was made is news: it may confirm, or say that it is so no more."""
    reported = view.reported
    if reported is None or reported.generation < view.generation or reported.at <= command.created_at:
        return Settled(confirmed=False)
    if reported.state == "present" and reported.digest == view.digest:
        return Settled(confirmed=True)
    return _send(view, Verb.CONFIG_APPLY)


def _reports_wanted(view: View, command: CommandView | None) -> bool:
    """Whether the device's own word is enough. One about an earlier generation only counts where nothing was sent since it was given."""
    reported = view.reported
    if reported is None or reported.state != "present" or reported.digest != view.digest:
        return False
    return reported.generation == view.generation or (command is None and view.current_state == "present")


def _send(view: View, verb: Verb) -> Step:
    if view.host_state != "onboarded":
        return Wait("WaitingForApproval", f"{view.host_name} is {view.host_state}, not onboarded")
    if not view.online:
        return Wait("WaitingForDevice", f"{view.host_name} is offline")
    if view.locked:
        return Wait(ErrorCode.POLICY_REFUSED, f"{view.host_name} is locked for maintenance: {view.locked}")
    reported = view.reported
    drifted = reported is not None and reported.state == "drifted" and view.current_state != "failed" and view.desired_state == "present"
    return Send(verb, _putting_right(reported.message) if drifted and reported is not None else "")


PENDING = Wait("Pending", "")
"""Without words, as placement leaves it: another message would be another change for each host, and `explain` names the command."""


def _under_way(view: View, command: CommandView) -> Wait:
    if not view.online:
        return Wait("WaitingForDevice", f"{command.verb} is under way, but {view.host_name} is offline")
    if view.current_state == "drifted" and view.reported is not None and command.verb == Verb.CONFIG_APPLY:
        return Wait("Drifted", _putting_right(view.reported.message))
    return PENDING


def _putting_right(message: str) -> str:
    return f"being put right: {message or 'changed on the device'}"


def error_of(command: CommandView) -> Error | None:
    """The failure that a device reported. None where it reported none: the command was not answered in time, or withdrawn."""
    said = (command.result or {}).get("error")
    match command.state:
        case CommandState.SUCCEEDED | CommandState.CANCELLED:
            return None
        case CommandState.UNKNOWN:
            return Error(ErrorCode.INTERNAL, "the device does not know how far it came", recoverable=True)
        case CommandState.TIMED_OUT if said is None:
            return None
        case CommandState.REJECTED if command.result is None:
            return Error(ErrorCode.INTERNAL, "the command is too large to be sent", recoverable=False)
    if said is None:
        return Error(ErrorCode.INTERNAL, f"the device said {command.state} and not why", recoverable=command.state != CommandState.REJECTED)
    return Error(said["code"], said.get("message") or "", recoverable=bool(said.get("recoverable")))


# --- the reconciler -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """What a batch was read as."""

    views: Mapping[str, View]
    configs: Mapping[str, Config]
    hosts: Mapping[str, Host]
    strays: Mapping[str, Stray]


class HostConfigReconciler:
    """Brings host-configs about, by commands."""

    def __init__(self, db: Database, configs: Configs, renderer: Renderer, vault: Vault) -> None:
        self._db = db
        self._configs = configs
        self._renderer = renderer
        self._vault = vault

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        known = await self._read([request.key for request in requests])
        steps = {id: plan(view) for id, view in known.views.items()}
        rendered = await self._render(
            known, [id for id, step in steps.items() if isinstance(step, Send) and step.verb is Verb.CONFIG_APPLY]
        )
        outcomes: dict[str, Outcome] = {}
        for request in requests:
            view = known.views.get(request.key)
            outcomes[request.key] = (
                _without_row(request, known.strays.get(request.key))
                if view is None
                else self._outcome(request, view, steps[request.key], rendered.get(request.key), known)
            )
        return outcomes

    async def _read(self, ids: Sequence[str]) -> _Known:
        configs = await self._configs.all()
        async with self._db.acquire() as connection:
            views = await applying.views(connection, ids)
            hosts = await applying.read_hosts(connection, sorted({view.host for view in views.values()}))
            strays = await applying.strays(connection, [id for id in ids if id not in views])
        return _Known(views, configs, hosts, strays)

    async def _render(self, known: _Known, ids: Sequence[str]) -> dict[str, Rendered]:
        jobs = [
            (id, Job(known.configs[view.config], known.hosts[view.host], view.paths))
            for id, view in ((id, known.views[id]) for id in ids)
            if view.config in known.configs and view.host in known.hosts
        ]
        return dict(zip((id for id, _ in jobs), await self._renderer.render([job for _, job in jobs]), strict=True))

    def _outcome(self, request: Request, view: View, step: Step, rendered: Rendered | None, known: _Known) -> Outcome:
        match step:
            case Settled(confirmed):
                values: dict[str, Any] = {"current_state": "present", "observed_generation": view.generation}
                return Done((Write(KIND, view.id, values | ({"command": None} if confirmed else {})),))
            case Gone():
                return Done((Remove(KIND, view.id),))
            case Wait(reason, message):
                return Again(None, reason, message)
            case Broken(error):
                return Failed(error, (Write(KIND, view.id, {"command": None, "current_state": "failed"}),))
            case Send(Verb.CONFIG_REMOVE):
                args = {"config": view.config_name, "files": list(view.paths)}
                return _sent(request, view, step, args, RUN_S + ON_CHANGE_S)
            case Send():
                return self._apply(request, view, step, rendered, known)

    def _apply(self, request: Request, view: View, step: Send, rendered: Rendered | None, known: _Known) -> Outcome:
        if rendered is None:
            return Again(SETTLE, "Pending", "its config or its host has just changed")
        config = known.configs[view.config]
        if config.locked:
            return Again(LOCKED, "Pending", f"its config's secrets can't be read: {config.locked}")
        if rendered.error:
            return Failed(Error(ErrorCode.BAD_TEMPLATE, rendered.error, recoverable=False))
        if rendered.digest != view.digest:
            return Again(SETTLE, "Pending", "its config or its host has just changed")
        args = {
            "config": config.name,
            "digest": rendered.digest,
            "files": [file.argument() for file in rendered.files],
            "on_change": config.on_change,
        }
        id = new_id("cmd")
        sealed = put_away(self._vault, id, rendered, config.secrets)
        return _sent(request, view, step, args, RUN_S + _on_change_s(config.on_change), id, sealed)


def _without_row(request: Request, stray: Stray | None) -> Done:
    """Nobody asks for it. What a device has of it all the same, as after a restore, is removed there; its report ends that."""
    if stray is None:
        return Done()
    command = {
        "host": stray.host,
        "verb": str(Verb.CONFIG_REMOVE),
        "args": {"config": "", "files": []},
        "resource": {"kind": KIND, "id": stray.id, "generation": stray.generation + 1},
        "attempt": request.attempt,
        "timeout_s": RUN_S + ON_CHANGE_S,
        "not_after": stray.read_at + START_WITHIN,
        "due_at": stray.read_at,
    }
    return Done((Make("command", command),))


def _on_change_s(on_change: Any) -> int:
    if on_change is None:
        return 0
    return int(on_change.get("timeout_s", ON_CHANGE_S)) if isinstance(on_change, dict) else ON_CHANGE_S


def _sent(
    request: Request, view: View, step: Send, args: Mapping[str, Any], timeout_s: int, id: str = "", sealed: str | None = None
) -> Again:
    """The command, under this id or a new one, and the host-config that points to it, made together."""
    id = id or new_id("cmd")
    command = {
        "id": id,
        "host": view.host,
        "verb": str(step.verb),
        "args": dict(args),
        "sealed": sealed,
        "resource": {"kind": KIND, "id": view.id, "generation": view.generation},
        "attempt": request.attempt,
        "timeout_s": timeout_s,
        "not_after": view.read_at + START_WITHIN,
        "due_at": view.read_at,
    }
    values: dict[str, Any] = {"command": id} | ({"current_state": "drifted"} if step.drifted else {})
    effects = (Make("command", command), Write(KIND, view.id, values))
    if step.drifted:
        return Again(None, "Drifted", step.drifted, effects)
    return Again(None, PENDING.reason, PENDING.message, effects)

"""A change as a sentence: what happened, to what, by whom. Pure; the timeline, the events page and the overview are made of it.

It reads the change alone. The names of what a change refers to by id are the caller's to look up.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inventory.changes import Change, Move
from inventory.kinds import BY_NAME
from web.pages.formats import plain, short_digest, size, words

ICONS = {
    "host": "server",
    "component": "circuit-board",
    "config": "file-cog",
    "host-config": "file-cog",
    "command": "terminal",
    "notification": "bell",
    "region": "map",
    "site": "map-pin",
    "enrollment-token": "key-round",
}

COMPONENT_ICONS = {
    "cpu": "cpu",
    "dimm": "memory-stick",
    "disk": "hard-drive",
    "nic": "ethernet-port",
    "gpu": "gpu",
    "pci": "circuit-board",
    "usb": "usb",
    "tpm": "shield-check",
    "battery": "battery",
    "sensor": "thermometer",
}

MOVES: dict[Move, str] = {"entered": "came into your scope", "left": "left your scope"}
"""Nothing was made or found, nor deleted: somebody's change of labels or of a place decides who sees it."""

LONGEST_VALUE = 60
_UNTOLD = frozenset(
    {"observed_generation", "generation", "version", "updated_at", "reported", "command", "boot_id", "status"}
    | {"state", "result", "late_result", "started_at", "finished_at"}
)
"""Members whose values say nothing to a person; where nothing else changed, the status speaks."""


@dataclass(frozen=True, slots=True)
class Line:
    """One change in words. `verb` is what was done; `details` are `path: old → new`."""

    change: Change
    icon: str
    tone: str
    name: str
    verb: str
    details: tuple[tuple[str, str, str], ...]
    actor: str
    link: str
    host: str
    """The name of the host it happened on; empty where that is the thing itself, or nowhere."""

    @property
    def to_host(self) -> str:
        """How it stands to that host: found `on` it, but come into a scope `with` it."""
        return "on" if self.change.scope is None else "with"


def tell(change: Change, names: Mapping[str, str]) -> Line:
    """`names`: of hosts and configs, by id."""
    shown = change.resource or change.before or {}
    return Line(
        change,
        COMPONENT_ICONS.get(str(shown.get("type")), "circuit-board") if change.kind == "component" else ICONS.get(change.kind, "activity"),
        _tone(change, shown),
        _name(change, shown, names),
        _verb(change, shown),
        tuple(_details(change)),
        actor(change.actor),
        link(change.kind, change.id, change.host) if change.op != "deleted" else "",
        names.get(change.host or "", "") if change.kind != "host" else "",
    )


@dataclass(slots=True)
class Group:
    """What happened to many at once, told as one: the newest line of it, and the hosts by id and name, newest first."""

    line: Line
    hosts: dict[str, str]
    times: int = 1


def without_company(found: Iterable[Change]) -> list[Change]:
    """But for what came into a scope, or left it, with a host of which there is a change that says so."""
    found = list(found)
    moves = {change.position for change in found if change.scope is not None and change.kind == "host"}
    return [change for change in found if change.scope is None or change.kind == "host" or change.position not in moves]


def without_parts(lines: Iterable[Line]) -> list[Line]:
    """But for the deletions of what a deleted host owned: the host's own line says it."""
    told = list(lines)
    gone = {line.change.id for line in told if line.change.kind == "host" and line.change.op == "deleted"}
    return [line for line in told if line.change.op != "deleted" or line.change.host not in gone or line.change.kind == "host"]


def gathered(lines: Iterable[Line], most: int) -> list[Group]:
    """Lines that say the same of different hosts as one, in the order of the newest of each."""
    groups: dict[tuple[str, ...], Group] = {}
    for line in lines:
        here = _where(line)
        name = line.name if line.change.kind != "host" else ""
        key = (line.change.kind, name, line.verb, line.actor, "" if here else line.change.id)
        found = groups.get(key)
        if found is not None:
            found.hosts |= here
            found.times += 1
        elif len(groups) < most:
            groups[key] = Group(line, here)
    return list(groups.values())


def _where(line: Line) -> dict[str, str]:
    """The host that a line is about or speaks of: what is told of several is told as one."""
    if line.change.kind == "host":
        return {line.change.id: line.name}
    return {line.change.host: line.host} if line.change.host and line.host else {}


def mentioned(changes: Iterable[Change]) -> tuple[set[str], set[str]]:
    """The ids of the hosts and of the configs whose names `tell` needs."""
    hosts, configs = set[str](), set[str]()
    for change in changes:
        if change.host:
            hosts.add(change.host)
        if change.kind == "host-config":
            configs.add(str((change.resource or change.before or {}).get("config")))
    return hosts, configs


def actor(who: dict[str, str]) -> str:
    """`admin`, `the device`, `the config manager`."""
    match who.get("type"):
        case "device":
            return "the device"
        case "manager":
            return f"the {who.get('name')} manager"
        case "inventory" | "system":
            return "Fleetward"
        case "integration":
            return f"{who.get('name')} (integration)"
    return str(who.get("name", "somebody"))


def link(kind: str, id: str, host: str | None = None) -> str:
    """Where a person looks at a resource; empty where there is no page for it."""
    match kind:
        case "host" | "config" | "site" | "region":
            return f"/{BY_NAME[kind].collection}/{id}"
        case "component":
            return f"/hosts/{host}?tab=hardware" if host else ""
        case "host-config":
            return f"/hosts/{host}" if host else ""
        case "command":
            return f"/hosts/{host}?tab=commands" if host else ""
        case "notification":
            return "/notifications"
    return ""


def _name(change: Change, shown: dict[str, Any], names: Mapping[str, str]) -> str:
    match change.kind:
        case "component":
            attributes = shown.get("attributes") or {}
            return f"{shown.get('type')} {attributes.get('name') or attributes.get('model') or shown.get('key')}"
        case "notification":
            return str(shown.get("message", ""))
        case "command":
            return str(shown.get("verb", change.id))
        case "host-config":
            return f"config {names.get(str(shown.get('config')), '')}".strip()
    return str(shown.get("title") or shown.get("name") or change.id)


def _verb(change: Change, shown: dict[str, Any]) -> str:
    if change.scope is not None:
        return MOVES[change.scope]
    match change.kind, change.op:
        case "component", "created":
            return "found"
        case "component", "updated" if "present" in change.changed:
            return "is back" if shown.get("present") else "vanished"
        case "command", "created":
            return "sent"
        case "command", "updated" if "state" in change.changed:
            return words(shown.get("state"))
        case "host", "updated" if "presence" in change.changed:
            return f"is {shown.get('presence')}"
        case "host-config", "created":
            return "now applies"
        case "host-config", "updated":
            return _progress(change, shown)
        case "notification", "created":
            return ""
    if "retry" in change.changed:
        return "to be tried again"
    return {"created": "created", "deleted": "deleted"}.get(change.op, "changed")


def _progress(change: Change, shown: dict[str, Any]) -> str:
    if "retry" in change.changed:
        return "to be tried again"
    status = shown.get("status") or {}
    if status.get("halted"):
        return f"halted: {words(status.get('reason'))}"
    if "current_state" in change.changed:
        return f"is {words(shown.get('current_state'))}"
    if any(path.startswith("status.") for path in change.changed):
        return words(status.get("reason"))
    return "changed" if "digest" in change.changed else "reported"


def _tone(change: Change, shown: dict[str, Any]) -> str:
    status = shown.get("status") or {}
    if change.scope is not None:
        return "mute"
    if change.kind == "notification":
        return {"info": "info", "warning": "warn"}.get(str(shown.get("severity")), "bad")
    if change.op == "deleted" or (change.kind == "component" and shown.get("present") is False):
        return "warn"
    if shown.get("presence") == "offline" and "presence" in change.changed:
        return "bad"
    if status.get("halted") or shown.get("state") in ("failed", "rejected", "timed_out", "unknown"):
        return "bad"
    return "good" if change.op == "created" else "mute"


def _details(change: Change) -> Iterable[tuple[str, str, str]]:
    """What a person would ask next: each changed path with its old and new value."""
    if change.op != "updated":
        return
    for path in change.changed:
        head, _, rest = path.partition(".")
        if head in _UNTOLD and path not in ("status.reason", "status.message"):
            continue
        old, new = _value(change.before, head, rest), _value(change.resource, head, rest)
        if head == "files":
            yield path, plain(None), cut(path, _changed_files(old or [], new or []))
            continue
        if old != new:
            yield path, cut(path, old), cut(path, new)


def _value(resource: dict[str, Any] | None, head: str, rest: str) -> Any:
    value = (resource or {}).get(head)
    return value.get(rest) if rest and isinstance(value, dict) else value


def _changed_files(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> str:
    """`/etc/motd changed, /etc/issue added, /etc/old removed`."""
    before, after = ({str(file.get("path")): file for file in files} for files in (old, new))
    said = [f"{path} {'changed' if path in before else 'added'}" for path, file in after.items() if before.get(path) != file]
    return ", ".join([*said, *(f"{path} removed" for path in before if path not in after)])


def cut(path: str, value: Any) -> str:
    """A member's value in a few words."""
    match value:
        case int() if path.endswith("_bytes"):
            text = size(value)
        case str() if path.endswith("digest"):
            text = short_digest(value)
        case _:
            text = plain(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


FILTERS: dict[str, Callable[..., Any]] = {
    "actor": actor,
    "kind_icon": lambda kind: ICONS.get(kind, "activity"),
    "component_icon": lambda type_: COMPONENT_ICONS.get(type_, "circuit-board"),
}

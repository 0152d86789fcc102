"""Notifications: people are told what is otherwise than they were told. Key: a host's id, or a config's for what halted.

Compared is what is with what was told, not events: what came and went in between, or comes twice, is told once or not at all. Keys wait a
moment before they are looked at, so that what belongs together is one message: a new host with its forty components, the hosts of a site
whose uplink failed, the hosts on which a config halted.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from inventory import notices
from inventory.changes import Change
from inventory.db import Database, Tx
from inventory.ids import new_id
from inventory.notices import Asking, Halt, Part, Seen, Told
from managers.reconcile import Also, AnyTrigger, Done, Effect, Make, Outcome, Request, Trigger

QUEUE = "notification"

GATHER = timedelta(seconds=2)
"""For a host: sections of facts, and hosts that share a fate, arrive within moments of each other."""
PAUSE_S = 2.0
"""Between two batches: a fleet that enrolls or fails host by host is told of in some messages, not in as many as there are hosts."""
GATHER_HALTS = timedelta(seconds=5)
"""For a config: it halts on one host after the other."""
FEW = 3
"""Up to so many hosts are told of one by one."""
NAMED = 3
"""So many components or hosts are named in a message; the others are counted."""

_WATCHED = frozenset({"presence", "boot_id", "agent_version"})


def interest(change: Change) -> Sequence[AnyTrigger]:
    match change:
        case Change(kind="host", op="created" | "updated") if change.op == "created" or not _WATCHED.isdisjoint(change.changed):
            return [Trigger(QUEUE, change.id, delay=GATHER)]
        case Change(kind="component", op="created" | "updated", host=str(host)) if change.op == "created" or "present" in change.changed:
            return [Trigger(QUEUE, host, delay=GATHER)]
        case Change(kind="host-config", op="updated", resource=dict(host_config)) if "status.halted" in change.changed:
            return [Trigger(QUEUE, host_config["config"], delay=GATHER_HALTS)]
    return ()


# --- what to say: pure ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """A notification to be."""

    severity: str
    type: str
    text: str
    kind: str
    id: str
    host: str | None = None

    def values(self) -> dict[str, Any]:
        about = {"kind": self.kind, "id": self.id}
        return {
            "id": new_id("note"),
            "severity": self.severity,
            "type": self.type,
            "message": self.text,
            "about": about,
            "host": self.host,
        }


@dataclass(slots=True)
class Telling:
    """What is told of a batch of hosts, and what people know then."""

    messages: list[Message] = field(default_factory=list)
    hosts: dict[str, Told] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)


def plan(seen: Iterable[Seen], parts: Mapping[str, Sequence[Part]], counts: Mapping[str, int]) -> Telling:
    """What there is to tell of a batch of hosts."""
    telling = Telling()
    moves: dict[str, list[Seen]] = defaultdict(list)
    new: list[Seen] = []
    for host in seen:
        if host.told is None:
            _introduce(telling, new, host, parts.get(host.id, ()))
        else:
            _compare(telling, moves, host, host.told, parts.get(host.id, ()))
    telling.messages += _found(new, counts)
    for presence, these in sorted(moves.items()):
        telling.messages += _moved(presence, these)
    return telling


def presence_told(presence: str) -> str:
    """Stale is a doubt, no news."""
    return "offline" if presence == "offline" else "online"


def _introduce(telling: Telling, new: list[Seen], host: Seen, parts: Sequence[Part]) -> None:
    """A host is news once it has said what it is; everything it consists of is told with it."""
    if not host.known or host.presence == "never":
        return
    new.append(host)
    telling.hosts[host.id] = Told(presence_told(host.presence), host.boot_id, host.agent_version)
    telling.parts += parts


def _found(hosts: Sequence[Seen], counts: Mapping[str, int]) -> list[Message]:
    """Few by name; a fleet that enrolls at once as one message."""
    if len(hosts) > FEW:
        components = _count(sum(counts.get(host.id, 0) for host in hosts), "component")
        text = f"{_list([_name(host) for host in hosts], 'host')} were found, with {components}"
        return [Message("info", "HostFound", text, "host", hosts[0].id)]
    return [
        Message(
            "info", "HostFound", f"{_name(host)} was found, with {_count(counts.get(host.id, 0), 'component')}", "host", host.id, host.id
        )
        for host in hosts
    ]


def _compare(telling: Telling, moves: dict[str, list[Seen]], host: Seen, told: Told, parts: Sequence[Part]) -> None:
    now = Told(told.presence if host.presence == "never" else presence_told(host.presence), host.boot_id, host.agent_version)
    if now.presence != told.presence:
        moves[now.presence].append(host)
    if now.boot_id != told.boot_id and told.boot_id is not None:
        telling.messages.append(Message("info", "HostRebooted", f"{_name(host)} has restarted", "host", host.id, host.id))
    if now.agent_version != told.agent_version and told.agent_version is not None:
        text = f"the agent of {_name(host)} is now {now.agent_version}, and was {told.agent_version}"
        telling.messages.append(Message("info", "AgentChanged", text, "host", host.id, host.id))
    if now != told:
        telling.hosts[host.id] = now
    telling.messages += _parts_messages(host, parts)
    telling.parts += parts


def _parts_messages(host: Seen, parts: Sequence[Part]) -> list[Message]:
    """One message for what was found, one for what vanished, one for what came back."""
    groups: dict[str, list[Part]] = {
        "ComponentFound": [p for p in parts if p.present and p.told_present is None],
        "ComponentReturned": [p for p in parts if p.present and p.told_present is False],
        "ComponentVanished": [p for p in parts if not p.present and p.told_present],
    }
    words = {"ComponentFound": "was found on", "ComponentReturned": "is back on", "ComponentVanished": "has vanished from"}
    plural = {"ComponentFound": "were found on", "ComponentReturned": "are back on", "ComponentVanished": "have vanished from"}
    messages = []
    for type, these in groups.items():
        if not these:
            continue
        verb = words[type] if len(these) == 1 else plural[type]
        text = f"{_list([part_name(p) for p in these], 'component')} {verb} {_name(host)}"
        messages.append(Message("warning" if type == "ComponentVanished" else "info", type, text, "host", host.id, host.id))
    return messages


def part_name(part: Part) -> str:
    """`disk sda (Samsung SSD 980)`, as far as the probe knows."""
    name = str(part.attributes.get("name") or part.key)
    model = part.attributes.get("model")
    return f"{part.type} {name}" + (f" ({model})" if model else "")


def _moved(presence: str, hosts: Sequence[Seen]) -> list[Message]:
    """Few hosts by name; many as one message, about their site where they share one."""
    severity, type, verb = ("warning", "HostOffline", "offline") if presence == "offline" else ("info", "HostOnline", "online again")
    if len(hosts) <= FEW:
        return [Message(severity, type, f"{_name(host)} is {verb}", "host", host.id, host.id) for host in hosts]
    by_site: dict[str | None, list[Seen]] = defaultdict(list)
    for host in hosts:
        by_site[host.site].append(host)
    messages = []
    for site, these in sorted(by_site.items(), key=lambda item: item[0] or ""):
        if len(these) == 1:
            messages += _moved(presence, these)
            continue
        where = f" at {these[0].site_name}" if site else ""
        text = f"{_list([_name(host) for host in these], 'host')}{where} are {verb}"
        about = ("site", site) if site else ("host", these[0].id)
        messages.append(Message(severity, type, text, *about))
    return messages


def plan_halts(halts: Sequence[Halt]) -> list[Message]:
    """One message a config and reason."""
    groups: dict[tuple[str, str], list[Halt]] = defaultdict(list)
    for halt in halts:
        if halt.halted:
            groups[halt.config, halt.reason].append(halt)
    messages = []
    for (config, reason), these in sorted(groups.items()):
        where = _list([halt.host_name for halt in these], "host")
        text = f"{these[0].config_name} halted on {where}: {reason}: {these[0].message}"
        if len(these) == 1:
            messages.append(Message("error", "ConfigHalted", text, "host-config", these[0].id, these[0].host))
        else:
            messages.append(Message("error", "ConfigHalted", text, "config", config))
    return messages


def plan_asking(asking: Sequence[Asking]) -> list[Message]:
    """Few devices that wait by name, with what a person goes by; many as one message."""
    waiting = [one for one in asking if one.waits]
    if len(waiting) > FEW:
        text = f"{_list([one.name for one in waiting], 'device')} wait for approval"
        return [Message("warning", "DeviceWaiting", text, "host", waiting[0].host)]
    return [Message("warning", "DeviceWaiting", _asks(one), "host", one.host, one.host) for one in waiting]


def _asks(one: Asking) -> str:
    who = ", ".join(filter(None, [f"serial {one.serial}" if one.serial else "", f"from {one.address}" if one.address else ""]))
    whose = f", to replace {one.replaces}" if one.replaces else ""
    return f"{one.name} waits for approval{whose}" + (f" ({who})" if who else "")


def _name(host: Seen) -> str:
    return host.title or host.name


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _list(names: Sequence[str], noun: str) -> str:
    if len(names) <= NAMED:
        return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"{_count(len(names), noun)} ({', '.join(names[:NAMED])} and {len(names) - NAMED} more)"


# --- the reconciler -------------------------------------------------------------------------------------------------------------


class NotificationReconciler:
    """Compares a batch, tells, and notes what was told in the same transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        keys = [request.key for request in requests]
        hosts = [key for key in keys if key.startswith("host-")]
        effects: list[Effect] = []
        async with self._db.acquire() as connection:
            telling = plan(
                await notices.hosts(connection, hosts),
                await notices.parts(connection, hosts),
                await notices.component_counts(connection, hosts),
            )
            asking = await notices.asking(connection, hosts)
            halts = await notices.halts(connection, [key for key in keys if not key.startswith("host-")])
        effects += [Make("notification", message.values()) for message in [*telling.messages, *plan_asking(asking), *plan_halts(halts)]]
        effects.append(Also(_told(telling, asking, halts)))
        # What is told of a batch is told together or not at all: the effects stand with its first key.
        return {key: Done(tuple(effects) if n == 0 else ()) for n, key in enumerate(keys)}


def _told(telling: Telling, asking: Sequence[Asking], halts: Sequence[Halt]) -> Any:
    async def note(tx: Tx) -> None:
        if asking:
            await notices.tell_asking(tx, asking)
        if telling.hosts:
            await notices.tell_hosts(tx, telling.hosts)
        if telling.parts:
            await notices.tell_parts(tx, telling.parts)
        if halts:
            await notices.tell_halts(tx, halts)

    return note

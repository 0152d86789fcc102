"""Placement: which configs belong on a host, and who has which path there. Key: a host's id.

Evaluates all selectors for a batch of hosts at once, gives each path to the config of the highest priority (of equal ones, to the
oldest), renders, and makes, changes or withdraws host-configs where the result differs from what stands. Whether and when anything is
sent to the device is `host_config`'s business. A host that isn't onboarded gets nothing new, and keeps what it has.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from inventory import applying
from inventory.applying import Config, Configs, Host, Placed
from inventory.changes import Change
from inventory.db import Database
from inventory.ids import new_id
from inventory.kinds.host import HOST
from inventory.resource import time_text
from inventory.store import utcnow
from inventory.work import Strength
from managers.reconcile import Again, AnyTrigger, Done, Effect, Enqueue, Make, Outcome, Request, Trigger, Write
from managers.rendering import Job, Rendered, Renderer

QUEUE = "placement"
HOST_CONFIG = "host-config"
"""Kind, and the queue further down the wiring that brings it to the device."""

LOCKED = timedelta(seconds=30)
"""Until it is looked again whether a config's secrets can be read."""

_MATTERS = frozenset({f.name for f in HOST.fields if f.selectable} | {"current_state", "effective_labels"}) - {"desired_state"}


def interest(change: Change) -> Sequence[AnyTrigger]:
    """What selectors and templates can see of a host, and whether it is onboarded; a host-config that somebody dropped by force."""
    if change.kind == HOST_CONFIG and change.op == "deleted" and change.actor.get("type") in ("user", "token") and change.host is not None:
        return [Trigger(QUEUE, change.host)]
    if change.kind != "host" or change.op == "deleted":
        return ()
    if change.op == "created" or any(path.partition(".")[0] in _MATTERS for path in change.changed):
        return [Trigger(QUEUE, change.id)]
    return ()


@dataclass(frozen=True, slots=True)
class Share:
    """What a config gets of a host's paths. `shadowed`: {path, by} for each path that another config won."""

    config: Config
    paths: tuple[str, ...]
    shadowed: tuple[Mapping[str, str], ...]


def share_paths(configs: Iterable[Config]) -> list[Share]:
    """Each path to one config: the higher priority wins, of equal ones the older config."""
    owner: dict[str, str] = {}
    shares = []
    for config in sorted(configs, key=lambda c: (-c.priority, c.created_at, c.id)):
        won, lost = [], []
        for path in (file["path"] for file in config.files):
            by = owner.setdefault(path, config.id)
            if by == config.id:
                won.append(path)
            else:
                lost.append({"path": path, "by": by})
        shares.append(Share(config, tuple(won), tuple(lost)))
    return shares


@dataclass(slots=True)
class _Steps:
    effects: list[Effect] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)


def plan(
    host: Host, wanted: Sequence[tuple[Share, Rendered]], standing: Sequence[Placed], unknown: frozenset[str], now: datetime
) -> tuple[Effect, ...]:
    """From what should be on a host to the writes that say so. `unknown`: configs whose selector can't be used, or whose secrets can't be
    read, which stay as they are."""
    steps = _Steps()
    by_config = {placed.config: placed for placed in standing}
    for share, rendered in wanted:
        placed = by_config.pop(share.config.id, None)
        values = {"digest": rendered.digest, "paths": list(share.paths), "shadowed": [dict(each) for each in share.shadowed]}
        if placed is not None:
            _change(steps, placed, values, now)
        elif host.onboarded:
            _make(steps, host, share.config, values)
    for placed in by_config.values():
        if placed.desired_state != "absent" and placed.config not in unknown:
            _set(steps, placed, {"desired_state": "absent", "status": _status("Deleting", now)})
    if steps.moved:
        steps.effects.append(Enqueue(HOST_CONFIG, tuple(steps.moved), Strength.FRESH))
    return tuple(steps.effects)


def _make(steps: _Steps, host: Host, config: Config, values: Mapping[str, Any]) -> None:
    id = new_id("hcfg")
    steps.effects.append(Make(HOST_CONFIG, {"id": id, "host": host.id, "config": config.id, **values}))
    steps.moved.append(id)


def _change(steps: _Steps, placed: Placed, values: Mapping[str, Any], now: datetime) -> None:
    standing = {"digest": placed.digest, "paths": list(placed.paths), "shadowed": [dict(each) for each in placed.shadowed]}
    changes = {name: value for name, value in values.items() if value != standing[name]}
    if placed.desired_state != "present":
        changes["desired_state"] = "present"
    if "digest" in changes or "desired_state" in changes:
        _set(steps, placed, changes | {"status": _status("Pending", now)})
    elif changes:
        steps.effects.append(Write(HOST_CONFIG, placed.id, changes))


def _set(steps: _Steps, placed: Placed, values: Mapping[str, Any]) -> None:
    """A change of what is wanted: a new generation, which begins at the first attempt."""
    steps.effects.append(Write(HOST_CONFIG, placed.id, values))
    steps.moved.append(placed.id)


def _status(reason: str, now: datetime) -> dict[str, Any]:
    return {"indicator": "in_progress", "reason": reason, "message": "", "halted": False, "since": time_text(now)}


class PlacementReconciler:
    """Reads a batch of hosts, evaluates, renders, plans."""

    def __init__(self, db: Database, configs: Configs, renderer: Renderer, clock: Callable[[], datetime] = utcnow) -> None:
        self._db = db
        self._configs = configs
        self._renderer = renderer
        self._clock = clock

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        ids = [request.key for request in requests]
        configs = {id: config for id, config in (await self._configs.all()).items() if not config.deleted}
        async with self._db.acquire() as connection:
            hosts = await applying.read_hosts(connection, ids)
            matches, unknown = await applying.matching(connection, list(hosts), configs.values())
            standing = await applying.placed(connection, list(hosts))
        shares = {id: share_paths(configs[config] for config in matches[id]) for id in hosts}
        wanted = await self._render(hosts, shares, standing)
        outcomes: dict[str, Outcome] = {id: Done() for id in ids}
        locked = frozenset(config.id for config in configs.values() if config.locked)
        for id, host in hosts.items():
            effects = plan(host, wanted[id], standing[id], locked.union(unknown), self._clock())
            waits = any(share.config.locked for share in shares[id])
            outcomes[id] = Again(LOCKED, "Pending", "the secrets of a config can't be read", effects) if waits else Done(effects)
        return outcomes

    async def _render(
        self, hosts: Mapping[str, Host], shares: Mapping[str, Sequence[Share]], standing: Mapping[str, Sequence[Placed]]
    ) -> dict[str, list[tuple[Share, Rendered]]]:
        """Only what can matter: a host that isn't onboarded gets no new config. One whose secrets can't be read keeps its paths, and what
        is there of it stays."""
        needed = [
            (id, share)
            for id, host in hosts.items()
            for share in shares[id]
            if not share.config.locked
            if host.onboarded or any(placed.config == share.config.id for placed in standing[id])
        ]
        rendered = await self._renderer.render([Job(share.config, hosts[id], share.paths) for id, share in needed])
        found: dict[str, list[tuple[Share, Rendered]]] = {id: [] for id in hosts}
        for (id, share), result in zip(needed, rendered, strict=True):
            found[id].append((share, result))
        return found

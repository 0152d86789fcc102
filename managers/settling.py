"""The end of a batch of reconciles: effects, statuses and the keys' rows in the queue, all in one transaction.

A key whose lease was lost meanwhile is left out, with everything that was decided for it. Locks are taken in one order by everybody: rows
of the queue first, then resources by kind and id. Called by `managers.driver`; knows no kind.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inventory.actor import Actor
from inventory.bulk import BulkWriter
from inventory.db import Tx, loads
from inventory.errors import NotFound
from inventory.kinds import BY_NAME
from inventory.store import Store
from inventory.work import Claimed, Entry, Lane, Strength, WorkQueue
from inventory.writer import Writer
from managers.reconcile import Also, Effect, Enqueue, Make, Outcome, Remove, Write
from managers.status import status_after
from managers.workqueue import Backoff, Settled, Uniform, lane_of, settle


@dataclass(frozen=True, slots=True)
class Terms:
    """What of a manager matters here: its queue, who it is, whose status it keeps (a kind, or None), how it backs off."""

    queue: str
    actor: Actor
    status_of: str | None
    backoff: Backoff


@dataclass(slots=True)
class Report:
    """What a settlement did, for logs and to wake others: kinds made, managers enqueued, keys lost to another replica."""

    settled: dict[str, Settled] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    enqueued: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)


class Settler:
    """Writes what was decided."""

    def __init__(self, store: Store, queue: WorkQueue, uniform: Uniform) -> None:
        self._store = store
        self._queue = queue
        self._uniform = uniform

    async def settle(self, terms: Terms, claimed: Sequence[Claimed], outcomes: Mapping[str, Outcome]) -> Report:
        """All or nothing. Raises what the store raises; then nothing was written."""
        return await self._store.retrying(lambda: self._once(terms, claimed, outcomes))

    async def _once(self, terms: Terms, claimed: Sequence[Claimed], outcomes: Mapping[str, Outcome]) -> Report:
        report = Report()
        async with self._store.transaction() as w:
            held = await self._queue.hold(w.tx.raw, terms.queue, claimed)
            report.lost = sorted({c.key for c in claimed} - {h.key for h in held})
            report.settled = {h.key: settle(h, outcomes[h.key], terms.backoff, self._uniform) for h in held}
            effects = [effect for h in held for effect in outcomes[h.key].effects]
            await self._enqueue(w.tx, [(h.lane, effect) for h in held for effect in outcomes[h.key].effects], report)
            writes = _merged(effects)
            if terms.status_of is None and all(isinstance(effect, Enqueue) for effect in effects):
                await w.tx.lazily()  # the queue alone: undone, the keys' leases end, and they are reconciled again
            if terms.status_of is not None:
                await _add_statuses(w, terms, outcomes, report.settled, effects, writes)
            await _apply(w, effects, writes, terms.actor, report)
            await self._finish(w.tx, terms, report.settled)
        return report

    async def _enqueue(self, tx: Tx, effects: Iterable[tuple[Lane, Effect]], report: Report) -> None:
        """Each with the lane of the key that it comes of."""
        keys: dict[tuple[str, Strength, Lane], set[str]] = defaultdict(set)
        for lane, effect in effects:
            if isinstance(effect, Enqueue) and effect.keys:
                keys[effect.manager, effect.strength, lane_of(lane, len(effect.keys))].update(effect.keys)
        for (manager, strength, lane), these in sorted(keys.items()):
            await self._queue.trigger(tx.raw, manager, sorted(these), strength, lane=lane)
            report.enqueued.add(manager)

    async def _finish(self, tx: Tx, terms: Terms, settled: Mapping[str, Settled]) -> None:
        left: list[Entry] = [s.entry for s in settled.values() if s.entry is not None]
        await self._queue.finish(tx.raw, terms.queue, left, [key for key, s in settled.items() if s.entry is None])


Writes = dict[str, dict[str, dict[str, Any]]]
"""Values by kind and id."""


def _merged(effects: Iterable[Effect]) -> Writes:
    writes: Writes = defaultdict(lambda: defaultdict(dict))
    for effect in effects:
        if isinstance(effect, Write):
            writes[effect.kind][effect.id].update(effect.values)
    return writes


async def _add_statuses(
    w: Writer, terms: Terms, outcomes: Mapping[str, Outcome], settled: Mapping[str, Settled], effects: Sequence[Effect], writes: Writes
) -> None:
    assert terms.status_of is not None
    kind = BY_NAME[terms.status_of]
    going = {effect.id for effect in effects if isinstance(effect, Remove) and effect.kind == kind.name}
    rows = await w.tx.raw.fetch(f'SELECT id, status FROM "{kind.table}" WHERE id = ANY ($1::text[])', sorted(settled.keys() - going))
    for row in rows:
        id = row["id"]
        writes[kind.name][id]["status"] = status_after(outcomes[id], settled[id], terms.backoff, loads(row["status"]), w.at)


async def _apply(w: BulkWriter, effects: Sequence[Effect], writes: Writes, actor: Actor, report: Report) -> None:
    for kind, rows in sorted(_by_kind(effects).items()):
        await w.make_many(BY_NAME[kind], rows, lambda _: actor)
        report.made.add(kind)
    for kind, values in sorted(writes.items()):
        await w.write_many(BY_NAME[kind], values, lambda _: actor)
    for removal in sorted((e for e in effects if isinstance(e, Remove)), key=lambda e: (e.kind, e.id)):
        try:
            await w.remove(BY_NAME[removal.kind], removal.id, actor)
        except NotFound:
            pass  # it has gone with its owner
    for also in effects:
        if isinstance(also, Also):
            await also.run(w.tx)


def _by_kind(effects: Iterable[Effect]) -> dict[str, list[Mapping[str, Any]]]:
    made: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for effect in effects:
        if isinstance(effect, Make):
            made[effect.kind].append(effect.values)
    # An insert locks the host that it refers to: in the order of hosts, like everybody.
    return {kind: sorted(rows, key=lambda values: str(values.get("host"))) for kind, rows in made.items()}

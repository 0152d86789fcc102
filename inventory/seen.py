"""The change log as a scope lets it be seen: what comes into the scope appears as created, what leaves it as deleted, and each says so
(`Change.scope`).

Each change is judged by its host, once as it was at that change (a host's change holds all that a scope can ask for, before and after) and
once as it is now: of a host that is outside by now only its leaving is told. So a reader who is behind sees nothing that a list would not
show, and everything that a list no longer shows is deleted for them. A host takes what hangs on it along, both ways.

What is gone for good is judged by how it was at its end. A row of no host is told where its kind has none (a region); a notification about
no host is in nobody's scope. Without a scope everything is told as it is.

Called by web (pages of events, streams, histories) and by `inventory.publisher` (scoped integrations). Source: docs/adr/0027-scopes.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inventory import changes
from inventory.access import HOSTS, hosts_within
from inventory.changes import Change, Move, Slice
from inventory.db import SQL, Connection, Database, dumps, loads
from inventory.kinds import KINDS
from inventory.kinds.host import HOST
from inventory.resource import Resource, from_row, logged, select_list, source

ASKED = frozenset(field.name for field in HOST.fields if field.selectable)
"""What a scope can ask of a host; a change of nothing else moves nobody."""
HANGING = tuple(kind for kind in KINDS if kind.has_host and kind is not HOST and kind.published)
"""The kinds that come and go with a host."""
OF_NO_HOST = frozenset(kind.name for kind in KINDS if not kind.has_host)
ROUNDS = 20
"""How often the log is read on for one answer, when all that was read lies outside."""


@dataclass(frozen=True, slots=True)
class Newest:
    """Changes, oldest first; `position`: to read on from; `older`: to go on below, None where there are no more."""

    changes: list[Change]
    position: int
    older: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which changes; None: of all kinds, of all resources."""

    kinds: frozenset[str] | None = None
    ids: frozenset[str] | None = None

    def takes(self, change: Change) -> bool:
        return (self.kinds is None or change.kind in self.kinds) and (self.ids is None or change.id in self.ids)

    @property
    def behind(self) -> "Asked":
        """What has to be read to tell these: a host's move moves what hangs on it."""
        return Asked(None if self.kinds is None else self.kinds | {HOST.name})


class Seen:
    """The log within one scope; the empty one holds everything."""

    def __init__(self, db: Database, scope: str) -> None:
        self._db, self.scope = db, scope

    async def of(self, found: Sequence[Change]) -> list[Change]:
        """What is to be told of these changes, in their order: some as they are, some as a coming or going, with what comes and goes along
        at the same position. Raises Unavailable."""
        if not self.scope or not found:
            return list(found)
        async with self._db.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            judged = await _judged(connection, self.scope, found)
            along = await _along(connection, judged)
        return [told for each in judged for told in _told(each, along)]

    async def read(self, after: int, limit: int, asked: Asked) -> Slice:
        """Changes after a position, oldest first. There may be none to tell, and still more to read on from there. Raises Gone,
        Unavailable."""
        behind = asked.behind if self.scope else asked
        for _ in range(ROUNDS):
            found = await changes.read(self._db, after, limit=limit, kinds=behind.kinds, ids=behind.ids)
            told = [change for change in await self.of(found.changes) if asked.takes(change)]
            if told or len(found.changes) < limit:
                return Slice(told, found.next)
            after = found.next
        return Slice([], after)

    async def newest(self, limit: int, asked: Asked, *, before: int | None = None) -> Newest:
        """The last changes, those below a position where given. Raises Unavailable."""
        if not self.scope:
            found = await changes.newest(self._db, limit=limit, kinds=asked.kinds, ids=asked.ids, before=before)
            return Newest(found.changes, found.next, found.changes[0].position if len(found.changes) == limit else None)
        now = await changes.position(self._db)
        told: list[Change] = []
        for _ in range(ROUNDS):
            portion = await self._likely(now if before is None else min(now, before - 1), limit, asked)
            told = [change for change in await self.of(portion) if asked.takes(change)] + told
            before = portion[0].position if len(portion) == limit else None
            if before is None or len(told) >= limit:
                break
        first = _whole(told, limit)
        return Newest(told[first:], now, told[first].position if first else before)

    async def _likely(self, up_to: int, limit: int, asked: Asked) -> list[Change]:
        """The last changes that may be told, oldest first: of what is inside now, of what may have left, of what has no host."""
        hosts, behind = hosts_within(self.scope, start=8), asked.behind
        inside = f"host IN (SELECT r.id FROM {HOSTS} WHERE {hosts.sql})"
        async with self._db.acquire() as connection:
            rows = await connection.fetch(
                SQL["newest_changes_within"].format(inside=inside),
                *(up_to, _listed(behind.kinds), _listed(asked.ids), limit, sorted(OF_NO_HOST), HOST.name, sorted(ASKED)),
                *hosts.params,
            )
        return [changes.change(row) for row in reversed(rows)]

    async def history(self, id: str, *, before: int | None = None, limit: int = 100) -> tuple[list[Change], int | None]:
        """The changes of one resource, newest first, and the position to go on below. Raises Unavailable."""
        found = await changes.history(self._db, id, before=before, limit=limit)
        told = [change for change in await self.of(found[::-1]) if change.id == id]
        return told[::-1], found[-1].position if len(found) == limit else None


@dataclass(frozen=True, slots=True)
class _Judged:
    """A change, and whether its host was inside before it and after it, and is now."""

    change: Change
    before: bool
    after: bool
    now: bool

    @property
    def leaves(self) -> bool:
        return self.change.kind == HOST.name and self.before and not self.after

    @property
    def comes(self) -> bool:
        return self.change.kind == HOST.name and self.change.op == "updated" and self.after and not self.before and self.now

    @property
    def move(self) -> Move | None:
        """None also for a host that was deleted: it is gone for everybody."""
        return "entered" if self.comes else "left" if self.leaves and self.change.op != "deleted" else None


def _told(judged: _Judged, along: Mapping[int, list[Change]]) -> list[Change]:
    """Pure: what a reader is told. What leaves with a host goes before it, what comes with it follows."""
    change = judged.change
    if judged.leaves:
        if change.op != "deleted":
            change = replace(change, op="deleted", changed=(), resource=None, before=_before(change), scope=judged.move)
        return [*along[change.position], change]
    if judged.comes:
        return [replace(change, op="created", changed=(), before=None, scope=judged.move), *along[change.position]]
    return [change] if judged.after and judged.now else []


def _whole(told: Sequence[Change], limit: int) -> int:
    """Pure: where the last `limit` of them begin, or somewhat before: those of one position are not parted, or the next page, which goes on
    below a position, would have none of the rest."""
    first = max(0, len(told) - limit)
    while first and told[first - 1].position == told[first].position:
        first -= 1
    return first


def _before(change: Change) -> Resource | None:
    """All of a resource as it was before a change, which holds of it only what differs."""
    return change.before if change.op != "updated" else (change.resource or {}) | (change.before or {})


# --- how hosts stood ----------------------------------------------------------------------------------------------------------------


async def _judged(connection: Connection, scope: str, found: Sequence[Change]) -> list[_Judged]:
    now = await _inside(connection, scope, {change.host for change in found if change.host})
    hosts = [change for change in found if change.kind == HOST.name]
    stood = await _fitting(connection, scope, [state for change in hosts for state in (_before(change), change.resource)])
    moved = dict(zip((change.position for change in hosts), zip(stood[::2], stood[1::2], strict=True), strict=True))
    lost = await _lost(connection, scope, [change for change in found if change.kind != HOST.name and change.host not in now])
    judged = []
    for change in found:
        inside = change.host in now or change.position in lost or (change.host is None and change.kind in OF_NO_HOST)
        before, after = moved.get(change.position, (inside, inside))
        judged.append(_Judged(change, before, after, inside))
    return judged


async def _lost(connection: Connection, scope: str, found: Sequence[Change]) -> set[int]:
    """The positions of those that took something away from hosts which were inside then and are no more: when they left, it was not there
    to be taken along."""
    deleted = [change for change in found if change.op == "deleted" and change.host is not None]
    if not deleted:
        return set()
    rows = await connection.fetch(SQL["states_before"], [change.host for change in deleted], [change.position for change in deleted])
    fits = await _fitting(connection, scope, [loads(row["state"]) for row in rows])
    return {change.position for change, fit in zip(deleted, fits, strict=True) if fit}


async def _inside(connection: Connection, scope: str, hosts: set[str]) -> set[str]:
    """Those of the hosts that are inside now, or were at their end."""
    if not hosts:
        return set()
    ids, within = sorted(hosts), hosts_within(scope, start=2)
    there = {row["id"] for row in await connection.fetch("SELECT id FROM host WHERE id = ANY ($1::text[])", ids)}
    sql = f"SELECT r.id FROM {HOSTS} WHERE r.id = ANY ($1::text[]) AND ({within.sql})"
    inside = {row["id"] for row in await connection.fetch(sql, ids, *within.params)}
    gone = [id for id in ids if id not in there]
    if gone:
        ends = await connection.fetch(SQL["ends_of_hosts"], gone)
        fits = await _fitting(connection, scope, [loads(row["state"]) for row in ends])
        inside |= {row["id"] for row, fit in zip(ends, fits, strict=True) if fit}
    return inside


async def _fitting(connection: Connection, scope: str, states: Sequence[Resource | None]) -> list[bool]:
    """Of each state of a host, as the log has it, whether the scope holds it; none is outside."""
    kept = [(n, dumps({name: state.get(name) for name in ASKED})) for n, state in enumerate(states) if state is not None]
    if not kept:
        return [False] * len(states)
    within = hosts_within(scope, start=3)
    sql = SQL["states_within"].format(within=within.sql)
    rows = await connection.fetch(sql, [n for n, _ in kept], [text for _, text in kept], *within.params)
    fits = {row["n"] for row in rows}
    return [n in fits for n in range(len(states))]


# --- what comes and goes with a host ------------------------------------------------------------------------------------------------


async def _along(connection: Connection, judged: Sequence[_Judged]) -> dict[int, list[Change]]:
    """By the position of a coming or going: what hangs on its host, and, where it has left for good, hung on it then."""
    moves = [each for each in judged if each.leaves or each.comes]
    if not moves:
        return {}
    hosts = sorted({str(each.change.host) for each in moves})
    hanging: dict[str, dict[str, tuple[str, Resource]]] = {host: {} for host in hosts}
    for kind in HANGING:
        sql = f"SELECT {select_list(kind, single=False)} FROM {source(kind)} WHERE r.host = ANY ($1::text[]) ORDER BY r.id"
        for row in await connection.fetch(sql, hosts):
            hanging[row["host"]][row["id"]] = (kind.name, logged(kind, from_row(kind, row)))
    since = min(each.change.position for each in moves)
    lost = [str(each.change.host) for each in moves if each.leaves and not each.now]
    for row in await connection.fetch(SQL["deleted_of_hosts"], lost, since, HOST.name) if lost else ():
        hanging[row["host"]].setdefault(row["resource_id"], (row["kind"], loads(row["before"])))
    return {
        each.change.position: [_with(each, kind, id, resource) for id, (kind, resource) in hanging[str(each.change.host)].items()]
        for each in moves
    }


def _with(move: _Judged, kind: str, id: str, resource: Resource) -> Change:
    """The coming or going of what hangs on a host, at the host's position. Its version is the move's, or a reader who has seen its own
    would take it for old; where it has risen since, that one, as what it tells is newer."""
    change = move.change
    version = change.version if move.leaves else max(change.version, resource["version"])
    after, before = (None, resource) if move.leaves else (resource, None)
    return replace(
        change,
        kind=kind,
        id=id,
        op="deleted" if move.leaves else "created",
        version=version,
        generation=resource["generation"],
        changed=(),
        resource=after,
        before=before,
        scope=move.move,
    )


def _listed(names: Iterable[str] | None) -> Any:
    return None if names is None else sorted(names)

"""Writer: the writes of one transaction. Each row that it touches gets its change in the same transaction, or neither is there.

The store opens the transaction, gives it a Writer, and commits; nothing else writes resource rows. Rows are locked before they are
read, so that what is decided here still holds at commit.

Source: design.md section 5 ("Write").
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tortoise.exceptions import IntegrityError

from inventory import access, deposits, labels
from inventory.actor import Actor
from inventory.changes import Draft, append
from inventory.db import Tx, dumps, loads
from inventory.deposits import Depositor
from inventory.errors import Conflict, Forbidden, Invalid, LeaseLost, NotFound, PreconditionFailed, Problem
from inventory.filter import FilterError, compile_filter
from inventory.ids import new_id
from inventory.kind import Kind, Scalar, Uses
from inventory.kinds import BY_NAME, KINDS, ROWS
from inventory.kinds.host import HOST
from inventory.resource import Resource, changed_paths, column, from_row, logged, source, time_text
from inventory.rows import ResourceRow
from inventory.secret_field import MARKS_NOW
from inventory.validate import Values, create_values, patch_values

TOLD_USERS = 10
"""How many users of a resource a refusal to delete it names."""

RELABEL_BATCH = 500


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to reconcile a key, as the work queue gave it. A write under a lease that somebody else holds by now is refused."""

    manager: str
    key: str
    fence: int


class Writer:
    """The writes of one transaction. `at`: the time that all of them carry. `depositor`: takes users' secrets in, where any are taken."""

    def __init__(self, tx: Tx, at: datetime, depositor: Depositor | None = None) -> None:
        self.tx = tx
        self.at = at
        self.depositor = depositor
        self._drafts: list[Draft] = []

    async def flush(self) -> None:
        """Append the changes of all writes so far. The store calls it before the commit."""
        drafts, self._drafts = self._drafts, []
        await append(self.tx, drafts, self.at)

    async def check_lease(self, lease: Lease) -> None:
        """Raises LeaseLost unless the lease still stands; it then stands until the commit."""
        found = await self.tx.raw.fetchval(
            "SELECT fence FROM work WHERE manager = $1 AND key = $2 AND lease_until > clock_timestamp() FOR UPDATE",
            lease.manager,
            lease.key,
        )
        if found != lease.fence:
            raise LeaseLost(f"{lease.manager} {lease.key}: another replica has taken over")

    # --- what users ask for ---------------------------------------------------------------------------------------------------

    async def create(self, kind: Kind, body: Any, actor: Actor, extra: Values | None = None) -> str:
        """A new resource from a user's body; its id. `extra`: columns beside it that are not the user's.

        Raises Invalid, Forbidden, Conflict (name taken)."""
        _check_reach(kind, actor)
        if actor.creates_as not in kind.creators and actor.type != "system":
            raise Forbidden(f"a {kind.name} is made by {' or '.join(sorted(kind.creators))}, not by a {actor.type}")
        values = create_values(kind, body, actor)
        await self._settle_secrets(kind, None, values)
        self._check_fits(kind, {}, values)
        await self._resolve_references(kind, values, actor)
        self._check_selectors(kind, values)
        id = await self._insert(kind, values | (extra or {}), actor)
        await self._check_inside(kind, id, actor)
        return id

    async def patch(self, kind: Kind, ref: str, patch: Any, actor: Actor, if_match: int | None) -> str:
        """Merge a user's patch into a resource; its id. Nothing is written when nothing differs, nor what would put it out of sight."""
        current = await self._load_for(kind, ref, actor, if_match)
        values = patch_values(kind, current, patch, actor)
        if not values:
            return str(current["id"])
        if current["deleted_at"] is not None:
            raise Conflict(f"{kind.name} {current['name']} is being deleted")
        self._check_transition(kind, current, values)
        await self._settle_secrets(kind, current, values)
        await self._resolve_references(kind, values, actor, current["id"])
        # A reference given by name differs from the id that is kept, until it is resolved; a secret from its mark, until it is settled.
        values = {name: value for name, value in values.items() if not _same(current.get(name), value)}
        if not values:
            return str(current["id"])
        self._check_fits(kind, current, values)
        self._check_selectors(kind, values)
        if kind.states and kind.states.removal and values.get("desired_state") == kind.states.removal:
            values["deleted_at"] = self.at
        await self._check_replaced(kind, current | values, values, actor)
        await self._update(kind, current, values, actor)
        await self._check_inside(kind, current["id"], actor)
        return str(current["id"])

    async def delete(self, kind: Kind, ref: str, actor: Actor, if_match: int | None, force: bool) -> str | None:
        """Delete, or begin to: None when the row is gone, else the id of the resource that waits for its manager.

        Raises Conflict naming the users of what is used, Forbidden for what is not a user's to delete."""
        current = await self._load_for(kind, ref, actor, if_match)
        if not kind.deletable_by_user and not force:
            raise Forbidden(f"a {kind.name} goes by itself, with what it belongs to; force=true drops the row all the same")
        await self._refuse_used(kind, current)
        removal = kind.states.removal if kind.states else ""
        if force or not (removal or await self._owned(kind, current["id"])):
            await self._remove(kind, current, actor)
            return None
        if current["deleted_at"] is None:
            values: Values = {"deleted_at": self.at}
            if removal:
                values["desired_state"] = removal
            await self._update(kind, current, values, actor)
        return str(current["id"])

    async def retry(self, kind: Kind, ref: str, actor: Actor, if_match: int | None = None) -> str:
        """Say that what has halted is to be tried again; for a config or host, all of its host-configs that are in error."""
        if "retry" not in kind.verbs:
            raise Conflict(f"a {kind.name} is not reconciled, so there is nothing to retry")
        current = await self._load_for(kind, ref, actor, if_match)
        await self._retry_one(kind, current, actor)
        if kind.name in ("config", "host"):
            target = BY_NAME["host-config"]
            rows = await self.tx.raw.fetch(
                f"SELECT id FROM host_config WHERE \"{kind.name}\" = $1 AND status->>'indicator' = 'error' ORDER BY id", current["id"]
            )
            for row in rows:
                await self._retry_one(target, await self.load(target, row["id"]), actor)
        return str(current["id"])

    async def _retry_one(self, kind: Kind, current: Resource, actor: Actor) -> None:
        if current["status"] is None:
            return
        status = current["status"] | {"indicator": "in_progress", "reason": "Pending", "halted": False, "since": time_text(self.at)}
        await self._update(kind, current, {"status": status | {"message": f"retry asked for by {actor.name}"}}, actor, also=("retry",))

    # --- what managers and devices report --------------------------------------------------------------------------------------

    async def make(self, kind: Kind, values: Mapping[str, Any], actor: Actor) -> str:
        """A new row from values that the caller answers for; its id. Raises Forbidden for a kind this actor does not make."""
        if actor.creates_as not in kind.creators and actor.type not in ("system", "inventory"):
            raise Forbidden(f"a {kind.name} is made by {' or '.join(sorted(kind.creators))}, not by {actor.name}")
        return await self._insert(kind, dict(values), actor)

    async def write(self, kind: Kind, id: str, values: Mapping[str, Any], actor: Actor) -> Resource:
        """Set fields that the actor owns; the resource as it is then (restless members aside). Equal values write nothing.

        Raises NotFound, Forbidden."""
        current = await self.load(kind, id)
        self._check_owner(kind, values, actor)
        changed = {name: value for name, value in values.items() if not _same(current.get(name), value)}
        if not changed:
            return current
        return await self._update(kind, current, changed, actor)

    async def remove(self, kind: Kind, id: str, actor: Actor) -> None:
        """The row goes, with what it owns. Raises NotFound, Conflict where it is used."""
        current = await self.load(kind, id)
        await self._refuse_used(kind, current)
        await self._remove(kind, current, actor)

    async def existing(self, kind: Kind, ids: Iterable[str]) -> list[str]:
        """Those of these ids that there are, in order, their rows locked."""
        return [row["id"] for row in await self._read(kind, sorted(ids), lock=True)]

    async def relabel(self, hosts: Sequence[str], actor: Actor) -> list[str]:
        """Bring the effective labels of these hosts up to date; the ids of those whose labels changed."""
        kind = BY_NAME["host"]
        before = {row["id"]: row for row in await self._read(kind, hosts, lock=True)}
        changed = await labels.refresh(self.tx, sorted(before))
        if changed:
            await self.tx.raw.execute(
                "UPDATE host SET version = nextval('versions'), updated_at = $2 WHERE id = ANY ($1::text[])", changed, self.at
            )
            for after in await self._read(kind, changed):
                self._draft(kind, "updated", after, before[after["id"]], actor)
        return changed

    # --- rows -----------------------------------------------------------------------------------------------------------------

    async def load(self, kind: Kind, ref: str, if_match: int | None = None) -> Resource:
        """The resource by id or name, its row locked. Hidden fields are in it. if_match: the version that it must be at; 0, which none is
        ever at, fits nothing. Raises NotFound, PreconditionFailed."""
        row = await self.tx.raw.fetchrow(
            f"SELECT {_write_list(kind)} FROM {source(kind)} WHERE r.id = $1 OR r.name = $1 "
            "ORDER BY r.id = $1 DESC LIMIT 1 FOR UPDATE OF r",
            ref,
        )
        if row is None:
            raise NotFound(f"there is no {kind.name} {ref!r}")
        current = from_row(kind, row, hidden=True)
        for field in kind.own_fields:
            if field.secret:
                current[field.name] = loads(await self.tx.raw.fetchval(MARKS_NOW, current["id"]))
        _check_version(kind, current, if_match)
        return current

    async def _load_for(self, kind: Kind, ref: str, actor: Actor, if_match: int | None) -> Resource:
        """Likewise, of what lies within the actor's scope: what lies outside is not there. It is asked once the row is locked, when nobody
        can change what decides it. Raises Forbidden besides, for kinds that reach beyond any scope."""
        _check_reach(kind, actor)
        current = await self.load(kind, ref)
        if not await self.inside(kind, current["id"], actor):
            raise NotFound(f"there is no {kind.name} {ref!r}")
        _check_version(kind, current, if_match)
        return current

    async def _read(self, kind: Kind, ids: Iterable[str], *, lock: bool = False) -> list[Resource]:
        suffix = " FOR UPDATE OF r" if lock else ""
        rows = await self.tx.raw.fetch(
            f"SELECT {_write_list(kind)} FROM {source(kind)} WHERE r.id = ANY ($1::text[]) ORDER BY r.id{suffix}", list(ids)
        )
        return [from_row(kind, row, hidden=True) for row in rows]

    async def _insert(self, kind: Kind, values: Values, actor: Actor) -> str:
        id = values.pop("id", None) or new_id(kind.prefix)
        values.setdefault("name", id)
        if kind.name == "host":
            values["name"] = await self._free_name(kind, values["name"])
        values |= {"id": id, "version": await self._next_version(), "generation": 1, "created_at": self.at, "updated_at": self.at}
        if kind.states:
            values.setdefault("desired_state", kind.states.desired[0])
            values.setdefault("current_state", kind.states.initial_current)
            values.setdefault("status", pending(self.at))
        async with self._names(kind, values["name"]):
            await self._insert_row(kind, {name: value for name, value in values.items() if not _computed(kind, name)})
        await self._keep_secrets(kind, id, values)
        if kind.name == "host":
            await labels.refresh(self.tx, [id])
        [after] = await self._read(kind, [id])
        self._draft(kind, "created", after, None, actor)
        return str(id)

    async def _update(self, kind: Kind, current: Resource, values: Values, actor: Actor, also: tuple[str, ...] = ()) -> Resource:
        stored = {name: value for name, value in values.items() if not kind.by_name[name].computed}
        stored |= {"version": await self._next_version(), "updated_at": self.at}
        if any(kind.by_name[name].intent for name in values):
            stored["generation"] = current["generation"] + 1
        async with self._names(kind, values.get("name", "")):
            await self._update_row(kind, current["id"], stored)
        await self._keep_secrets(kind, current["id"], values)
        if kind.name == "host" and ("labels" in values or "site" in values):
            await labels.refresh(self.tx, [current["id"]])
        [after] = await self._read(kind, [current["id"]])
        self._draft(kind, "updated", after, current, actor, also)
        return after

    async def _remove(self, kind: Kind, current: Resource, actor: Actor) -> None:
        for owned_kind, ids in await self._owned(kind, current["id"]):
            for owned in await self._read(owned_kind, ids, lock=True):
                await self._remove(owned_kind, owned, actor)
        await self._forget(kind, current["id"], actor)
        await self._delete_row(kind, current["id"])
        if any(field.secret for field in kind.own_fields):
            await deposits.drop(self.tx, current["id"])
        await self.tx.raw.execute("DELETE FROM work WHERE manager = $1 AND key = $2", kind.name, current["id"])
        version = await self._next_version()
        before = logged(kind, current)
        self._drafts.append(
            Draft(kind.name, current["id"], "deleted", version, current["generation"], (), None, before, _host_of(kind, current), actor)
        )

    async def _forget(self, kind: Kind, id: str, actor: Actor) -> None:
        """What refers to it without being its own, and without standing in its way, does so no more."""
        for referring, name in _referrers(kind, Uses.FORGETS):
            rows = await self.tx.raw.fetch(f'SELECT id FROM "{referring.table}" WHERE "{name}" = $1 ORDER BY id', id)
            for row in rows:
                await self._update(referring, await self.load(referring, row["id"]), {name: None}, actor)

    def _draft(self, kind: Kind, op: str, after: Resource, before: Resource | None, actor: Actor, also: tuple[str, ...] = ()) -> None:
        seen = logged(kind, after)
        old = logged(kind, before) if before is not None else {}
        paths = also + (changed_paths(old, seen) if before is not None else ())
        if before is not None and not paths:
            return
        heads = {path.split(".")[0] for path in paths}
        kept = {name: value for name, value in old.items() if name in heads} if before is not None else None
        self._drafts.append(
            Draft(kind.name, after["id"], op, after["version"], after["generation"], paths, seen, kept, _host_of(kind, after), actor)
        )

    async def _settle_secrets(self, kind: Kind, current: Resource | None, values: Values) -> None:
        for field in kind.own_fields:
            if field.secret and field.name in values:
                values[field.name] = await deposits.settled(self.tx, self.depositor, field.name, current, values[field.name])

    async def _keep_secrets(self, kind: Kind, id: str, values: Values) -> None:
        for field in kind.own_fields:
            if field.secret and field.name in values:
                await deposits.keep(self.tx, self.depositor, id, values[field.name], self.at)

    async def _insert_row(self, kind: Kind, values: Values) -> None:
        await _new_row(kind, values).save(using_db=self.tx.client, force_create=True)

    async def _update_row(self, kind: Kind, id: str, values: Values) -> None:
        await ROWS[kind.name].filter(id=id).using_db(self.tx.client).update(**_columns(kind, values))

    async def _delete_row(self, kind: Kind, id: str) -> None:
        await ROWS[kind.name].filter(id=id).using_db(self.tx.client).delete()

    async def _next_version(self) -> int:
        return int(await self.tx.raw.fetchval("SELECT nextval('versions')"))

    # --- checks that need the database ----------------------------------------------------------------------------------------

    async def inside(self, kind: Kind, id: str, actor: Actor) -> bool:
        """Whether a row lies within the actor's scope, as this transaction has left it."""
        if not actor.scope:
            return True
        predicate = access.seen(kind, actor.scope, start=2)
        sql = f"SELECT EXISTS (SELECT 1 FROM {source(kind)} WHERE r.id = $1 AND ({predicate.sql}))"
        return bool(await self.tx.raw.fetchval(sql, id, *predicate.params))

    async def _check_inside(self, kind: Kind, id: str, actor: Actor) -> None:
        """Raises Forbidden, which undoes the write that has put it outside."""
        if not await self.inside(kind, id, actor):
            raise access.outside(actor, kind)

    async def _check_replaced(self, kind: Kind, wanted: Values, values: Values, actor: Actor) -> None:
        """A device that is let in becomes the host that it replaces: that has to be the actor's to give, too."""
        replaced = wanted.get("replaces") if kind is HOST and "desired_state" in values else None
        if replaced is not None and not await self.inside(kind, replaced, actor):
            raise Forbidden(
                f"host {wanted['name']} replaces one that your role does not hold for: set replaces to null, or ask somebody else"
            )

    async def _free_name(self, kind: Kind, wanted: str) -> str:
        """The name itself, or with the lowest free `-2`, `-3`, ... behind it. Two writers who want the same name wait for each other."""
        await self.tx.raw.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{kind.name} {wanted}")
        stem = wanted[:245]
        rows = await self.tx.raw.fetch(f"SELECT name FROM \"{kind.table}\" WHERE name = $1 OR starts_with(name, $2 || '-')", wanted, stem)
        taken = {row["name"] for row in rows}
        name, number = wanted, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        return name

    @asynccontextmanager
    async def _names(self, kind: Kind, name: str) -> Any:
        """Tells a taken name from other breaches."""
        try:
            yield
        except IntegrityError as error:
            if "_name_key" in str(error) or "(name)" in str(error):
                raise Conflict(f"there is a {kind.name} named {name} already", errors=(Problem("/name", "is taken"),)) from error
            for field in kind.own_fields:
                if f'unique constraint "{kind.table}_{field.name}"' in str(error):
                    words = f"another {kind.name} has the same already"
                    raise Conflict(f"{field.name}: {words}", errors=(Problem(f"/{field.name}", words),)) from error
            raise Conflict(f"{kind.name} {name}: {error}") from error

    async def _resolve_references(self, kind: Kind, values: Values, actor: Actor, id: str = "") -> None:
        """Names to ids; the targets are locked against deletion until the commit. Raises Invalid where there is no such thing, or none that
        the actor sees."""
        for field, reference in kind.references:
            wanted = values.get(field.name)
            if wanted is None:
                continue
            target = BY_NAME[reference.kind]
            row = await self.tx.raw.fetchrow(
                f'SELECT id, deleted_at FROM "{target.table}" WHERE id = $1 OR name = $1 ORDER BY id = $1 DESC LIMIT 1 FOR KEY SHARE',
                wanted,
            )
            if row is None or row["deleted_at"] is not None or not await self.inside(target, row["id"], actor):
                raise Invalid(
                    f"{field.name}: there is no {target.name} {wanted!r}",
                    errors=(Problem(f"/{field.name}", f"there is no {target.name} {wanted!r}"),),
                )
            values[field.name] = row["id"]
            if target is kind and id:
                await self._refuse_cycle(kind, field.name, id, row["id"])

    async def _refuse_cycle(self, kind: Kind, name: str, id: str, above: str) -> None:
        """One writer at a time changes a tree: two that each see no cycle could make one together."""
        await self.tx.raw.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{kind.name} tree")
        cycle = await self.tx.raw.fetchval(
            f'WITH RECURSIVE up AS (SELECT id, "{name}" AS above FROM "{kind.table}" WHERE id = $1 '
            f'UNION SELECT t.id, t."{name}" FROM "{kind.table}" t JOIN up ON t.id = up.above) '
            "SELECT EXISTS (SELECT 1 FROM up WHERE id = $2)",
            above,
            id,
        )
        if cycle:
            raise Invalid(
                f"{name}: that would make a circle", errors=(Problem(f"/{name}", "lies below this one: that would make a circle"),)
            )

    def _check_selectors(self, kind: Kind, values: Values) -> None:
        for field in kind.fields:
            if not (field.selects and values.get(field.name)):
                continue
            try:
                compile_filter(BY_NAME[field.selects], values[field.name], now=self.at, selector=True)
            except FilterError as error:
                where = f" (column {error.column})" if error.column else ""
                raise Invalid(
                    f"{field.name}: {error.detail}{where}", errors=(Problem(f"/{field.name}", f"{error.detail}{where}"),)
                ) from error

    def _check_fits(self, kind: Kind, current: Resource, values: Values) -> None:
        problems = () if kind.fits is None else tuple(kind.fits({**current, **values}))
        if problems:
            raise Invalid("; ".join(f"{each.pointer[1:]}: {each.detail}" for each in problems), errors=problems)

    def _check_transition(self, kind: Kind, current: Resource, values: Values) -> None:
        wanted, now = values.get("desired_state"), current["desired_state"]
        if wanted is None or kind.states is None or now not in kind.states.transitions:
            return
        if wanted not in kind.states.transitions[now]:
            raise Conflict(f"{kind.name} {current['name']} can't go from {now} to {wanted}")

    def _check_owner(self, kind: Kind, values: Mapping[str, Any], actor: Actor) -> None:
        others = [name for name in values if name != "deleted_at" and not actor.owns(kind.by_name[name].owner)]
        if others:
            raise Forbidden(f"{kind.name}: {', '.join(others)} can't be written by {actor.type} {actor.name}")

    async def _refuse_used(self, kind: Kind, current: Resource) -> None:
        for user_kind, name in _referrers(kind, Uses.USES):
            rows = await self.tx.raw.fetch(
                f'SELECT name FROM "{user_kind.table}" WHERE "{name}" = $1 ORDER BY name LIMIT {TOLD_USERS + 1}', current["id"]
            )
            if rows:
                names = ", ".join(row["name"] for row in rows[:TOLD_USERS]) + (" and more" if len(rows) > TOLD_USERS else "")
                raise Conflict(f"{kind.name} {current['name']} is used by {user_kind.collection}: {names}")

    async def _owned(self, kind: Kind, id: str) -> list[tuple[Kind, list[str]]]:
        found = []
        for owned_kind, name in _referrers(kind, Uses.OWNS):
            rows = await self.tx.raw.fetch(f'SELECT id FROM "{owned_kind.table}" WHERE "{name}" = $1 ORDER BY id', id)
            if rows:
                found.append((owned_kind, [row["id"] for row in rows]))
        return found


def _check_reach(kind: Kind, actor: Actor) -> None:
    """Raises Forbidden for a kind that is of no host, to whoever's rights hold for some hosts only."""
    if not kind.has_host:
        access.check_whole(actor, f"a {kind.name}")


def _check_version(kind: Kind, current: Resource, if_match: int | None) -> None:
    if if_match is not None and current["version"] != if_match:
        asked = f"not {if_match}" if if_match else "which If-Match does not name"
        raise PreconditionFailed(f"{kind.name} {current['name']} is at version {current['version']}, {asked}: read it again")


def _write_list(kind: Kind) -> str:
    """What a write reads of a row: all but what is computed for display."""
    return ", ".join(f'{column(f)} AS "{f.name}"' for f in kind.fields if not (f.computed and f.restless))


def _computed(kind: Kind, name: str) -> bool:
    """Whether the field is no column of its table."""
    return name in kind.by_name and kind.by_name[name].computed


def _columns(kind: Kind, values: Values) -> Values:
    """The values as Tortoise wants them: it takes a str for a JSON column to be JSON already."""

    def encoded(name: str, value: Any) -> Any:
        is_json = name in kind.by_name and kind.by_name[name].scalar is Scalar.JSON
        return dumps(value) if is_json and isinstance(value, str) else value

    return {name: encoded(name, value) for name, value in values.items()}


def _new_row(kind: Kind, values: Values) -> ResourceRow:
    """A row to insert. Its constructor would decode a JSON column's text once more, so that is set afterwards."""
    row = ROWS[kind.name](**{name: value for name, value in values.items() if not isinstance(value, str)})
    for name, value in _columns(kind, values).items():
        if isinstance(value, str):
            setattr(row, name, value)
    return row


def _referrers(kind: Kind, mode: Uses) -> list[tuple[Kind, str]]:
    return [
        (other, field.name)
        for other in KINDS
        for field, reference in other.references
        if reference.kind == kind.name and reference.mode is mode
    ]


def _host_of(kind: Kind, resource: Resource) -> str | None:
    if not kind.has_host:
        return None
    host: str | None = resource["id"] if kind.name == "host" else resource.get("host")
    return host


def _same(shown: Any, value: Any) -> bool:
    return bool(shown == (time_text(value) if isinstance(value, datetime) else value))


def pending(at: datetime) -> dict[str, Any]:
    return {"indicator": "in_progress", "reason": "Pending", "message": "", "since": time_text(at), "halted": False}

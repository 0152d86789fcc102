"""Which configs apply to which hosts, and what is known of a config on a host: reads for the config managers, a batch in one statement.

Selectors are evaluated by `inventory.filter`, as conditions of one SQL statement over the hosts of a batch. Configs are kept in memory by
version, since their files are large and read for every host. Nothing is written here.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from inventory import deposits
from inventory.db import SQL, Connection, Database, loads
from inventory.filter import FilterError, Predicate, compile_filter
from inventory.kinds.host import HOST
from inventory.resource import column, shown, source
from inventory.secret_field import SALT
from inventory.vault import Unsealable, Vault

log = logging.getLogger(__name__)

SELECTORS_A_STATEMENT = 200
"""More go into several statements: Postgres takes 32,767 parameters."""

TEMPLATE_FIELDS = tuple(f for f in HOST.fields if f.selectable and f.name not in ("effective_labels", "labels", "desired_state"))
"""What templates see of a host: nothing that varies by itself, or files would be written for ever."""


@dataclass(frozen=True, slots=True)
class Config:
    """A config as a user wrote it; `files` and `on_change` in the shape of contract.md section 4."""

    id: str
    name: str
    version: int
    generation: int
    selector: str
    priority: int
    files: tuple[Mapping[str, Any], ...]
    on_change: Any
    created_at: datetime
    deleted: bool
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By name, as templates see them."""
    salt: str = field(default="", repr=False)
    """For the digest of files with secrets in them; empty where there are none."""
    locked: str = ""
    """Why its secrets can't be read; empty where they can."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host as selectors and templates see it. `labels` are the effective ones."""

    id: str
    name: str
    onboarded: bool
    fields: Mapping[str, Any]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Placed:
    """A host-config as it stands."""

    id: str
    host: str
    config: str
    digest: str
    paths: tuple[str, ...]
    shadowed: tuple[Mapping[str, str], ...]
    desired_state: str


@dataclass(frozen=True, slots=True)
class CommandView:
    """The command that a host-config points to. `generation`: of the host-config when it was made."""

    id: str
    verb: str
    state: str
    generation: int
    result: Mapping[str, Any] | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """What the device said last of a host-config; `at` is when Inventory heard it."""

    generation: int
    state: str
    digest: str | None
    reason: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class View:
    """A host-config with everything that decides about it."""

    id: str
    host: str
    host_name: str
    host_state: str
    online: bool
    locked: str | None
    """Why its owner has locked it, if he has."""
    config: str
    config_name: str
    desired_state: str
    current_state: str
    generation: int
    digest: str
    paths: tuple[str, ...]
    reported: Report | None
    command: CommandView | None
    read_at: datetime
    """By the database's clock."""


class Configs:
    """All configs with their secrets, read again only where their version has changed, or what is sealed could not be opened."""

    def __init__(self, db: Database, vault: Vault) -> None:
        self._db = db
        self._vault = vault
        self._known: dict[str, Config] = {}

    async def all(self) -> dict[str, Config]:
        """Those being deleted included."""
        async with self._db.acquire() as connection:
            versions = {row["id"]: row["version"] for row in await connection.fetch("SELECT id, version FROM config")}
            # As it is at this moment: whoever reads at the same time may put there what it read before us.
            held = {id: self._known[id] for id, version in versions.items() if self._is_known(id, version)}
            stale = [id for id in versions if id not in held]
            rows = await connection.fetch(SQL["configs"], stale) if stale else []
        known = held | {row["id"]: self._opened(_config(row), loads(row["sealed"]) or {}) for row in rows}
        self._known = known
        return known

    def _is_known(self, id: str, version: int) -> bool:
        return id in self._known and self._known[id].version == version and not self._known[id].locked

    def _opened(self, config: Config, sealed: Mapping[str, str]) -> Config:
        texts: dict[str, str] = {}
        for name, each in sealed.items():
            try:
                texts[name] = self._vault.open(deposits.context(config.id, name), each).decode()
            except Unsealable as error:
                log.error("a config's secrets can't be read", extra={"key": config.id, "error": str(error)})
                return replace(config, locked=f"{name}: {error}")
        return replace(config, salt=texts.pop(SALT, ""), secrets=texts)


async def read_hosts(connection: Connection, ids: Sequence[str]) -> dict[str, Host]:
    columns = ", ".join(f'{column(f)} AS "{f.name}"' for f in TEMPLATE_FIELDS)
    beside = 'r.current_state AS "now", coalesce(hl.labels, r.labels) AS "in_effect"'
    rows = await connection.fetch(f"SELECT {columns}, {beside} FROM {source(HOST)} WHERE r.id = ANY ($1::text[])", list(ids))
    return {
        row["id"]: Host(
            row["id"],
            row["name"],
            row["now"] == "onboarded",
            {f.name: shown(f, row[f.name]) for f in TEMPLATE_FIELDS},
            loads(row["in_effect"]),
        )
        for row in rows
    }


async def matching(connection: Connection, hosts: Sequence[str], configs: Iterable[Config]) -> tuple[dict[str, set[str]], set[str]]:
    """Which of the configs select each host; and the ids of those whose selector can't be used, about which nothing is known.

    A selector is checked when it is written, so that an unusable one means that fields have changed since."""
    usable, unusable = [], set()
    for config in configs:
        try:
            compile_filter(HOST, config.selector, now=datetime.now(UTC), selector=True)
            usable.append(config)
        except FilterError as error:
            log.error("a config's selector can't be used", extra={"key": config.id, "error": str(error)})
            unusable.add(config.id)
    found: dict[str, set[str]] = {host: set() for host in hosts}
    for start in range(0, len(usable), SELECTORS_A_STATEMENT):
        for host, ids in await _match(connection, hosts, usable[start : start + SELECTORS_A_STATEMENT]):
            found[host].update(ids)
    return found, unusable


async def _match(connection: Connection, hosts: Sequence[str], configs: Sequence[Config]) -> list[tuple[str, list[str]]]:
    predicates: list[Predicate] = []
    for config in configs:
        start = predicates[-1].next if predicates else 3
        predicates.append(compile_filter(HOST, config.selector, start=start, now=datetime.now(UTC), selector=True))
    picks = ", ".join(f"CASE WHEN {p.sql} THEN ($2::text[])[{n}] END" for n, p in enumerate(predicates, 1))
    rows = await connection.fetch(
        f"SELECT r.id, array_remove(ARRAY[{picks}]::text[], NULL) AS configs FROM {source(HOST)} WHERE r.id = ANY ($1::text[])",
        list(hosts),
        [config.id for config in configs],
        *(value for p in predicates for value in p.params),
    )
    return [(row["id"], row["configs"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Outline:
    """What decides which hosts a config concerns."""

    id: str
    selector: str
    deleted: bool


async def outlines(connection: Connection, ids: Sequence[str]) -> dict[str, Outline]:
    """Those of the configs that exist."""
    rows = await connection.fetch("SELECT id, selector, deleted_at FROM config WHERE id = ANY ($1::text[])", list(ids))
    return {row["id"]: Outline(row["id"], row["selector"], row["deleted_at"] is not None) for row in rows}


async def concerned_hosts(connection: Connection, config: Outline) -> list[str]:
    """Hosts that have the config, and onboarded ones that it selects; a deleted one selects none."""
    having = "SELECT host AS id FROM host_config WHERE config = $1"
    try:
        predicate = compile_filter(HOST, config.selector, start=2, now=datetime.now(UTC), selector=True)
    except FilterError as error:
        log.error("a config's selector can't be used", extra={"key": config.id, "error": str(error)})
        predicate = None
    if config.deleted or predicate is None:
        return [row["id"] for row in await connection.fetch(having, config.id)]
    selected = f"SELECT r.id FROM {source(HOST)} WHERE r.current_state = 'onboarded' AND ({predicate.sql})"
    return [row["id"] for row in await connection.fetch(f"{having} UNION {selected}", config.id, *predicate.params)]


async def placed(connection: Connection, hosts: Sequence[str]) -> dict[str, list[Placed]]:
    found: dict[str, list[Placed]] = {host: [] for host in hosts}
    for r in await connection.fetch(SQL["placed_configs"], list(hosts)):
        row = Placed(
            r["id"], r["host"], r["config"], r["digest"], tuple(loads(r["paths"])), tuple(loads(r["shadowed"])), r["desired_state"]
        )
        found[row.host].append(row)
    return found


@dataclass(frozen=True, slots=True)
class Stray:
    """What a device has and no host-config asks for. `read_at`: now, by the database's clock."""

    id: str
    host: str
    generation: int
    read_at: datetime


async def strays(connection: Connection, ids: Sequence[str]) -> dict[str, Stray]:
    """Those of these ids that are to be removed from a connected device now."""
    if not ids:
        return {}
    rows = await connection.fetch(SQL["stray_items"], list(ids))
    return {row["id"]: Stray(row["id"], row["host"], row["generation"], row["now"]) for row in rows}


async def views(connection: Connection, ids: Sequence[str]) -> dict[str, View]:
    """Those of the host-configs that exist."""
    return {row["id"]: _view(row) for row in await connection.fetch(SQL["host_config_views"], list(ids))}


def _config(row: Any) -> Config:
    return Config(
        id=row["id"],
        name=row["name"],
        version=row["version"],
        generation=row["generation"],
        selector=row["selector"],
        priority=row["priority"],
        files=tuple(loads(row["files"])),
        on_change=loads(row["on_change"]),
        created_at=row["created_at"],
        deleted=row["deleted_at"] is not None,
    )


def _view(row: Any) -> View:
    return View(
        id=row["id"],
        host=row["host"],
        host_name=row["host_name"],
        host_state=row["host_state"],
        online=row["presence"] in ("online", "stale"),
        locked=(loads(row["policy"]) or {}).get("maintenance"),
        config=row["config"],
        config_name=row["config_name"],
        desired_state=row["desired_state"],
        current_state=row["current_state"],
        generation=row["generation"],
        digest=row["digest"],
        paths=tuple(loads(row["paths"])),
        reported=_report(loads(row["reported"])),
        command=None if row["command_id"] is None else _command(row),
        read_at=row["now"],
    )


def _report(said: Mapping[str, Any] | None) -> Report | None:
    if said is None:
        return None
    return Report(
        generation=said.get("generation", 0),
        state=said.get("state", ""),
        digest=said.get("digest"),
        reason=said.get("reason") or "",
        message=said.get("message") or "",
        at=datetime.fromisoformat(said["at"]),
    )


def _command(row: Any) -> CommandView:
    generation = (loads(row["resource"]) or {}).get("generation", 0)
    return CommandView(row["command_id"], row["verb"], row["state"], generation, loads(row["result"]), row["commanded_at"])

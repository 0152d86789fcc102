"""What the statements that the product builds at run time do to a `Memory`: resource rows read and written, by the text's shape.

The named statements are in `statements`. A text that fits no shape fails loudly, so that a new one is not forgotten.
"""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import asyncpg

from inventory import applying
from inventory.bulk import _defaults
from inventory.db import loads
from inventory.kind import Kind, Scalar
from inventory.kinds import BY_NAME
from inventory.kinds.host import HOST
from inventory.resource import column, select_list, source, time_text
from inventory.secret_field import MARKS_NOW
from inventory.writer import _write_list
from tests.simulation.memory import Memory, Row
from tests.simulation.statements import Model, Rows, json_text, member

Build = Callable[[re.Match[str]], Model]
SHAPES: list[tuple[re.Pattern[str], Build]] = []
TABLE_OF = {kind.table: kind for kind in BY_NAME.values()}


def shape(pattern: str) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        SHAPES.append((re.compile(pattern, re.DOTALL), build))
        return build

    return register


def model_of(sql: str) -> Model | None:
    """The model of a text of a known shape."""
    if sql in _FIXED:
        return _FIXED[sql]
    for pattern, build in SHAPES:
        if found := pattern.fullmatch(sql):
            return build(found)
    return None


# --- reading resources --------------------------------------------------------------------------------------------------------


@cache
def _fields(kind_name: str, single: bool, writing: bool) -> tuple[tuple[str, bool], ...]:
    """The columns of a read by name, and whether each is computed."""
    kind = BY_NAME[kind_name]
    wanted = (f for f in kind.fields if not (writing and f.computed and f.restless) and (single or writing or not f.single_only))
    return tuple((f.name, bool(f.column)) for f in wanted)


def resource(m: Memory, kind: Kind, row: Row, *, single: bool = False, writing: bool = False) -> Row:
    """A row as `select_list` (or, for writing, `_write_list`) reads it."""
    return {n: _computed(m, row, n) if computed else row[n] for n, computed in _fields(kind.name, single, writing)}


def _computed(m: Memory, host: Row, name: str) -> Any:
    id = host["id"]
    match name:
        case "effective_labels":
            return (m["host_labels"].get(id) or {"labels": None})["labels"]
        case "last_seen":
            return (m["device_liveness"].get(id) or {"last_seen": None})["last_seen"]
        case "certificate_expires_at":
            return (m["device_identity"].get(id) or {"expires_at": None})["expires_at"]
        case "pending":
            placed = (row for row in m["host_config"].rows.values() if row["host"] == id)
            return sum(member(row["status"], "indicator") != "idle" for row in placed)
        case "enrollment":
            return _came(m["device_identity"].get(id))
        case "secrets":
            return "{}"
        case "facts":
            sections = [row for row in m["host_facts"].rows.values() if row["host"] == id]
            return "{" + ",".join(f'"{row["section"]}":{row["data"]}' for row in sections) + "}" if sections else None
    raise NotImplementedError(f"host.{name} is computed by SQL that has no model")


def _came(identity: Row | None) -> str | None:
    """`inventory.kinds.host.ENROLLMENT`; nobody waits in these worlds."""
    if identity is None:
        return None
    known = {name: identity[name] for name in ("token", "fingerprint")}
    evidence = json.loads(identity["evidence"])
    return json.dumps({"waiting": False, **known, "evidence": evidence, "since": time_text(identity["created_at"])})


def _by_ref(m: Memory, kind: Kind, ref: str) -> Row | None:
    rows = m[kind.table].rows
    return rows.get(ref) or next((row for row in rows.values() if row["name"] == ref), None)


def _many(kind: Kind, writing: bool) -> Model:
    return lambda m, ids: [resource(m, kind, row, writing=writing) for row in m[kind.table].of(ids)]


def _one(kind: Kind, single: bool, writing: bool) -> Model:
    def read(m: Memory, ref: str) -> Rows:
        row = _by_ref(m, kind, ref)
        return [] if row is None else [resource(m, kind, row, single=single, writing=writing)]

    return read


def _reads() -> dict[str, Model]:
    found: dict[str, Model] = {}
    for kind in BY_NAME.values():
        written, from_ = _write_list(kind), source(kind)
        for lock in ("", " FOR UPDATE OF r"):
            found[f"SELECT {written} FROM {from_} WHERE r.id = ANY ($1::text[]) ORDER BY r.id{lock}"] = _many(kind, True)
        by_ref = "WHERE r.id = $1 OR r.name = $1 ORDER BY r.id = $1 DESC LIMIT 1"
        found[f"SELECT {written} FROM {from_} {by_ref} FOR UPDATE OF r"] = _one(kind, False, True)
        found[f"SELECT {select_list(kind, single=True)} FROM {from_} {by_ref}"] = _one(kind, True, False)
    return found


def _read_hosts(m: Memory, ids: Sequence[str]) -> Rows:
    found = []
    for row in m["host"].of(ids):
        seen = {f.name: _computed(m, row, f.name) if f.column else row[f.name] for f in applying.TEMPLATE_FIELDS}
        labels = _computed(m, row, "effective_labels")
        found.append(seen | {"now": row["current_state"], "in_effect": row["labels"] if labels is None else labels})
    return found


def _read_hosts_text() -> str:
    columns = ", ".join(f'{column(f)} AS "{f.name}"' for f in applying.TEMPLATE_FIELDS)
    beside = 'r.current_state AS "now", coalesce(hl.labels, r.labels) AS "in_effect"'
    return f"SELECT {columns}, {beside} FROM {source(HOST)} WHERE r.id = ANY ($1::text[])"


# --- reading what is not a whole resource ---------------------------------------------------------------------------------------


@shape(r'SELECT ([\w, ]+|\*) FROM "?(\w+)"? WHERE (\w+) = ANY \(\$1::text\[\]\)(?: ORDER BY \w+)?(?: FOR UPDATE)?')
def _some_columns(found: re.Match[str]) -> Model:
    names, table, by = found[1], found[2], found[3]
    if names == "1":
        return lambda m, wanted: [{"?column?": 1} for row in m[table].rows.values() if row[by] in wanted]
    if names == "*":
        return lambda m, wanted: [dict(row) for row in m[table].of(m[table].rows) if row[by] in wanted]
    chosen = names.split(", ")
    return lambda m, wanted: [{n: row[n] for n in chosen} for row in m[table].of(m[table].rows) if row[by] in wanted]


@shape(r'SELECT ((?!host AS)[\w, ]+) FROM "?(\w+)"? WHERE "?(\w+)"? = \$1(?: ORDER BY \w+(?: LIMIT \d+)?)?')
def _by_equality(found: re.Match[str]) -> Model:
    chosen, table, by = found[1].split(", "), found[2], found[3]
    if table not in _MODELLED:
        return lambda m, wanted: []  # kinds of which no simulated world has rows
    return lambda m, wanted: [{n: row[n] for n in chosen} for row in m[table].of(m[table].rows) if row[by] == wanted]


_MODELLED = frozenset({"host", "config", "host_config", "command", "notification", "component", "cursors"})


@shape(r"SELECT r\.id, array_remove\(ARRAY\[(.*)\]::text\[\], NULL\) AS configs FROM .* WHERE r\.id = ANY \(\$1::text\[\]\)")
def _match(found: re.Match[str]) -> Model:
    picks = found[1]
    each = re.findall(r"CASE WHEN (TRUE|hl\.labels @> \$(\d+)::text::jsonb) THEN \(\$2::text\[\]\)\[(\d+)\] END", picks)
    assert len(each) == picks.count("CASE WHEN"), f"a selector has no model: {picks}"

    def match(m: Memory, hosts: Sequence[str], configs: Sequence[str], *params: str) -> Rows:
        rows = []
        for host in m["host"].of(hosts):
            labels = _computed(m, host, "effective_labels")
            fits = [configs[int(n) - 1] for _, p, n in each if not p or _contains(labels, params[int(p) - 3])]
            rows.append({"id": host["id"], "configs": fits})
        return rows

    return match


def _contains(labels: str | None, wanted: str) -> bool:
    have = loads(labels) or {}
    return all(have.get(key) == value for key, value in loads(wanted).items())


@shape(
    r"SELECT host AS id FROM host_config WHERE config = \$1 UNION SELECT r\.id FROM .* WHERE r\.current_state = 'onboarded' "
    r"AND \((TRUE|hl\.labels @> \$2::text::jsonb)\)"
)
def _concerned(found: re.Match[str]) -> Model:
    def concerned(m: Memory, config: str, wanted: str = "{}") -> Rows:
        having = [row["host"] for row in m["host_config"].rows.values() if row["config"] == config]
        onboarded = (host for host in m["host"].rows.values() if host["current_state"] == "onboarded")
        selected = [host["id"] for host in onboarded if _contains(_computed(m, host, "effective_labels"), wanted)]
        return [{"id": id} for id in dict.fromkeys([*having, *selected])]

    return concerned


@shape(r"SELECT host AS id FROM host_config WHERE config = \$1")
def _having(found: re.Match[str]) -> Model:
    return lambda m, config: [{"id": row["host"]} for row in m["host_config"].rows.values() if row["config"] == config]


@shape(r"SELECT name FROM \"(\w+)\" WHERE name = \$1 OR starts_with\(name, \$2 \|\| '-'\)")
def _names(found: re.Match[str]) -> Model:
    table = found[1]
    return lambda m, wanted, stem: [
        {"name": row["name"]} for row in m[table].rows.values() if row["name"] == wanted or row["name"].startswith(f"{stem}-")
    ]


@shape(r"SELECT id FROM host_config WHERE \"(config|host)\" = \$1 AND status->>'indicator' = 'error' ORDER BY id")
def _in_error(found: re.Match[str]) -> Model:
    by = found[1]
    return lambda m, id: [
        {"id": row["id"]}
        for row in m["host_config"].of(m["host_config"].rows)
        if row[by] == id and member(row["status"], "indicator") == "error"
    ]


# --- writing resources --------------------------------------------------------------------------------------------------------


@shape(r'UPDATE "(\w+)" r SET version = v\.version, updated_at = \$3, (.*) FROM .* AS v \((.*)\) WHERE r\.id = v\.id')
def _update_many(found: re.Match[str]) -> Model:
    table, names, rises = found[1], re.findall(r'"(\w+)"', found[3]), "generation = r.generation + 1" in found[2]

    def update(m: Memory, ids: Sequence[str], versions: Sequence[int], at: datetime, *columns: Sequence[Any]) -> Rows:
        for id, version, *values in zip(ids, versions, *columns, strict=True):
            if (row := m[table].get(id)) is not None:
                new = dict(zip(names, values, strict=True)) | {"generation": row["generation"] + rises}
                m[table].change(id, **new, version=version, updated_at=at)
        return []

    return update


@shape(r'INSERT INTO "(\w+)" \(([^)]*)\) SELECT .* FROM unnest\(.*\) AS v \(.*\)')
def _insert_many(found: re.Match[str]) -> Model:
    kind, names = TABLE_OF[found[1]], re.findall(r'"(\w+)"', found[2])

    def insert(m: Memory, *columns: Sequence[Any]) -> Rows:
        for values in zip(*columns, strict=True):
            insert_row(m, kind, dict(zip(names, values, strict=True)), encoded=True)
        return []

    return insert


_REFERRING = {"host-config": ("host", "config"), "command": ("host",)}
"""Columns that name a row of the table of their own name."""


def insert_row(m: Memory, kind: Kind, values: Row, *, encoded: bool = False) -> Row:
    """A row with the defaults of its model. Raises UniqueViolationError, ForeignKeyViolationError. `encoded`: JSON is text already."""
    json = {f.name for f in kind.fields if f.scalar in (Scalar.JSON, Scalar.LABELS)}
    defaults = {n: json_text(v) if n in json else v for n, v in _defaults(kind.name).items()}
    row = defaults | (values if encoded else {n: json_text(v) if n in json else v for n, v in values.items()})
    if row["id"] in m[kind.table].rows or any(other["name"] == row["name"] for other in m[kind.table].rows.values()):
        raise asyncpg.UniqueViolationError(f'duplicate key value violates unique constraint "{kind.table}_name_key"')
    if kind.name == "host-config" and any(
        (other["host"], other["config"]) == (row["host"], row["config"]) for other in m["host_config"].rows.values()
    ):
        raise asyncpg.UniqueViolationError('duplicate key value violates unique constraint "uid_host_config"')
    for name in _REFERRING.get(kind.name, ()):
        if row[name] not in m[name].rows:
            raise asyncpg.ForeignKeyViolationError(f'insert on table "{kind.table}" violates foreign key constraint: {name} {row[name]}')
    m[kind.table].put(row["id"], row)
    return row


def update_row(m: Memory, kind: Kind, id: str, values: Row) -> None:
    json = {f.name for f in kind.fields if f.scalar in (Scalar.JSON, Scalar.LABELS)}
    if id in m[kind.table].rows:
        m[kind.table].change(id, **{n: json_text(v) if n in json else v for n, v in values.items()})


HANGING_ON_A_HOST = ("host_labels", "device_liveness", "device_stream", "device_identity", "device_trust", "host_facts", "device_log")


def delete_row(m: Memory, kind: Kind, id: str) -> None:
    m[kind.table].drop(id)
    if kind.name == "host":
        for table in HANGING_ON_A_HOST:
            for key in [key for key, row in m[table].rows.items() if row["host"] == id]:
                m[table].drop(key)


# --- sequences, locks, cursors --------------------------------------------------------------------------------------------------


def _cursor_moves(m: Memory, name: str, at: int, to: int) -> Rows:
    row = m["cursors"].get(name)
    if row is None or row["position"] != at:
        return []
    m["cursors"].change(name, position=to)
    return [{"?column?": 1}]


def _drop_work(m: Memory, manager: str, keys: Sequence[str] | str) -> Rows:
    for key in [keys] if isinstance(keys, str) else keys:
        m["work"].drop((manager, key))
    return []


def _relay_idles(m: Memory) -> Rows:
    if not m["relay"].rows[1]["idle"]:
        m["relay"].change(1, idle=True)
    return []


def _notify(m: Memory, position: str) -> Rows:
    m.notified.append(("changes", position))
    return [{"pg_notify": None}]


def _lease_fence(m: Memory, manager: str, key: str) -> Rows:
    row = m["work"].get((manager, key))
    stands = row is not None and row["lease_until"] is not None and row["lease_until"] > m.clock()
    return [{"fence": row["fence"]}] if row is not None and stands else []


def _replica_goes(m: Memory, name: str) -> Rows:
    m["ingest_replica"].drop(name)
    return []


def _yes(m: Memory, *_: Any) -> Rows:
    return [{"pg_try_advisory_xact_lock": True}]


def _drop_strays(m: Memory, ids: Sequence[str]) -> list[Row]:
    for id in ids:
        m["strays"].drop(id)
    return []


_FIXED: dict[str, Model] = {
    **_reads(),
    _read_hosts_text(): _read_hosts,
    MARKS_NOW: lambda m, id: [{"coalesce": "{}"}],
    "SELECT nextval('versions')": lambda m: [{"nextval": m.next("versions")}],
    "SELECT nextval('versions') AS version FROM generate_series(1, $1::int)": lambda m, n: [
        {"version": m.next("versions")} for _ in range(n)
    ],
    "SELECT pg_try_advisory_xact_lock($1)": _yes,
    "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))": lambda m, text: [{"pg_advisory_xact_lock": None}],
    "SELECT position, hash FROM relay": lambda m: [{n: m["relay"].rows[1][n] for n in ("position", "hash")}],
    "SELECT position, floor FROM relay": lambda m: [{n: m["relay"].rows[1][n] for n in ("position", "floor")}],
    "SELECT EXISTS (SELECT 1 FROM log_gaps WHERE after < $1 AND $1 < before)": lambda m, at: [
        {"exists": any(gap["after"] < at < gap["before"] for gap in m["log_gaps"].rows.values())}
    ],
    "DELETE FROM strays WHERE id = ANY ($1::text[])": _drop_strays,
    "SELECT position FROM relay": lambda m: [{"position": m["relay"].rows[1]["position"]}],
    "SET LOCAL synchronous_commit = off": lambda m: [],
    "UPDATE relay SET idle = true WHERE NOT idle": _relay_idles,
    "SELECT EXISTS (SELECT 1 FROM changes_in)": lambda m: [{"exists": bool(m["changes_in"].rows)}],
    "SELECT pg_notify('changes', $1)": _notify,
    "UPDATE cursors SET position = $3 WHERE name = $1 AND position = $2 RETURNING 1": _cursor_moves,
    "DELETE FROM work WHERE manager = $1 AND key = ANY ($2::text[])": _drop_work,
    "DELETE FROM work WHERE manager = $1 AND key = $2": _drop_work,
    "SELECT fence FROM work WHERE manager = $1 AND key = $2 AND lease_until > clock_timestamp() FOR UPDATE": _lease_fence,
    "SELECT id, version FROM config": lambda m: [{"id": r["id"], "version": r["version"]} for r in m["config"].rows.values()],
    "DELETE FROM ingest_replica WHERE name = $1": _replica_goes,
}

"""What each named statement of `inventory/queries.sql` does to a `Memory`: a model of its meaning, one function a statement.

They say what the SQL says and decide nothing of their own; `test_statements` replays what simulated worlds asked on a real Postgres and
compares. Only statements that a simulated process asks for are here: any other one fails loudly. JSON is text, as asyncpg hands it over.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from broker.topics import shard_of
from inventory.db import SQL, dumps, loads
from tests.simulation.memory import Memory, Row

Rows = list[Row]
Model = Callable[..., Rows]

MODELS: dict[str, Model] = {}
"""By the statement's text."""

ACTIVE = ("queued", "sent", "accepted", "running")
LISTENING = ("online", "stale")


def models(name: str) -> Callable[[Model], Model]:
    def register(model: Model) -> Model:
        MODELS[SQL[name]] = model
        return model

    return register


@lru_cache(maxsize=4096)
def member(text: str | None, name: str) -> Any:
    """`text->>'name'`, as Python has it."""
    value = loads(text)
    return value.get(name) if value else None


def _seconds(amount: float) -> timedelta:
    return timedelta(seconds=amount)


def _pick(row: Row, *names: str) -> Row:
    return {name: row[name] for name in names}


def _least(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((at for at in (one, other) if at is not None), default=None)


# --- the change log -----------------------------------------------------------------------------------------------------------

CHANGE = ("kind", "resource_id", "op", "version", "generation", "changed", "resource", "before", "host", "actor", "at")


@models("append_changes")
def append_changes(m: Memory, *columns: Sequence[Any]) -> Rows:
    for values in zip(*columns, strict=True):
        id = m.next("changes_in")
        m["changes_in"].put(id, {"id": id, **dict(zip(CHANGE, values, strict=True))})
    if not m["relay"].rows[1]["idle"]:
        return []
    m.notified.append(("changes_in", ""))
    return [{"pg_notify": None}]


@models("take_changes")
def take_changes(m: Memory, limit: int) -> Rows:
    taken = [m["changes_in"].rows[id] for id in sorted(m["changes_in"].rows)[:limit]]
    for row in taken:
        m["changes_in"].drop(row["id"])
    return taken


@models("place_changes")
def place_changes(m: Memory, positions: Sequence[int], *columns: Sequence[Any]) -> Rows:
    for position, *values in zip(positions, *columns, strict=True):
        m["changes"].put(position, {"position": position, **dict(zip((*CHANGE, "hash"), values, strict=True))})
    return []


@models("advance_relay")
def advance_relay(m: Memory, position: int, hash: bytes) -> Rows:
    m["relay"].change(1, position=position, hash=hash, idle=False)
    return []


@models("read_changes")
def read_changes(m: Memory, after: int, upto: int, kinds: Sequence[str] | None, ids: Sequence[str] | None, limit: int) -> Rows:
    found = (m["changes"].rows[position] for position in range(after + 1, upto + 1) if position in m["changes"].rows)
    asked = [row for row in found if (kinds is None or row["kind"] in kinds) and (ids is None or row["resource_id"] in ids)]
    return asked[:limit]


@models("save_cursor")
def save_cursor(m: Memory, name: str, position: int) -> Rows:
    m["cursors"].put(name, {"name": name, "position": position})
    return []


# --- labels -------------------------------------------------------------------------------------------------------------------


@models("effective_labels")
def effective_labels(m: Memory, hosts: Sequence[str]) -> Rows:
    """Of hosts at no site: simulated worlds have none."""
    found = []
    for host in m["host"].of(hosts):
        stored = m["host_labels"].get(host["id"])
        found.append({"id": host["id"], "wanted": host["labels"], "stored": stored["labels"] if stored else None})
    return found


@models("store_labels")
def store_labels(m: Memory, hosts: Sequence[str], labels: Sequence[str]) -> Rows:
    for host, text in zip(hosts, labels, strict=True):
        m["host_labels"].put(host, {"host": host, "labels": text})
    return []


# --- the work queue -----------------------------------------------------------------------------------------------------------

WORK = {
    "attempts": 0,
    "halted": False,
    "again": 0,
    "backoff": False,
    "last_error": None,
    "lease_owner": None,
    "lease_until": None,
    "fence": 0,
}


@models("trigger_work")
def trigger_work(m: Memory, manager: str, keys: Sequence[str], strength: int, delay: timedelta, now: datetime | None, lane: int) -> Rows:
    at = now or m.clock()
    for key in sorted(keys):
        known = m["work"].get((manager, key))
        if known is None:
            m["work"].put((manager, key), {"manager": manager, "key": key, "due_at": at + delay, "queued_at": at, "lane": lane, **WORK})
        elif _hears(known, strength, at + delay, lane):
            m["work"].put((manager, key), _triggered(known, strength, at + delay) | {"lane": min(known["lane"], lane)})
    return []


def _hears(row: Row, strength: int, due_at: datetime, lane: int) -> bool:
    if row["lease_until"] is not None:
        return bool(row["again"] < strength or row["lane"] > lane)
    if strength == 3:
        return True
    if row["halted"] or (row["backoff"] and strength < 2):
        return False
    return bool(row["due_at"] is None or row["due_at"] > due_at or row["backoff"] or row["lane"] > lane)


def _triggered(row: Row, strength: int, due_at: datetime) -> Row:
    if row["lease_until"] is not None:
        return row | {"again": max(row["again"], strength)}
    after = row | {"again": 0, "due_at": _least(row["due_at"], due_at), "backoff": row["backoff"] and strength < 2}
    return after | ({"attempts": 0, "last_error": None, "halted": False} if strength == 3 else {})


def _claimable(row: Row, now: datetime) -> bool:
    due = not row["halted"] and row["due_at"] is not None and _past(row["due_at"], now)
    return due and (row["lease_until"] is None or _past(row["lease_until"], now))


def _past(at: datetime, now: datetime) -> bool:
    """Or so far ahead that only a wrong clock can have said so."""
    return at <= now or at > now + timedelta(hours=1)


@models("claim_work")
def claim_work(m: Memory, manager: str, limit: int, owner: str, lease: timedelta, now: datetime | None, prompt: int) -> Rows:
    at = now or m.clock()
    due = sorted((r for r in m["work"].rows.values() if r["manager"] == manager and _claimable(r, at)), key=lambda r: r["due_at"])
    first = [row for row in due if row["lane"] == 0][:prompt]
    found = []
    for row in first + [row for row in due if row["lane"] == 1][: limit - len(first)]:
        fence = m.next("work_fences")
        fresh = {"attempts": 0, "last_error": None} if row["again"] == 3 else {}
        after = row | {"lease_owner": owner, "lease_until": at + lease, "fence": fence, "again": 0, "backoff": False} | fresh
        m["work"].put((manager, row["key"]), after)
        waited = max(0.0, (at - row["due_at"]).total_seconds())
        found.append(_pick(after, "key", "attempts", "fence") | {"waited_s": waited})
    return found


def _standing(m: Memory, manager: str, keys: Sequence[str], fences: Sequence[int]) -> Rows:
    rows = (m["work"].get((manager, key)) for key in keys)
    pairs = zip(rows, fences, strict=True)
    return [row for row, fence in pairs if row is not None and row["fence"] == fence and row["lease_until"] is not None]


@models("renew_work")
def renew_work(m: Memory, manager: str, keys: Sequence[str], fences: Sequence[int], lease: timedelta, now: datetime | None) -> Rows:
    for row in _standing(m, manager, keys, fences):
        m["work"].change((manager, row["key"]), lease_until=(now or m.clock()) + lease)
    return []


@models("release_work")
def release_work(m: Memory, manager: str, keys: Sequence[str], fences: Sequence[int], delay: timedelta, now: datetime | None) -> Rows:
    for row in _standing(m, manager, keys, fences):
        fresh = {"attempts": 0, "last_error": None} if row["again"] == 3 else {}
        free = {"lease_owner": None, "lease_until": None, "again": 0, "due_at": (now or m.clock()) + delay}
        m["work"].put((manager, row["key"]), row | free | fresh)
    return []


@models("hold_work")
def hold_work(m: Memory, manager: str, keys: Sequence[str], fences: Sequence[int], now: datetime | None) -> Rows:
    held = sorted(_standing(m, manager, keys, fences), key=lambda row: str(row["key"]))
    return [_pick(row, "key", "fence", "attempts", "again", "last_error", "lane") | {"now": now or m.clock()} for row in held]


@models("leave_work")
def leave_work(m: Memory, manager: str, *columns: Sequence[Any]) -> Rows:
    for key, due_at, attempts, halted, backoff, last_error in zip(*columns, strict=True):
        if (manager, key) in m["work"].rows:
            left = {"due_at": due_at, "attempts": attempts, "halted": halted, "backoff": backoff, "last_error": last_error}
            m["work"].change((manager, key), **left, again=0, lease_owner=None, lease_until=None)
    return []


@models("due_work")
def due_work(m: Memory, managers: Sequence[str], now: datetime | None) -> Rows:
    at = now or m.clock()
    due = {row["manager"] for row in m["work"].rows.values() if _claimable(row, at)}
    return [{"manager": manager} for manager in managers if manager in due]


@models("work_in_hand")
def work_in_hand(m: Memory, manager: str) -> Rows:
    held = (row["key"] for row in m["work"].rows.values() if row["manager"] == manager and row["lease_until"] is not None)
    return [{"key": key} for key in sorted(held)]


# --- enrollment ---------------------------------------------------------------------------------------------------------------


@models("add_identity")
def add_identity(
    m: Memory, host: str, print_: str, certificate: str, serial: str, expires_at: datetime, evidence: str, token: str, now: datetime
) -> Rows:
    row = {
        "host": host,
        "fingerprint": print_,
        "incarnation": 1,
        "certificate": certificate,
        "certificate_serial": serial,
        "expires_at": expires_at,
        "fence": 0,
        "evidence": evidence,
        "token": token,
        "created_at": now,
        "revoked_at": None,
    }
    m["device_identity"].put(host, row)
    return [_pick(row, "host", "incarnation", "certificate")]


@models("add_stream")
def add_stream(m: Memory, host: str) -> Rows:
    blank = dict.fromkeys(("epoch", "session", "session_since", "boot_id", "resync_at"))
    numbers = {"seq": 0, "keepalive_s": 30, "heartbeat_s": 30, "flaps": 0}
    m["device_stream"].put(host, {"host": host, "retired": "[]", "retired_epochs": "[]", **numbers, **blank})
    return []


# --- configs and hosts --------------------------------------------------------------------------------------------------------


@models("host_config_views")
def host_config_views(m: Memory, ids: Sequence[str]) -> Rows:
    found = []
    names = ("id", "host", "config", "desired_state", "current_state", "generation", "digest", "paths", "reported")
    for row in m["host_config"].of(ids):
        host, config = m["host"].rows[row["host"]], m["config"].rows[row["config"]]
        command = m["command"].get(row["command"]) or dict.fromkeys(("id", "verb", "state", "resource", "result", "created_at"))
        beside = {"host_name": host["name"], "presence": host["presence"], "host_state": host["current_state"], "policy": host["policy"]}
        beside |= {"config_name": config["name"], "config_version": config["version"], "command_id": command["id"]}
        beside |= _pick(command, "verb", "state", "resource", "result") | {"commanded_at": command["created_at"], "now": m.clock()}
        found.append(_pick(row, *names) | beside)
    return found


@models("placed_configs")
def placed_configs(m: Memory, hosts: Sequence[str]) -> Rows:
    names = ("id", "host", "config", "digest", "paths", "shadowed", "desired_state")
    return [_pick(row, *names) for row in m["host_config"].of(m["host_config"].rows) if row["host"] in hosts]


@models("configs")
def configs(m: Memory, ids: Sequence[str]) -> Rows:
    """Those of simulated worlds have no secrets."""
    return [dict(row) | {"sealed": None} for row in m["config"].of(ids)]


@models("drop_secrets")
def drop_secrets(m: Memory, owner: str, names: Sequence[str]) -> Rows:
    return []


@models("unsettled_host_configs")
def unsettled_host_configs(m: Memory, hosts: Sequence[str]) -> Rows:
    rows = m["host_config"].rows.values()
    return [{"key": row["id"]} for row in rows if row["host"] in hosts and member(row["status"], "indicator") != "idle"]


@models("refused_host_configs")
def refused_host_configs(m: Memory, hosts: Sequence[str]) -> Rows:
    refused = ("PolicyRefused", "PathOutsideRoots")
    return [
        {"key": row["id"]} for row in m["host_config"].rows.values() if row["host"] in hosts and member(row["status"], "reason") in refused
    ]


@models("scan_host_configs")
def scan_host_configs(m: Memory) -> Rows:
    return [{"key": row["id"]} for row in m["host_config"].rows.values() if _wants_a_look(m, row)]


def _wants_a_look(m: Memory, row: Row) -> bool:
    host = m["host"].rows[row["host"]]
    if host["presence"] not in LISTENING or host["current_state"] != "onboarded" or member(row["status"], "halted"):
        return False
    settled = member(row["status"], "indicator") == "idle" and row["observed_generation"] == row["generation"]
    if settled and member(row["reported"], "state") == "present" and member(row["reported"], "digest") == row["digest"]:
        return False
    work = m["work"].get(("host-config", row["id"]))
    command = m["command"].get(row["command"])
    queued = work is not None and (work["due_at"] is not None or work["halted"])
    return not queued and not (command is not None and command["state"] in ACTIVE)


@models("stray_items")
def stray_items(m: Memory, ids: Sequence[str]) -> Rows:
    found = []
    for row in m["strays"].of(ids):
        host = m["host"].rows[row["host"]]
        there = host["presence"] in LISTENING and host["current_state"] == "onboarded" and m["host_config"].get(row["id"]) is None
        commands = [c for c in m["command"].rows.values() if member(c["resource"], "id") == row["id"]]
        young = [c for c in commands if c["state"] in ACTIVE or c["created_at"] > m.now - timedelta(minutes=10)]
        if there and not young:
            found.append(_pick(row, "id", "host", "generation") | {"now": m.clock()})
    return found


@models("scan_strays")
def scan_strays(m: Memory) -> Rows:
    rows = (row for row in m["strays"].rows.values() if m["host"].rows[row["host"]]["presence"] in LISTENING)
    return [{"key": row["id"]} for row in rows if m["work"].get(("host-config", row["id"])) is None]


@models("scan_configs")
def scan_configs(m: Memory) -> Rows:
    return [{"key": row["id"]} for row in m["config"].rows.values() if row["deleted_at"] is not None]


@models("scan_placements")
def scan_placements(m: Memory) -> Rows:
    onboarded = [row["id"] for row in m["host"].rows.values() if row["current_state"] == "onboarded"]
    return [{"key": key} for key in dict.fromkeys([*onboarded, *(row["host"] for row in m["host_config"].rows.values())])]


@models("scan_hosts")
def scan_hosts(m: Memory) -> Rows:
    return [{"key": row["id"]} for row in m["host"].rows.values() if row["desired_state"] != row["current_state"]]


@models("host_lives")
def host_lives(m: Memory, ids: Sequence[str]) -> Rows:
    names = ("id", "name", "desired_state", "current_state", "generation")
    return [_pick(row, *names) | {"enrolled": _enrolled(m, row["id"]), "waiting": False} for row in m["host"].of(ids)]


def _enrolled(m: Memory, host: str) -> bool:
    identity = m["device_identity"].get(host)
    return identity is not None and identity["revoked_at"] is None


def _heard(m: Memory, host: str) -> bool:
    return _enrolled(m, host) and not _distrusted(m["host"].rows[host])


def _distrusted(host: Row) -> bool:
    return host["desired_state"] in ("untrusted", "deleted")


# --- dispatch -----------------------------------------------------------------------------------------------------------------


@models("due_commands")
def due_commands(m: Memory, now: datetime | None, limit: int) -> Rows:
    at = now or m.clock()
    due = [row for row in m["command"].rows.values() if row["state"] in ACTIVE and row["due_at"] is not None and _is_due(row, at)]
    return [_due_command(m, row, at) for row in sorted(due, key=lambda row: row["due_at"])[:limit]]


def _is_due(row: Row, at: datetime) -> bool:
    return bool(row["due_at"] <= at or (row["state"] in ("queued", "sent") and row["due_at"] > at + timedelta(minutes=1)))


def _due_command(m: Memory, row: Row, at: datetime) -> Row:
    order = _pick(row, "id", "host", "verb", "args", "resource", "state", "attempt", "timeout_s", "not_after", "first_fence", "sealed")
    host, stream = m["host"].rows[row["host"]], m["device_stream"].get(row["host"])
    state = host["desired_state"] if _distrusted(host) else host["current_state"]
    beside = {"presence": host["presence"], "host_state": state, "session": stream["session"] if stream else None}
    return order | _pick(row, "sends", "sent_session") | beside | {"enrolled": _enrolled(m, row["host"]), "now": at}


@models("rouse_commands")
def rouse_commands(m: Memory, now: datetime | None) -> Rows:
    at, found = now or m.clock(), []
    for row in list(m["command"].rows.values()):
        later = row["due_at"] is not None and row["due_at"] > at
        if later and (_has_another_session(m, row) or _is_not_to_get(m, row)):
            m["command"].change(row["id"], due_at=at)
            found.append({"id": row["id"]})
    return found


def _has_another_session(m: Memory, command: Row) -> bool:
    session = (m["device_stream"].get(command["host"]) or {}).get("session")
    sent = command["state"] in ("sent", "accepted", "running")
    return sent and None not in (session, command["sent_session"]) and session != command["sent_session"]


def _is_not_to_get(m: Memory, command: Row) -> bool:
    identity = m["device_identity"].get(command["host"])
    revoked = identity is not None and identity["revoked_at"] is not None
    return command["state"] in ("queued", "sent") and (revoked or _distrusted(m["host"].rows[command["host"]]))


@models("take_fences")
def take_fences(m: Memory, hosts: Sequence[str], counts: Sequence[int]) -> Rows:
    found = []
    for host, count in zip(hosts, counts, strict=True):
        if (known := m["device_identity"].get(host)) is not None:
            found.append(_pick(m["device_identity"].change(host, fence=known["fence"] + count), "host", "fence"))
    return found


@models("commands_sent")
def commands_sent(
    m: Memory, ids: Sequence[str], sessions: Sequence[str], dues: Sequence[datetime], fences: Sequence[int], now: datetime
) -> Rows:
    for id, session, due_at, fence in zip(ids, sessions, dues, fences, strict=True):
        if (row := m["command"].get(id)) is not None:
            state = "sent" if row["state"] == "queued" else row["state"]
            sent = {"sent_at": now, "sends": row["sends"] + 1, "sent_session": session, "first_fence": row["first_fence"] or fence}
            m["command"].change(id, state=state, due_at=due_at, **sent)
    return []


@models("commands_wait")
def commands_wait(m: Memory, ids: Sequence[str], dues: Sequence[datetime]) -> Rows:
    for id, due_at in zip(ids, dues, strict=True):
        if id in m["command"].rows:
            m["command"].change(id, due_at=due_at)
    return []


# --- ingest -------------------------------------------------------------------------------------------------------------------


@models("device_keys")
def device_keys(m: Memory, hosts: Sequence[str]) -> Rows:
    return [_pick(row, "host", "incarnation") for row in m["device_identity"].of(hosts) if _heard(m, row["host"])]


@models("lock_streams")
def lock_streams(m: Memory, hosts: Sequence[str]) -> Rows:
    rows = (row for row in m["device_stream"].of(hosts) if _heard(m, row["host"]))
    return [
        {n: v for n, v in row.items() if n != "resync_at"} | _pick(m["device_identity"].rows[row["host"]], "incarnation", "fence")
        for row in rows
    ]


@models("note_keys")
def note_keys(m: Memory, hosts: Sequence[str], keys: Sequence[int]) -> Rows:
    for host, each in zip(hosts, keys, strict=True):
        row = m["device_trust"].get(host) or {"host": host, "told_at": None, "replaces": None, "former": "[]"}
        if row.get("keys") != each:
            m["device_trust"].put(host, row | {"keys": each, "told_at": None})
    return []


@models("untaught_devices")
def untaught_devices(m: Memory, generation: int, limit: int, seconds: float) -> Rows:
    """Every device of this world trusts the newest list from the beginning."""
    assert all(row["keys"] == generation for row in m["device_trust"].rows.values())
    return []


@models("doubted_devices")
def doubted_devices(m: Memory, limit: int, seconds: float) -> Rows:
    rows = m["device_stream"].rows.values()
    due = [row for row in rows if row["resync_at"] is not None and row["resync_at"] <= m.now and row["session"] is not None]
    there = [row for row in due if m["host"].rows[row["host"]]["presence"] in LISTENING]
    asked = sorted(there, key=lambda row: row["resync_at"])[:limit]
    for row in asked:
        m["device_stream"].change(row["host"], resync_at=m.now + _seconds(seconds))
    return [_pick(row, "host", "session") for row in asked]


@models("sessions_of")
def sessions_of(m: Memory, hosts: Sequence[str]) -> Rows:
    return [_pick(row, "host", "session") for row in m["device_stream"].of(hosts) if row["session"] is not None]


@models("unanswering_devices")
def unanswering_devices(m: Memory, sends: int, limit: int) -> Rows:
    sent = [row for row in m["command"].rows.values() if row["state"] == "sent" and row["sends"] > sends]
    there = {row["host"] for row in sent if m["host"].rows[row["host"]]["presence"] == "online"}
    streams = {row["host"]: row["session"] for row in m["device_stream"].of(there)}
    found = sorted({row["host"] for row in sent if row["sent_session"] is not None and streams.get(row["host"]) == row["sent_session"]})
    return [{"host": host, "session": streams[host]} for host in found[:limit]]


@models("awaited_commands")
def awaited_commands(m: Memory, hosts: Sequence[str], limit: int) -> Rows:
    sent = sorted(
        (row for row in m["command"].rows.values() if row["host"] in hosts and row["state"] == "sent"),
        key=lambda row: (row["first_fence"], row["id"]),
    )
    ids: dict[str, list[str]] = {}
    for row in sent:
        ids.setdefault(row["host"], []).append(row["id"])
    return [{"host": host, "ids": found[:limit]} for host, found in ids.items()]


@models("end_doubts")
def end_doubts(m: Memory, hosts: Sequence[str]) -> Rows:
    doubted = [row for row in m["device_stream"].of(hosts) if row["resync_at"] is not None]
    for row in doubted:
        m["device_stream"].change(row["host"], resync_at=None)
    return [_pick(row, "host") for row in doubted]


@models("advance_streams")
def advance_streams(m: Memory, *columns: Sequence[Any]) -> Rows:
    return _streams(m, ("epoch", "seq"), columns)


@models("store_sessions")
def store_sessions(m: Memory, *columns: Sequence[Any]) -> Rows:
    names = ("session", "session_since", "boot_id", "retired", "retired_epochs", "keepalive_s", "heartbeat_s", "flaps")
    for host, session in zip(columns[0], columns[1], strict=True):
        known = m["device_stream"].get(host)
        if known is not None and known["resync_at"] is not None and known["session"] != session:
            m["device_stream"].change(host, resync_at=m.now)
    return _streams(m, names, columns)


def _streams(m: Memory, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> Rows:
    for host, *values in zip(*columns, strict=True):
        if host in m["device_stream"].rows:
            m["device_stream"].change(host, **dict(zip(names, values, strict=True)))
    return []


@models("touch_liveness")
def touch_liveness(m: Memory, hosts: Sequence[str], ages: Sequence[float]) -> Rows:
    for host, age in zip(hosts, ages, strict=True):
        known = m["device_liveness"].get(host) or {"host": host, "last_seen": None, "uptime_s": None, "unacked": None}
        m["device_liveness"].put(host, known | {"last_seen": _later(known["last_seen"], m.now, age)})
    return []


def _later(one: datetime | None, now: datetime, age: float) -> datetime:
    heard = now - _seconds(age)
    return heard if one is None else max(min(one, now), heard)


@models("beat")
def beat(m: Memory, *columns: Sequence[Any]) -> Rows:
    odd = []
    for host, session, uptime_s, unacked, age in zip(*columns, strict=True):
        stream, row = m["device_stream"].get(host), m["host"].get(host)
        if stream is None or row is None or not _heard(m, host):
            continue
        current = stream["session"] == session
        if current:
            known = m["device_liveness"].get(host) or {"host": host, "last_seen": None}
            seen = {"last_seen": _later(known["last_seen"], m.now, age), "uptime_s": uptime_s, "unacked": unacked}
            m["device_liveness"].put(host, known | seen)
        if not current or row["presence"] != "online":
            odd.append({"host": host})
    return odd


@models("known_sections")
def known_sections(m: Memory, hosts: Sequence[str]) -> Rows:
    return [_pick(row, "host", "section", "hash") for row in m["host_facts"].rows.values() if row["host"] in hosts]


@models("store_facts")
def store_facts(
    m: Memory, hosts: Sequence[str], sections: Sequence[str], hashes: Sequence[str], data: Sequence[str], now: datetime
) -> Rows:
    for host, section, hash_, text in zip(hosts, sections, hashes, data, strict=True):
        known = m["host_facts"].get((host, section))
        if known is None or known["hash"] != hash_:
            m["host_facts"].put((host, section), {"host": host, "section": section, "hash": hash_, "data": text, "updated_at": now})
    return []


@models("lock_commands")
def lock_commands(m: Memory, ids: Sequence[str]) -> Rows:
    return [_pick(row, "id", "host", "state") for row in m["command"].of(ids)]


@models("progress_commands")
def progress_commands(
    m: Memory, ids: Sequence[str], states: Sequence[str], starts: Sequence[datetime | None], results: Sequence[str], now: datetime
) -> Rows:
    for id, state, started_at, result in zip(ids, states, starts, results, strict=True):
        if (row := m["command"].get(id)) is not None:
            times = {"accepted_at": row["accepted_at"] or now, "started_at": started_at or row["started_at"]}
            m["command"].change(id, state=state, result=result, **times)
    return []


@models("store_logs")
def store_logs(m: Memory, *columns: Any) -> Rows:
    *each, now = columns
    for host, log_id, type_, severity, message, data in zip(*each, strict=True):
        if (host, log_id) not in m["device_log"].rows:
            row = {"host": host, "log_id": log_id, "type": type_, "severity": severity, "message": message, "data": data, "at": now}
            m["device_log"].put((host, log_id), row)
    return []


@models("set_aside")
def set_aside(m: Memory, *columns: Any) -> Rows:
    *each, now = columns
    for host, suffix, epoch, seq, error, payload in zip(*each, strict=True):
        id = m.next("poison")
        row = {"id": id, "host": host, "suffix": suffix, "epoch": epoch, "seq": seq, "error": error, "payload": payload, "at": now}
        m["poison"].put(id, row)
    return []


@models("trim_poison")
def trim_poison(m: Memory, hosts: Sequence[str], kept: int) -> Rows:
    for host in hosts:
        ids = sorted(id for id, row in m["poison"].rows.items() if row["host"] == host)
        for id in ids[:-kept]:
            m["poison"].drop(id)
    return []


# --- presence and leases ------------------------------------------------------------------------------------------------------


@models("silent_hosts")
def silent_hosts(m: Memory) -> Rows:
    heard = {
        row["shard"]: row["subscribed_since"]
        for row in m["ingest_lease"].rows.values()
        if row["subscribed_since"] is not None and row["until"] is not None and row["until"] > m.now
    }
    found = [_silent(m, host, heard) for host in m["host"].of(m["host"].rows) if host["presence"] in LISTENING]
    return [row for row in found if row is not None]


def _silent(m: Memory, host: Row, heard: Mapping[str, datetime]) -> Row | None:
    if _distrusted(host):
        return {"id": host["id"], "wanted": "offline"}
    stream, since = m["device_stream"].get(host["id"]), heard.get(shard_of(host["id"]))
    if stream is None or since is None:
        return None
    live = m["device_liveness"].get(host["id"])
    last = (live["last_seen"] if live else None) or stream["session_since"] or host["updated_at"]
    past = [at for at in (last, since) if at <= m.now]
    if not past:
        return None
    silent_s = (m.now - max(past)).total_seconds()
    if silent_s > 3 * stream["heartbeat_s"] + 5:
        return {"id": host["id"], "wanted": "offline"}
    if host["presence"] == "online" and silent_s > 1.1 * stream["heartbeat_s"] + 5:
        return {"id": host["id"], "wanted": "stale"}
    return None


@models("greet_replicas")
def greet_replicas(m: Memory, name: str, dead_s: float) -> Rows:
    others = [row for row in m["ingest_replica"].rows.values() if row["name"] != name]
    m["ingest_replica"].put(name, {"name": name, "seen_at": m.now})
    alive = [row for row in others if abs((m.now - row["seen_at"]).total_seconds()) <= dead_s]
    for row in others:
        if row not in alive:
            m["ingest_replica"].drop(row["name"])
    return [{"?column?": 1 + len(alive)}]


@models("renew_leases")
def renew_leases(m: Memory, name: str, lease_s: float) -> Rows:
    found = []
    for row in [row for row in m["ingest_lease"].rows.values() if row["owner"] == name]:
        lapsed = _over(m, row["until"], lease_s)
        since = None if lapsed else row["subscribed_since"]
        m["ingest_lease"].change(row["shard"], until=m.now + _seconds(lease_s), subscribed_since=since)
        found.append({"shard": row["shard"], "lapsed": lapsed})
    return found


def _over(m: Memory, until: datetime, lease_s: float) -> bool:
    return until < m.now or until > m.now + _seconds(2 * lease_s)


@models("take_leases")
def take_leases(m: Memory, name: str, lease_s: float, most: int) -> Rows:
    free = [row for row in m["ingest_lease"].of(m["ingest_lease"].rows) if row["owner"] is None or _over(m, row["until"], lease_s)]
    for row in free[:most]:
        taken = {"owner": name, "until": m.now + _seconds(lease_s), "fence": row["fence"] + 1, "subscribed_since": None}
        m["ingest_lease"].change(row["shard"], **taken)
    return [{"shard": row["shard"]} for row in free[:most]]


@models("give_leases")
def give_leases(m: Memory, name: str, shards: Sequence[str]) -> Rows:
    for row in list(m["ingest_lease"].of(shards)):
        if row["owner"] == name:
            m["ingest_lease"].change(row["shard"], owner=None, until=None, subscribed_since=None)
    return []


@models("say_subscribed")
def say_subscribed(m: Memory, name: str, shards: Sequence[str], hearing: bool) -> Rows:
    for row in list(m["ingest_lease"].of(shards)):
        if row["owner"] == name:
            m["ingest_lease"].change(row["shard"], subscribed_since=m.now if hearing else None)
    return []


def json_text(value: Any) -> str | None:
    """A JSON column's value as it is stored here."""
    return None if value is None else dumps(value)

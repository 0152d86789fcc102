"""What is old goes, what is young or still needed stays, in portions; settings are checked and documented."""

import ast
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleetward.settings import KEPT_NAMES
from inventory import retention
from inventory.actor import Actor
from inventory.changes import Relay, read
from inventory.db import Database
from inventory.ids import first_id, new_id
from inventory.retention import Retention, clean
from inventory.store import Store

ROOT = Path(__file__).parents[2]
MANAGER = Actor.manager("config")


async def filled(db: Database, store: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Old and young rows of everything; ids of commands by what they are."""
    host = (await store.make("host", {"name": "edge"}, Actor.system()))["id"]
    config = (await store.create("config", {"name": "motd", "selector": ""}, Actor.user("a", "admin")))["id"]
    placed = (await store.make("host-config", {"name": "p", "host": host, "config": config, "digest": "d", "paths": []}, MANAGER))["id"]
    now = datetime.now(UTC)
    made: dict[str, str] = {}
    for name, age in (("old", 40), ("current", 40), ("running", 40), ("young", 0)):
        id = first_id("cmd", now - timedelta(days=age))[:-4] + f"{len(made):04}"
        values = {"id": id, "host": host, "verb": "config.apply", "not_after": now, "due_at": now}
        values["resource"] = {"kind": "host-config", "id": placed, "generation": 1}
        await store.make("command", values, MANAGER)
        made[name] = id
    for id in (first_id("note", now - timedelta(days=100)), new_id("note")):
        await store.make("notification", {"id": id, "severity": "info", "type": "T", "message": "m"}, Actor.system())
    async with db.transaction() as tx:
        execute = tx.raw.execute
        await execute("UPDATE command SET state = 'succeeded', finished_at = created_at WHERE id <> $1", made["running"])
        await execute("UPDATE command SET finished_at = now() - interval '40 d' WHERE id = ANY ($1)", [made["old"], made["current"]])
        await execute("UPDATE host_config SET command = $1", made["current"])
        await execute(
            "UPDATE notification SET created_at = now() - interval '100 d' WHERE id < $1", first_id("note", now - timedelta(days=1))
        )
        for age, n in ((40, 12), (0, 3)):
            await execute(
                "INSERT INTO device_log (host, log_id, type, severity, message, data, at) "
                "SELECT $1, $3::text || n, 't', 'info', '', '{}', now() - make_interval(days => $2) FROM generate_series(1, $4::int) n",
                host,
                age,
                f"{age}-",
                n,
            )
            await execute(
                "INSERT INTO poison (host, suffix, error, payload, at) "
                "SELECT $1, 'up/log', 'e', '', now() - make_interval(days => $2) FROM generate_series(1, $3::int) n",
                host,
                age,
                n,
            )
            await execute(
                "INSERT INTO idempotency (key, digest, status, created_at, expires_at) "
                "SELECT $1::text || n, '', 200, now(), now() - make_interval(days => $2) FROM generate_series(1, $3::int) n",
                f"{age}-",
                age,
                n,
            )
    return made


async def test_what_is_old_goes(db: Database, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In portions smaller than what there is; the running command and the one that a host-config points to stay; watchers are told."""
    monkeypatch.setattr(retention, "PORTION", 5)
    made = await filled(db, store, monkeypatch)
    relay = Relay(db)
    await relay.step()
    before = (await read(db, 0)).next
    gone = await clean(store, Retention(), datetime.now(UTC))
    assert gone == {"idempotency": 12, "commands": 1, "notifications": 1, "logs": 12, "poison": 12, "certificates": 0}
    async with db.acquire() as connection:
        for table, left in (("device_log", 3), ("poison", 3), ("idempotency", 3), ("command", 3), ("notification", 1)):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == left, table
        assert {row["id"] for row in await connection.fetch("SELECT id FROM command")} == set(made.values()) - {made["old"]}
    await relay.step()
    told = [(change.kind, change.op, change.actor["type"]) for change in (await read(db, before)).changes]
    assert told == [("command", "deleted", "inventory"), ("notification", "deleted", "inventory")]
    assert not any((await clean(store, Retention(), datetime.now(UTC))).values()), "a second round finds nothing"


async def test_a_round_is_bounded(db: Database, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is too old, a round ends; the next one goes on."""
    monkeypatch.setattr(retention, "PORTION", 5)
    monkeypatch.setattr(retention, "MOST", 10)
    await filled(db, store, monkeypatch)
    assert (await clean(store, Retention(), datetime.now(UTC)))["logs"] == 10
    assert (await clean(store, Retention(), datetime.now(UTC)))["logs"] == 2


def test_settings_are_read_and_checked() -> None:
    """A number and a unit; anything else names the variable."""
    assert Retention.read({}) == Retention()
    assert Retention.read({"FLEETWARD_KEEP_LOGS": "36h", "FLEETWARD_KEEP_CHANGES": "52w"}) == Retention(
        logs=timedelta(hours=36), changes=timedelta(weeks=52)
    )
    for wrong in ("30", "0d", "-1d", "1.5d", "30 d", "forever", ""):
        with pytest.raises(ValueError, match="FLEETWARD_KEEP_POISON"):
            Retention.read({"FLEETWARD_KEEP_POISON": wrong})


def test_every_setting_is_documented_and_handed_on() -> None:
    """docs/operating.md has its default and its reason; `fleetward up` and fleetward.toml know it."""
    tree = ast.parse(Path(retention.__file__).read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Retention")
    reasons = [node.value.value for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)][1:]
    rows = [
        f"| `keep_{field.name}`, `FLEETWARD_KEEP_{field.name.upper()}` | {getattr(Retention(), field.name).days}d | {reason!s} |"
        for field, reason in zip(fields(Retention), reasons, strict=True)
    ]
    page = (ROOT / "docs" / "operating.md").read_text().splitlines()
    assert [line for line in page if re.match(r"\| `keep_", line)] == rows, "\n".join(rows)
    assert tuple(field.name for field in fields(Retention)) == KEPT_NAMES

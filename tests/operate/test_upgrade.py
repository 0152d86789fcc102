"""From the schema of an earlier release, with data, to this one: nothing is lost, and what was there works on."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tortoise.migrations.executor import MigrationExecutor, MigrationTarget

from broker.messages import Presence, decode, encode
from broker.topics import DeviceTopic, Topics
from inventory import changes, schema, sessions, users
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import APP, Database, _config, migrate
from inventory.store import Store

EARLIER = "0005_unread"
"""The last migration of what is upgraded from; a database older than it takes the same way."""
ADMIN = Actor.user("admin", "admin")

ROWS = """
INSERT INTO region (id, name, title, labels, version, generation, created_at, updated_at)
VALUES ('reg-1', 'north', '', '{"wants": "motd"}', nextval('versions'), 1, now(), now());
INSERT INTO host (id, name, title, labels, version, generation, observed_generation, desired_state, current_state, status, created_at,
                  updated_at, presence, agent_version)
VALUES ('host-1', 'edge', '', '{}', nextval('versions'), 1, 1, 'onboarded', 'onboarded', '{"indicator": "idle"}', now(), now(), 'online',
        '0.0.9');
INSERT INTO host_labels VALUES ('host-1', '{}');
INSERT INTO device_identity (host, fingerprint, incarnation, certificate, certificate_serial, expires_at, fence, evidence, created_at)
VALUES ('host-1', 'f', 1, '', '', now() + interval '1 d', 7, '{}', now());
INSERT INTO device_stream (host, epoch, seq, session, retired, retired_epochs, keepalive_s, heartbeat_s, flaps)
VALUES ('host-1', 'e1', 42, 's1', '[]', '["e0"]', 30, 30, 0);
INSERT INTO work (manager, key, due_at, attempts, halted, again, backoff, fence, queued_at)
VALUES ('host', 'host-1', now(), 2, false, 0, false, nextval('work_fences'), now());
INSERT INTO users (id, name, password, role, created_at) VALUES ('user-1', 'admin', '', 'admin', now());
INSERT INTO sessions (token_hash, "user", csrf, created_at, seen_at, expires_at, address)
VALUES ('h1', 'user-1', 'c', now(), now(), now() + interval '1 d', ''),
       ('h2', 'user-1', 'c', now(), now(), now() + interval '1 d', '::1');
INSERT INTO changes_in (kind, resource_id, op, version, generation, changed, resource, actor, at)
VALUES ('region', 'reg-1', 'created', 1, 1, '[]', '{"id": "reg-1"}', '{}', now());
"""


@pytest.fixture
async def earlier(postgres_url: str) -> str:
    """A database as the earlier release left it, with rows in it."""
    db = await Database.open(postgres_url, application="test", pool_size=2)
    with db._context:
        await MigrationExecutor(db._context.db(), _config(postgres_url, "", 2)["apps"]).migrate([MigrationTarget(APP, EARLIER)])
    async with db.acquire() as connection:
        await connection.execute(ROWS)
    await db.close()
    return postgres_url


async def test_a_database_of_an_earlier_release_is_brought_up_to_date(earlier: str) -> None:
    """Each row is there as it was, what is new has its default, and store, relay and queue go on with the numbers that they had."""
    db = await Database.open(earlier, application="test", pool_size=2)
    try:
        assert await schema.behind(db) == len([name for name in schema.known() if name > EARLIER]) > 0
        await migrate(earlier)
        assert await schema.behind(db) == 0
        async with db.acquire() as connection:
            stream = await connection.fetchrow("SELECT * FROM device_stream")
            assert stream is not None and (stream["seq"], stream["retired_epochs"], stream["resync_at"]) == (42, '["e0"]', None)
            assert await connection.fetchval("SELECT fence FROM device_identity") == 7
            assert await connection.fetchval("SELECT attempts FROM work") == 2
        standing = await sessions.list_sessions(db, "user-1", datetime.now(UTC), timedelta(days=1), limit=10)
        assert len({each["id"] for each in standing}) == 2 and {each["user"] for each in standing} == {"admin"}
        assert not (await users.get(db, "admin"))["second_factor"]
        await Relay(db).step()
        [first] = (await changes.read(db, 0)).changes
        assert (first.position, first.id) == (1, "reg-1")
        store = Store(db)
        region = await store.patch("region", "north", {"title": "North"}, ADMIN)
        assert region["labels"] == {"wants": "motd"} and region["version"] > (await store.get("host", "edge"))["version"]
        await migrate(earlier)
    finally:
        await db.close()


async def test_an_interrupted_upgrade_is_finished_by_the_next(earlier: str) -> None:
    """A migration that fails leaves the schema as it was; once what was in its way is gone, it goes through."""
    connection = await asyncpg.connect(earlier)
    await connection.execute("CREATE TABLE strays (in_the_way int)")
    with pytest.raises(Exception, match="strays"):
        await migrate(earlier)
    await connection.execute("DROP TABLE strays")
    await migrate(earlier)
    assert await connection.fetchval("SELECT count(*) FROM strays") == 0
    await connection.close()


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """What an agent of a later minor release might say: fields that are not known here."""
    yield "known fields alone", {}
    yield "unknown fields", {"battery": 0.7, "later": {"nested": [1, 2]}}


@pytest.mark.parametrize(("name", "more"), list(bodies()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_later_agents_fields_are_passed_by(name: str, more: dict[str, Any]) -> None:
    """Within v1 things are only added: what this release does not know changes nothing of what it does."""
    said = Presence(
        online=True,
        session="s1",
        epoch="e1",
        boot_id="b1",
        agent_version="0.2.0",
        keepalive_s=30,
        heartbeat_s=30,
        nonce="n",
    )
    payload = json.loads(encode(said, sent_at="2026-11-26T12:00:00.000Z")) | more
    topic = Topics().build(DeviceTopic("host-1", Presence.suffix))
    assert decode(Presence.suffix, json.dumps(payload).encode(), topic=topic, key=None) == said

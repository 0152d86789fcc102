"""The Inventory process with a real broker: what devices and integrations see of it, and what it survives."""

import asyncio
import contextlib
import hashlib
import json
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import aiomqtt
import pytest

from broker.messages import Ack, Checkpoint, Message, decode
from broker.topics import DeviceTopic, Topics
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.db import Database
from inventory.enrollment import Admitted, redeem
from inventory.integrations import create
from inventory.store import Store
from tests.inventory_wire.device import Device
from tests.inventory_wire.installation import Installation, installation, new_key, request, until
from tests.waiting import Stopwatch, patience

TOPICS = Topics()
BROKER = ("127.0.0.1", 8883)


@pytest.fixture
async def place(inventory_url: str) -> AsyncIterator[Installation]:
    """An installation with a running broker."""
    async with installation(inventory_url) as made:
        await made.start("broker")
        yield made


@dataclass(slots=True)
class Line:
    """A device's connection: what it got, decoded."""

    device: Device
    client: aiomqtt.Client
    got: list[Message] = field(default_factory=list)

    async def read(self) -> None:
        async for message in self.client.messages:
            topic = TOPICS.parse(str(message.topic))
            assert isinstance(topic, DeviceTopic) and isinstance(message.payload, bytes)
            sealed = topic.channel in ("down/ack", "down/resync")
            text, key = (str(message.topic), self.device.key) if sealed else ("", None)
            self.got.append(decode(topic.channel, message.payload, topic=text, key=key))

    async def say(self, message: Message, **numbers: Any) -> None:
        await self.client.publish(self.device.topic(message.suffix), self.device.payload(message, **numbers), qos=1)

    def has(self, seq: int) -> bool:
        return self.acked() >= seq

    def acked(self) -> int:
        return max((m.seq for m in self.got if isinstance(m, Ack) and m.epoch == self.device.epoch), default=0)


@asynccontextmanager
async def connected(place: Installation, device: Device) -> AsyncIterator[Line]:
    """A device with its Will, subscribed, that has said that it is online."""
    will = aiomqtt.Will(device.topic("up/presence"), device.payload(device.presence(online=False)), qos=1)
    async with place.client(device.id, will) as client:
        line = Line(device, client)
        await client.subscribe(TOPICS.downlinks(device.id), qos=1)
        reader = asyncio.create_task(line.read())
        await line.say(device.presence())
        try:
            yield line
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await reader


async def enroll(place: Installation, db: Database, store: Store, secret: str = "t-1") -> Device:
    """Through the front gate: a token, a key, a certificate."""
    extra = {"token_hash": hashlib.sha256(secret.encode()).hexdigest()}
    await store.create("enrollment-token", {"approve": True}, Actor.user("admin", "admin"), extra=extra)
    key = new_key()
    body = {"token": secret, "csr": request(key), "evidence": None}
    outcome = await redeem(db, store, Authority(place.secrets), body, broker=BROKER)
    assert isinstance(outcome, Admitted)
    answer = outcome.answer
    place.write_identity(answer["device"], answer["certificate"], key)
    return Device(answer["device"], bytes.fromhex(answer["channel_key"]))


async def test_a_device_speaks_and_is_answered(place: Installation, db: Database, store: Store) -> None:
    """Presence, checkpoint, facts, acknowledgement, and offline at once when the cable is cut."""
    await place.start("inventory")
    device = await enroll(place, db, store)

    async def presence() -> str:
        return str((await store.get("host", device.id))["presence"])

    async with connected(place, device) as line:
        await until(lambda: any(isinstance(m, Checkpoint) for m in line.got), "the checkpoint")
        await line.say(device.facts(os={"name": "Debian", "kernel": "6.1"}))
        await until(lambda: line.acked() == 1, "the acknowledgement")
        host = await store.get("host", device.id)
        assert (host["presence"], host["kernel"]) == ("online", "6.1")
        sock = line.client._client.socket()
        assert isinstance(sock, ssl.SSLSocket)
        sock.shutdown(socket.SHUT_RDWR)
        await until(lambda: _is(presence, "offline"), "the Will")


async def _is(get: Any, wanted: Any) -> bool:
    return bool(await get() == wanted)


async def test_nothing_is_lost_when_it_is_killed(place: Installation, db: Database, store: Store) -> None:
    """kill -9 of Inventory while a device goes on sending, and repeats what is not acknowledged."""
    await place.start("inventory")
    device = await enroll(place, db, store)
    total, window = 120, 16
    async with connected(place, device) as line:
        payloads = {n: device.payload(device.facts(os={"kernel": str(n)}), seq=n) for n in range(1, total + 1)}

        async def go_back_n() -> None:
            last, sent, moved = 0, 0, time.monotonic()
            while (base := line.acked()) < total:
                if base > last:
                    last, moved = base, time.monotonic()
                if time.monotonic() - moved > 0.5:
                    sent, moved = base, time.monotonic()
                while sent < min(base + window, total):
                    sent = max(sent, base) + 1
                    await line.client.publish(device.topic("up/facts"), payloads[sent], qos=1)
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(go_back_n())
        await until(lambda: line.acked() >= 30, "progress")
        await place.kill("inventory")
        await place.start("inventory")
        async with patience(60):
            await sending
    host = await store.get("host", device.id)
    assert host["kernel"] == str(total)
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT seq FROM device_stream") == total
        assert await connection.fetchval("SELECT count(*) FROM poison") == 0


async def test_a_broker_that_restarts_is_come_back_to(place: Installation, db: Database, store: Store) -> None:
    """Without a manual step; what happened meanwhile is published afterwards."""
    await place.start("inventory")
    device = await enroll(place, db, store)
    await place.kill("broker")
    region = await store.create("region", {"name": "while-away"}, Actor.user("admin", "admin"))
    await place.start("broker")
    async with connected(place, device) as line:

        async def answered() -> bool:
            """As an agent does it: its presence again, until there is a checkpoint."""
            await line.say(device.presence())
            return any(isinstance(m, Checkpoint) for m in line.got)

        await until(answered, "the checkpoint")
    async with db.acquire() as connection:
        placed = await until(lambda: _position(connection, region["id"]), "the position")
        await until(lambda: _at_least(connection, placed), "the publisher's cursor")


async def test_a_database_that_restarts_is_come_back_to(place: Installation, db: Database, store: Store) -> None:
    """Every part of the process loses its connections, three times: then facts are taken, changes placed and published, shards held."""
    process = await place.start("inventory")
    device = await enroll(place, db, store)
    connection = await db.connect()
    async with connected(place, device) as line:
        for n in range(1, 4):
            await line.say(device.facts(os={"kernel": str(n)}), seq=n)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'fleetward-%' AND pid <> pg_backend_pid()"
            )
            await until(partial(line.has, n), "the acknowledgement")
        region = await store.create("region", {"name": "afterwards"}, Actor.user("admin", "admin"))
        placed = await until(lambda: _position(connection, region["id"]), "the position")
        await until(lambda: _at_least(connection, placed), "the publisher's cursor")
    await until(lambda: _all_held(connection), "the shards to be held")
    assert process.returncode is None
    assert '"traceback"' not in place.log("inventory")
    await connection.close()


async def _position(connection: Any, id: str) -> int:
    """Of the last change of a resource; 0 where it has none yet."""
    return int(await connection.fetchval("SELECT max(position) FROM changes WHERE resource_id = $1", id) or 0)


async def _all_held(connection: Any) -> bool:
    return bool(await connection.fetchval("SELECT count(*) = 256 FROM ingest_lease WHERE owner IS NOT NULL AND until > now()"))


async def _at_least(connection: Any, position: int) -> bool:
    return bool(await connection.fetchval("SELECT position >= $1 FROM cursors WHERE name = 'mqtt'", position))


@asynccontextmanager
async def reader(
    place: Installation, db: Database, name: str, write: str = "none", key: Any = None
) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """An integration that reads all it may; the list fills while the block runs."""
    key = key or new_key()
    body = {"name": name, "write": write, "csr": request(key, name)}
    answer = await create(db, Authority(place.secrets), body, broker=BROKER, now=datetime.now(UTC))
    place.write_identity(name, answer["certificate"], key)
    got: list[tuple[str, dict[str, Any]]] = []

    async def allowed() -> aiomqtt.Client | None:
        """Mosquitto reads its rules again within a second or two."""
        client = place.client(name)
        try:
            await client.__aenter__()
            await client.subscribe([(TOPICS.events(), 1), (TOPICS.notifications(), 1), (TOPICS.replies(name), 1)])
            return client
        except aiomqtt.MqttError:
            return None

    client = await until(allowed, "the integration's connection")
    clients[name] = client

    async def read() -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            got.append((str(message.topic), json.loads(message.payload)))

    task = asyncio.create_task(read())
    try:
        yield got
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
            await task
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)
        clients.pop(name, None)


clients: dict[str, aiomqtt.Client] = {}
"""The integrations' connections by name, for tests that publish."""


async def test_changes_and_notifications_are_published(place: Installation, db: Database, store: Store) -> None:
    """Events by kind and id, as the contract shapes them; never of kinds that are not for others; notifications by severity."""
    await place.start("inventory")
    async with reader(place, db, "listener") as got:

        async def granted() -> bool:
            """Mosquitto may take a moment to read the new rules: until an event comes, another one is made."""
            await store.create("region", {"name": f"try-{time.monotonic_ns()}"}, Actor.user("admin", "admin"))
            return bool(got)

        await until(granted, "the first event")
        await store.create("enrollment-token", {}, Actor.user("admin", "admin"), extra={"token_hash": "0" * 64})
        region = await store.create("region", {"name": "north"}, Actor.user("admin", "admin", "10.0.0.9"))
        note = await store.make("notification", {"severity": "warning", "type": "Test", "message": "look"}, Actor.inventory())
        topic = f"fleet/v1/events/region/{region['id']}"
        await until(lambda: [m for t, m in got if t == topic], "the event")
        [event] = [m for t, m in got if t == topic]
        assert set(event) == {
            "v", "sent_at", "position", "kind", "id", "op", "version", "generation", "changed", "resource", "host", "actor", "at",
        }  # fmt: skip
        assert (event["op"], event["resource"]["name"], event["actor"]["address"]) == ("created", "north", "10.0.0.9")
        await until(lambda: [m for t, m in got if t == "fleet/v1/notifications/warning"], "the notification")
        [told] = [m for t, m in got if t == "fleet/v1/notifications/warning"]
        assert (told["id"], told["message"], told["kind"]) == (note["id"], "look", "notification")
        assert not [t for t, _ in got if "enrollment-token" in t]


async def test_it_ends_within_five_seconds_and_lets_go(place: Installation, db: Database) -> None:
    """SIGTERM: exit 0, its shards free for another replica at once, the first password forgotten since its start, and nothing that reads
    like a fault: each part has come to its end, the transaction and the subscription of each too."""
    (place.secrets / "admin-password").write_text("a-password")
    await place.start("inventory")
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM ingest_lease WHERE owner IS NOT NULL") == 256
    assert not (place.secrets / "admin-password").exists()
    await until(lambda: "reading intents" in place.log("inventory"), "the reader of intents")
    watch = Stopwatch()
    assert await place.kill("inventory", signal.SIGTERM) == 0
    assert watch.seconds() < 5
    assert not [line for line in place.log("inventory").splitlines() if '"level": "error"' in line]
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM ingest_lease WHERE owner IS NOT NULL") == 0


def moment(seconds: float = 60) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()

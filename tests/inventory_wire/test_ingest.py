"""Ingest against a real database, without a broker: what is written, what is acknowledged, what is set aside, what is dropped."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

from broker.messages import Ack, Doubt, Error, Item, Log, Metrics, Moment, decode_text, mac
from broker.topics import Topics
from inventory import reports
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.changes import Relay, read
from inventory.db import Database, loads
from inventory.inbound import Inbound
from inventory.ingest import LOOK_S, Ingest, portions
from inventory.listing import ListQuery
from inventory.memory import ASK_AGAIN_S, ASKS, SETTLE_S
from inventory.metrics import DEVICES_REFUSED, METER, REFUSED
from inventory.signing import CommandSigner
from inventory.store import Store
from inventory.streams import NEVER_GIVEN
from tests.inventory_wire.device import Device, Sent, log_message, make_device, make_devices, result, status
from tests.waiting import patience

DISK = {"key": "S1", "name": "sda", "model": "Disk"}


class Rig:
    """An ingest with a device, and a clock that tests move."""

    def __init__(self, db: Database, store: Store, authority: Authority, signer: CommandSigner) -> None:
        self.db, self.store, self.authority = db, store, authority
        self.sent = Sent()
        self.mono = 1000.0
        self.interrupted = 0
        self.ingest = Ingest(db, Topics(), authority, signer, self.sent, interrupted=self._interrupt, mono=lambda: self.mono)
        self.device: Device

    def _interrupt(self) -> None:
        self.interrupted += 1

    async def take(self, *inbound: Inbound) -> None:
        for m in inbound:
            m.at = self.mono
        await self.ingest.process(await self.ingest.open(inbound))

    async def host(self) -> dict[str, Any]:
        return await self.store.get("host", self.device.id)

    async def fetch(self, sql: str, *params: Any) -> list[Any]:
        async with self.db.acquire() as connection:
            return list(await connection.fetch(sql, *params))

    async def components(self) -> dict[str, dict[str, Any]]:
        page = await self.store.list("component", ListQuery())
        return {c["key"]: c for c in page.items}

    async def changes(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Everything in the log so far: kind, op, changed paths."""
        relay = Relay(self.db)
        while await relay.step():
            pass
        return [(c.kind, c.op, c.changed) for c in (await read(self.db, 0)).changes]

    async def command(self, state: str = "running", **values: Any) -> str:
        at = datetime.fromisoformat("2026-11-22T18:00:00+00:00")
        made = {"host": self.device.id, "verb": "config.apply", "args": {}, "state": state, "not_after": at, "timeout_s": 60} | values
        return str((await self.store.make("command", made, Actor.manager("config")))["id"])

    async def host_config(self) -> str:
        name = f"c{self.mono}"
        self.mono += 1
        config = await self.store.create("config", {"name": name, "selector": "", "files": []}, Actor.user("admin", "admin"))
        made = {"host": self.device.id, "config": config["id"], "digest": "d1"}
        return str((await self.store.make("host-config", made, Actor.manager("config")))["id"])


@pytest.fixture
async def rig(db: Database, store: Store, authority: Authority) -> AsyncIterator[Rig]:
    made = Rig(db, store, authority, CommandSigner(authority.directory))
    made.device = await make_device(db, store, authority)
    yield made


# --- facts ----------------------------------------------------------------------------------------------------------------------


async def test_what_another_device_says_of_a_command_takes_nobodys_place(rig: Rig) -> None:
    """In one batch: the command's own device has the word, whoever else reports its end is counted, in whatever order they come."""
    command, placed = await rig.command(), await rig.host_config()
    other = await make_device(rig.db, rig.store, rig.authority, "other")
    said = Item(kind="host-config", id=placed, generation=1, state="present", digest="d1")
    lie = Item(kind="host-config", id=placed, generation=9, state="absent")
    before = METER.value(REFUSED, "not_its_command")
    await rig.take(
        rig.device.inbound(result(command, "succeeded")),
        rig.device.inbound(status(said)),
        other.inbound(result(command, "failed")),
        other.inbound(status(lie)),
    )
    found = await rig.store.get("command", command)
    assert (found["state"], found["late_result"]) == ("succeeded", None)
    assert (await rig.store.get("host-config", placed))["reported"]["state"] == "present"
    assert METER.value(REFUSED, "not_its_command") - before == 1


async def test_facts_become_columns_sections_and_components(rig: Rig) -> None:
    """In one transaction, then acknowledged."""
    d = rig.device
    facts = d.facts(
        cpu={"model": "M", "cores": 4, "packages": [{"key": "path:0", "name": "CPU 0"}]}, storage={"total_bytes": 100, "disks": [DISK]}
    )
    await rig.take(d.inbound(facts))
    host = await rig.host()
    assert (host["cpu_model"], host["cpu_cores"], host["disk_bytes"]) == ("M", 4, 100)
    assert host["facts"]["storage"]["disks"] == [DISK]
    found = await rig.components()
    assert {(c["type"], c["key"], c["present"]) for c in found.values()} == {("cpu", "path:0", True), ("disk", "S1", True)}
    assert found["S1"]["attributes"] == {"name": "sda", "model": "Disk"}
    assert rig.sent.acks(d) == [("e1", 1)]


async def test_one_change_tells_of_many_columns(rig: Rig) -> None:
    """A host's facts make one change of the host and one of each component; the same facts again make none."""
    d = rig.device
    before = len(await rig.changes())
    await rig.take(d.inbound(d.facts(os={"name": "Debian", "version": "13"}, storage={"disks": [DISK]})))
    changes = (await rig.changes())[before:]
    assert {(kind, op, frozenset(changed)) for kind, op, changed in changes} == {
        ("host", "updated", frozenset({"os_name", "os_version"})),
        ("component", "created", frozenset()),
    }
    await rig.take(d.inbound(d.facts(os={"name": "Debian", "version": "13"}, storage={"disks": [DISK]})))
    assert len(await rig.changes()) == before + 2
    assert rig.sent.acks(d) == [("e1", 1), ("e1", 2)]


async def test_components_come_change_go_and_come_back(rig: Rig) -> None:
    """A vanished one stays with `present: false`; it is the same one when it returns."""
    d = rig.device
    await rig.take(d.inbound(d.facts(storage={"disks": [DISK, {"key": "S2"}]})))
    first = await rig.components()
    await rig.take(d.inbound(d.facts(storage={"disks": [DISK | {"name": "sdb"}]})))
    second = await rig.components()
    assert second["S1"]["id"] == first["S1"]["id"] and second["S1"]["attributes"]["name"] == "sdb"
    assert (second["S2"]["present"], second["S1"]["present"]) == (False, True)
    await rig.take(d.inbound(d.facts(storage={"disks": [DISK, {"key": "S2"}]})))
    third = await rig.components()
    assert third["S2"]["present"] and third["S2"]["id"] == first["S2"]["id"]
    assert third["S2"]["first_seen"] == first["S2"]["first_seen"]


async def test_only_the_sections_that_came_are_compared(rig: Rig) -> None:
    """A change of the network says nothing about disks."""
    d = rig.device
    await rig.take(d.inbound(d.facts(storage={"disks": [DISK]})))
    await rig.take(d.inbound(d.facts(network={"hostname": "edge", "nics": [{"key": "aa:bb"}]})))
    assert {key: c["present"] for key, c in (await rig.components()).items()} == {"S1": True, "aa:bb": True}


async def test_a_device_writes_in_its_own_name(rig: Rig) -> None:
    """The audit says which device."""
    d = rig.device
    await rig.take(d.inbound(d.facts(os={"name": "Debian"})))
    await rig.changes()
    [last] = (await read(rig.db, (await rig.fetch("SELECT position FROM relay"))[0]["position"] - 1)).changes
    assert last.actor == {"type": "device", "name": d.id} and last.host == d.id


async def test_many_messages_of_many_devices_in_one_batch(rig: Rig) -> None:
    """Each device's in order, one acknowledgement each."""
    devices = await make_devices(rig.db, rig.store, rig.authority, [f"edge-{n}" for n in range(20)])
    inbound = [d.inbound(d.facts(os={"kernel": f"6.{n}"})) for n in range(5) for d in devices]
    await rig.take(*inbound)
    for d in devices:
        assert rig.sent.acks(d) == [("e1", 5)]
        assert (await rig.store.get("host", d.id))["kernel"] == "6.4"


def test_large_messages_are_written_in_portions() -> None:
    """In order, each below the bound unless one message alone is above it."""
    sizes = [10, 10, 50, 200, 10, 90]
    cut = portions([Inbound("host-1", "up/facts", "", b"x" * size, 0.0) for size in sizes], most=100)
    assert [[len(m.payload) for m in portion] for portion in cut] == [[10, 10, 50], [200], [10, 90]]
    assert list(portions([])) == []


# --- the stream -----------------------------------------------------------------------------------------------------------------


async def test_a_duplicate_is_acknowledged_again_and_a_gap_answered_with_the_last(rig: Rig) -> None:
    """Neither changes anything."""
    d = rig.device
    first = d.inbound(d.facts(os={"kernel": "1"}))
    await rig.take(first)
    await rig.take(d.raw("up/facts", first.payload))
    await rig.take(d.inbound(d.facts(os={"kernel": "9"}), seq=7))
    assert rig.sent.acks(d) == [("e1", 1)] * 3
    assert (await rig.host())["kernel"] == "1"


async def test_reordered_messages_are_taken_in_order(rig: Rig) -> None:
    """What came too early is sent again by its sender: here it comes in the next batch."""
    d = rig.device
    one, two, three = (d.inbound(d.facts(os={"kernel": str(n)})) for n in (1, 2, 3))
    await rig.take(two, three, one)
    assert rig.sent.acks(d) == [("e1", 1)]
    await rig.take(d.raw("up/facts", two.payload), d.raw("up/facts", three.payload))
    assert rig.sent.acks(d)[-1] == ("e1", 3)
    assert (await rig.host())["kernel"] == "3"


async def test_a_new_epoch_begins_at_one_and_the_old_one_is_gone(rig: Rig) -> None:
    """A replay of the earlier epoch has no effect, and tells a device that was rolled back to begin anew."""
    d = rig.device
    old = d.inbound(d.facts(os={"kernel": "old"}))
    await rig.take(old)
    await rig.take(d.inbound(d.facts(os={"kernel": "new"}), epoch="e2", seq=1))
    await rig.take(d.raw("up/facts", old.payload))
    assert rig.sent.acks(d) == [("e1", 1), ("e2", 1), ("e1", NEVER_GIVEN)]
    assert (await rig.host())["kernel"] == "new"


async def test_a_forged_or_foreign_message_is_dropped(rig: Rig) -> None:
    """Another key, a tampered body, another device's topic: nothing is written and nobody answered."""
    d = rig.device
    [other] = await make_devices(rig.db, rig.store, rig.authority, ["other"])
    good = d.payload(d.facts(os={"kernel": "1"}))
    forged = Device(d.id, b"0" * 32)
    await rig.take(
        d.raw("up/facts", good.replace(b'"kernel":"1"', b'"kernel":"2"')),
        forged.inbound(forged.facts(os={"kernel": "3"})),
        Inbound(other.id, "up/facts", other.topic("up/facts"), good, 0.0),
        d.raw("up/facts", good[:-10]),
    )
    assert rig.sent.messages == []
    assert rig.ingest.refused.bad_mac == 4
    assert (await rig.host())["kernel"] is None
    for _ in range(2):
        await rig.ingest.flush()
    told = await rig.fetch("SELECT host, severity, type FROM notification ORDER BY host")
    assert [tuple(row) for row in told] == [(host, "warning", "MessageForged") for host in sorted((d.id, other.id))]


async def test_a_forgery_that_comes_while_one_is_told_of_is_told_of_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are opened while people are told of what the ones before held."""
    [other] = await make_devices(rig.db, rig.store, rig.authority, ["other"])
    notify = reports.notify

    async def meanwhile(*args: Any) -> Any:
        monkeypatch.undo()
        await rig.ingest.open([Device(other.id, b"0" * 32).inbound(other.facts(os={}))])
        return await notify(*args)

    monkeypatch.setattr(reports, "notify", meanwhile)
    await rig.take(Device(rig.device.id, b"0" * 32).inbound(rig.device.facts(os={})))
    for _ in range(2):
        await rig.ingest.flush()
    told = await rig.fetch("SELECT host FROM notification ORDER BY host")
    assert [row["host"] for row in told] == sorted((rig.device.id, other.id))


async def test_an_unknown_or_revoked_device_is_dropped(rig: Rig) -> None:
    """Nothing is set aside for it either."""
    stranger = Device("host-nobody", b"0" * 32)
    await rig.take(stranger.inbound(stranger.facts(os={})))
    await rig.fetch("UPDATE device_identity SET revoked_at = now()")
    await rig.take(rig.device.inbound(rig.device.facts(os={"kernel": "1"})))
    assert rig.sent.messages == [] and await rig.fetch("SELECT * FROM poison") == []
    assert rig.ingest.refused.unknown_device == 2


async def test_a_device_revoked_while_it_speaks_is_heard_no_more(rig: Rig) -> None:
    """Its key is remembered; its stream is not locked any more, so nothing of it is taken."""
    d = rig.device
    await rig.take(d.inbound(d.facts(os={"kernel": "1"})))
    await rig.fetch("UPDATE device_identity SET revoked_at = now()")
    await rig.take(d.inbound(d.facts(os={"kernel": "2"})))
    assert rig.sent.acks(d) == [("e1", 1)]
    assert (await rig.host())["kernel"] == "1"


async def test_a_device_that_enrolled_again_is_understood_at_once(rig: Rig) -> None:
    """Its new channel key is looked up when the remembered one does not fit; messages under the old one are void."""
    d = rig.device
    await rig.take(d.inbound(d.facts(os={"kernel": "1"})))
    await rig.fetch("UPDATE device_identity SET incarnation = 2")
    late = d.inbound(d.facts(os={"kernel": "2"}))
    await rig.take(late)
    assert rig.sent.acks(d) == [("e1", 1)] and (await rig.host())["kernel"] == "1"
    d.key, d.seq = rig.authority.channel_key(d.id, 2), 1
    rig.mono += 10
    rig.sent.messages.clear()
    await rig.take(d.inbound(d.facts(os={"kernel": "3"})))
    assert rig.sent.acks(d) == [("e1", 2)] and (await rig.host())["kernel"] == "3"


# --- poison ---------------------------------------------------------------------------------------------------------------------

ITEM = {"kind": "host-config", "id": "x", "generation": 1, "state": "present"}
ENDED = {"id": "r", "command": "c", "state": "failed"}
LINE = {"id": "l", "type": "t", "severity": "info", "message": "m"}


def _section(name: str, data: Any) -> dict[str, Any]:
    return {"sections": {name: {"hash": "h", "data": data}}, "manifest": {}}


BAD_BODIES: list[tuple[str, dict[str, Any]]] = [
    ("up/facts", {}),
    ("up/facts", {"sections": {}}),
    ("up/facts", {"manifest": {}}),
    ("up/facts", {"sections": [], "manifest": {}}),
    ("up/facts", {"sections": {"cpu": {}}, "manifest": {}}),
    ("up/facts", {"sections": {"cpu": {"hash": 1, "data": {}}}, "manifest": {}}),
    ("up/facts", {"sections": {}, "manifest": {"cpu": 5}}),
    ("up/facts", _section("cpu", [])),
    ("up/facts", _section("Bad Name", {})),
    ("up/facts", _section("storage", {"disks": [{}]})),
    ("up/facts", _section("storage", {"disks": 7})),
    ("up/facts", _section("storage", {"disks": [{"key": "k" * 300}]})),
    ("up/facts", _section("os", {"name": "a\0b"})),
    ("up/facts", _section("os", {"name": "\ud800"})),
    ("up/facts", _section("os", {"\0": 1})),
    ("up/status", {}),
    ("up/status", {"full": 1, "items": []}),
    ("up/status", {"full": True}),
    ("up/status", {"full": True, "items": {}}),
    ("up/status", {"full": False, "items": [{}]}),
    ("up/status", {"full": False, "items": [1]}),
    ("up/status", {"full": False, "items": [ITEM | {"generation": -1}]}),
    ("up/status", {"full": False, "items": [ITEM | {"id": ""}]}),
    ("up/status", {"full": False, "items": [ITEM | {"message": "m" * 5000}]}),
    ("up/status", {"full": False, "items": [ITEM | {"digest": 5}]}),
    ("up/status", {"full": False, "items": [ITEM | {"state": "not a word"}]}),
    ("up/result", {}),
    ("up/result", {"id": "r", "command": "c"}),
    ("up/result", ENDED | {"state": "done"}),
    ("up/result", ENDED | {"state": "queued"}),
    ("up/result", ENDED | {"progress": 101}),
    ("up/result", ENDED | {"error": "no"}),
    ("up/result", ENDED | {"error": {}}),
    ("up/result", ENDED | {"output": 5}),
    ("up/result", ENDED | {"started_at": "yesterday"}),
    ("up/result", ENDED | {"id": 1}),
    ("up/log", {}),
    ("up/log", LINE | {"severity": "loud"}),
    ("up/log", LINE | {"data": []}),
    ("up/log", LINE | {"type": "t t"}),
    ("up/log", LINE | {"message": "a\0"}),
]


def sealed(device: Device, suffix: str, body: dict[str, Any] | bytes) -> Inbound:
    """A durable message with a good envelope and a good MAC around any body."""
    device.seq += 1
    head = f'{{"v":1,"sent_at":"2026-11-22T18:00:00.000Z","epoch":"{device.epoch}","seq":{device.seq}'.encode()
    inner = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()[1:-1]
    unsealed = head + (b"," + inner if inner else b"")
    payload = unsealed + b',"mac":"' + mac(device.key, device.topic(suffix), unsealed).encode() + b'"}'
    return device.raw(suffix, payload)


async def test_bad_bodies_of_forty_kinds_are_set_aside_and_acknowledged(rig: Rig) -> None:
    """Between good messages, in one batch: the good ones are written, the bad ones kept with their errors, nobody waits."""
    d = rig.device
    batch = []
    for number, (suffix, body) in enumerate(BAD_BODIES):
        batch += [sealed(d, suffix, body), d.inbound(d.facts(os={"kernel": str(number)}))]
    await rig.take(*batch)
    assert rig.sent.acks(d) == [("e1", 2 * len(BAD_BODIES))]
    assert rig.ingest.counts.set_aside == len(BAD_BODIES) >= 40
    assert (await rig.host())["kernel"] == str(len(BAD_BODIES) - 1)
    kept = await rig.fetch("SELECT suffix, seq, error FROM poison ORDER BY id")
    assert len(kept) == 20 and all(row["error"] for row in kept)
    assert kept[-1]["seq"] == 2 * len(BAD_BODIES) - 1


async def test_a_sealed_body_that_is_no_json_is_acknowledged_too(rig: Rig) -> None:
    """Its number can be read from its beginning; otherwise its sender would repeat it for ever."""
    d = rig.device
    half = b'"manifest":{},"sections":{"os":{"hash":"h","data":1e'
    for inner in (b"}}{", b'"sections":', b"\xff\xfe", b'"a":NaN', b"[" * 5000, half):
        await rig.take(sealed(d, "up/facts", inner), d.inbound(d.facts(os={"kernel": str(d.seq)})))
        assert rig.sent.acks(d)[-1] == ("e1", d.seq)
    assert rig.ingest.counts.set_aside == 6
    assert (await rig.host())["kernel"] is not None


async def test_what_the_database_refuses_is_found_by_halving(rig: Rig) -> None:
    """One message in a batch that no check foresaw: it alone is set aside."""
    devices = await make_devices(rig.db, rig.store, rig.authority, [f"edge-{n}" for n in range(8)])
    await rig.fetch("ALTER TABLE host_facts ADD CONSTRAINT unforeseen CHECK (data->>'name' IS DISTINCT FROM 'unforeseen')")
    batch = [d.inbound(d.facts(os={"kernel": "1"})) for d in devices]
    batch[5] = devices[5].inbound(devices[5].facts(os={"name": "unforeseen"}), seq=1)
    await rig.take(*batch)
    await rig.fetch("ALTER TABLE host_facts DROP CONSTRAINT unforeseen")
    for n, d in enumerate(devices):
        assert rig.sent.acks(d) == [("e1", 1)]
        assert (await rig.store.get("host", d.id))["kernel"] == (None if n == 5 else "1")
    [kept] = await rig.fetch("SELECT host, error, payload FROM poison")
    assert kept["host"] == devices[5].id and "could not be stored" in kept["error"] and b"unforeseen" in kept["payload"]


# --- sessions, heartbeats, checkpoints ------------------------------------------------------------------------------------------


async def test_presence_puts_a_host_online_and_is_answered_with_the_time(rig: Rig) -> None:
    """Signed, with its nonce; boot and agent version are written with it."""
    d = rig.device
    await rig.take(d.inbound(d.presence()))
    host = await rig.host()
    assert (host["presence"], host["boot_id"], host["agent_version"]) == ("online", "b1", "0.1.0")
    assert host["last_seen"] is not None
    [checkpoint] = rig.sent.checkpoints(d)
    assert decode_text(Moment, checkpoint.signed).nonce == "n1"


async def test_the_will_puts_it_offline_unless_it_is_late(rig: Rig) -> None:
    """Only the current session's end counts."""
    d = rig.device
    await rig.take(d.inbound(d.presence()))
    await rig.take(d.inbound(d.presence(session="s2")), d.inbound(d.presence(online=False, session="s1")))
    assert (await rig.host())["presence"] == "online"
    await rig.take(d.inbound(d.presence(online=False, session="s2")))
    assert (await rig.host())["presence"] == "offline"


async def test_heartbeats_are_kept_without_a_version(rig: Rig) -> None:
    """Last seen moves, the host does not change."""
    d = rig.device
    await rig.take(d.inbound(d.presence()))
    before = await rig.host()
    rig.mono += 30
    await rig.take(d.inbound(d.heartbeat()))
    await rig.ingest.flush()
    after = await rig.host()
    assert after["version"] == before["version"] and after["last_seen"] >= before["last_seen"]
    assert (await rig.fetch("SELECT uptime_s, unacked FROM device_liveness"))[0]["uptime_s"] == 5


async def test_a_heartbeat_of_an_unheard_session_puts_the_host_online(rig: Rig) -> None:
    """It connected while nobody listened."""
    d = rig.device
    await rig.take(d.inbound(d.heartbeat("s9")))
    await rig.ingest.flush()
    assert (await rig.host())["presence"] == "online"
    assert (await rig.fetch("SELECT session FROM device_stream"))[0]["session"] == "s9"


async def test_a_heartbeat_brings_a_stale_host_back(rig: Rig) -> None:
    """By one statement that notices, and one write."""
    d = rig.device
    await rig.take(d.inbound(d.presence()))
    await rig.store.write("host", d.id, {"presence": "stale"}, Actor.inventory())
    await rig.take(d.inbound(d.heartbeat()))
    await rig.ingest.flush()
    assert (await rig.host())["presence"] == "online"


async def test_a_cloned_disk_is_reported_once(rig: Rig) -> None:
    """Two machines push each other off the broker; people are told in words that say what to do."""
    d = rig.device
    for n in range(12):
        await rig.take(d.inbound(d.presence(session=f"s{n}", boot=f"b{n % 2}")))
    [note] = (await rig.store.list("notification", ListQuery())).items
    assert (note["type"], note["severity"], note["host"]) == ("IdentityShared", "error", d.id)


async def test_metrics_are_taken_and_dropped(rig: Rig) -> None:
    """For now they are counted only."""
    await rig.take(rig.device.inbound(Metrics(samples=(("load", 1, 0.5),))))
    assert rig.ingest.counts.ignored == 1


# --- results --------------------------------------------------------------------------------------------------------------------


async def test_a_result_ends_a_command_once(rig: Rig) -> None:
    """Progress makes no change, the end makes one, the end again nothing."""
    d, command = rig.device, await rig.command("sent")
    before = len(await rig.changes())
    await rig.take(d.inbound(result(command, "accepted", "r0")), d.inbound(result(command, "running", "r0")))
    assert len(await rig.changes()) == before
    running = await rig.store.get("command", command)
    assert running["state"] == "running" and running["accepted_at"] is not None
    await rig.take(d.inbound(result(command, "succeeded", output="done")))
    ended = await rig.store.get("command", command)
    assert (ended["state"], ended["result"]["output"]) == ("succeeded", "done") and ended["finished_at"] is not None
    assert [(kind, op) for kind, op, _ in (await rig.changes())[before:]] == [("command", "updated")]
    await rig.take(d.inbound(result(command, "succeeded", output="done"), epoch="e2", seq=1))
    assert (await rig.store.get("command", command))["version"] == ended["version"]


async def test_in_one_batch_the_end_wins(rig: Rig) -> None:
    """Accepted, running and failed come together from a device that was away."""
    d, command = rig.device, await rig.command("sent")
    error = Error(code="NoSpace", message="disk full", recoverable=True)
    await rig.take(
        *(d.inbound(r) for r in (result(command, "accepted"), result(command, "running"), result(command, "failed", error=error)))
    )
    found = await rig.store.get("command", command)
    assert (found["state"], found["result"]["error"]["code"]) == ("failed", "NoSpace")


async def test_progress_never_goes_back(rig: Rig) -> None:
    """An accepted that comes after running is old."""
    d, command = rig.device, await rig.command("running")
    await rig.take(d.inbound(result(command, "accepted")))
    assert (await rig.store.get("command", command))["state"] == "running"


async def test_a_late_result_is_kept_beside_the_end(rig: Rig) -> None:
    """Every command's end is final."""
    d, command = rig.device, await rig.command("timed_out")
    await rig.take(d.inbound(result(command, "succeeded", output="after all")))
    found = await rig.store.get("command", command)
    assert (found["state"], found["late_result"]["state"], found["result"]) == ("timed_out", "succeeded", None)


async def test_a_result_for_another_devices_command_changes_nothing(rig: Rig) -> None:
    """Nor does one for no command; both are acknowledged."""
    command = await rig.command("running")
    [other] = await make_devices(rig.db, rig.store, rig.authority, ["other"])
    await rig.take(other.inbound(result(command, "succeeded")), other.inbound(result("cmd-none", "succeeded")))
    assert (await rig.store.get("command", command))["state"] == "running"
    assert rig.sent.acks(other) == [("e1", 2)]


# --- statuses and logs ----------------------------------------------------------------------------------------------------------


async def test_a_status_is_written_beside_the_host_config(rig: Rig) -> None:
    """As reported, with when; the same again writes nothing; drift is another report."""
    d, config = rig.device, await rig.host_config()
    item = Item(kind="host-config", id=config, generation=1, state="present", digest="sha256:1")
    await rig.take(d.inbound(status(item)))
    first = await rig.store.get("host-config", config)
    assert {k: v for k, v in first["reported"].items() if k != "at"} == {
        "generation": 1, "state": "present", "digest": "sha256:1", "reason": "", "message": "",
    }  # fmt: skip
    await rig.take(d.inbound(status(item)))
    assert (await rig.store.get("host-config", config))["version"] == first["version"]
    await rig.take(d.inbound(status(Item(kind="host-config", id=config, generation=1, state="drifted", digest="sha256:2"))))
    assert (await rig.store.get("host-config", config))["reported"]["state"] == "drifted"


async def test_what_a_full_status_does_not_name_is_gone(rig: Rig) -> None:
    """And what the device never had stays unreported."""
    d, one, two, never = rig.device, await rig.host_config(), await rig.host_config(), await rig.host_config()
    items = [Item(kind="host-config", id=id, generation=1, state="present", digest="d") for id in (one, two)]
    await rig.take(d.inbound(status(*items)))
    await rig.take(d.inbound(status(items[0], full=True)))
    states = [(await rig.store.get("host-config", id))["reported"] for id in (one, two, never)]
    assert [state and state["state"] for state in states] == ["present", "absent", None]


async def test_a_status_about_another_host_is_ignored(rig: Rig) -> None:
    """A device reports of its own resources alone."""
    config = await rig.host_config()
    [other] = await make_devices(rig.db, rig.store, rig.authority, ["other"])
    await rig.take(other.inbound(status(Item(kind="host-config", id=config, generation=1, state="present", digest="d"))))
    assert (await rig.store.get("host-config", config))["reported"] is None


async def test_a_checkpoint_is_for_its_device_and_says_what_is_awaited(rig: Rig) -> None:
    """Signed: whose question it answers, what of its stream is committed, and the commands that it was sent and has not answered."""
    d = rig.device
    sent = [await rig.command("sent", first_fence=n) for n in (5, 4)]
    for state in ("queued", "accepted", "succeeded"):
        await rig.command(state, first_fence=1)
    await rig.take(d.inbound(log_message()), d.inbound(d.presence()))
    [checkpoint] = rig.sent.checkpoints(d)
    moment = decode_text(Moment, checkpoint.signed)
    assert (moment.device, moment.epoch, moment.seq) == (d.id, "e1", 1)
    assert moment.awaiting == (sent[1], sent[0])


async def test_a_device_that_is_there_and_does_not_answer_is_asked_how_it_stands(rig: Rig) -> None:
    """After three sends of a command in this session; not for one that was sent to an earlier session, and not again at once."""
    d = rig.device
    await rig.take(d.inbound(d.presence()))
    await rig.command("sent", sends=2, sent_session=d.session, first_fence=1)
    await rig.command("sent", sends=9, sent_session="s0", first_fence=2)
    await rig.ingest.flush()
    assert rig.sent.resyncs(d) == []
    await rig.command("sent", sends=3, sent_session=d.session, first_fence=3)
    for _ in range(3):
        rig.mono += LOOK_S
        await rig.ingest.flush()
    [asked] = rig.sent.resyncs(d)
    assert (asked.sections, asked.items, asked.session) == (("agent",), False, d.session)


async def test_what_devices_refuse_is_counted(rig: Rig) -> None:
    """In /metrics, by reason; a device can't make up reasons, nor numbers that are none."""
    d, before = rig.device, METER.value(DEVICES_REFUSED, "bad-mac")
    data = {"bad-mac": 3, "forged-command": True, "stale-command": -1, "made-up": 7, "late-ack": "x", "unreadable": 2**60}
    await rig.take(d.inbound(Log(id="r1", type="messages-refused", severity="error", message="m", data=data)))
    assert METER.value(DEVICES_REFUSED, "bad-mac") - before == 3
    assert {labels[0] for labels, _ in METER.samples()[DEVICES_REFUSED.name]} <= set(Doubt)
    assert [n["type"] for n in (await rig.store.list("notification", ListQuery())).items] == ["messages-refused"]


async def test_logs_are_kept_once_and_errors_told(rig: Rig) -> None:
    """The same id in another epoch is the same log; of errors of one type people hear once in a while."""
    d = rig.device
    await rig.take(d.inbound(log_message("l1")), d.inbound(log_message("l2", "error", "journal-failed", "no disk")))
    await rig.take(
        d.inbound(log_message("l1"), epoch="e2", seq=1), d.inbound(log_message("l3", "error", "journal-failed"), epoch="e2", seq=2)
    )
    assert [row["log_id"] for row in await rig.fetch("SELECT log_id FROM device_log ORDER BY log_id")] == ["l1", "l2", "l3"]
    [note] = (await rig.store.list("notification", ListQuery())).items
    assert (note["type"], note["message"], note["about"]) == ("journal-failed", "no disk", {"kind": "host", "id": d.id})


# --- resync ---------------------------------------------------------------------------------------------------------------------


async def test_sections_that_are_missing_are_asked_for(rig: Rig) -> None:
    """Once they have been missing for a while, those alone; and no more when they have come."""
    d = rig.device
    d.sections = {"cpu": {"cores": 4}, "memory": {"total_bytes": 1}}
    await rig.take(d.inbound(d.presence()), d.inbound(d.facts(os={"kernel": "1"})))
    await rig.ingest.flush()
    assert rig.sent.resyncs(d) == []
    rig.mono += SETTLE_S + 1
    await rig.ingest.flush()
    [resync] = rig.sent.resyncs(d)
    assert set(resync.sections or ()) == {"cpu", "memory"} and not resync.items
    assert resync.session == d.session and resync.id, "it counts once, and in this session"
    await rig.take(d.inbound(d.facts(cpu={"cores": 4}, memory={"total_bytes": 1})))
    rig.mono += 1000
    await rig.ingest.flush()
    assert len(rig.sent.resyncs(d)) == 1


async def test_a_question_that_may_be_lost_is_asked_again(rig: Rig) -> None:
    """Each time another question, for the session that the device has then; after some times no more."""
    d = rig.device
    d.sections = {"cpu": {"cores": 4}}
    await rig.take(d.inbound(d.facts(os={"kernel": "1"})))
    rig.mono += SETTLE_S + 1
    await rig.ingest.flush()
    assert rig.sent.resyncs(d) == [], "it has no session yet that could be asked"
    await rig.take(d.inbound(d.presence()))
    for _ in range(2 * ASKS):
        rig.mono += ASK_AGAIN_S
        await rig.ingest.flush()
    asked = rig.sent.resyncs(d)
    assert len(asked) == ASKS - 1 == len({resync.id for resync in asked})


async def test_a_section_in_the_next_message_is_not_asked_for(rig: Rig) -> None:
    """Facts that did not fit into one message."""
    d = rig.device
    d.sections = {"cpu": {"cores": 4}}
    await rig.take(d.inbound(d.facts(os={"kernel": "1"})))
    await rig.take(d.inbound(d.facts(cpu={"cores": 4})))
    rig.mono += SETTLE_S + 1
    await rig.ingest.flush()
    assert rig.sent.resyncs(d) == []


async def test_resyncs_are_paced(rig: Rig) -> None:
    """Fifty devices at a time: each may answer with everything it has."""
    devices = await make_devices(rig.db, rig.store, rig.authority, [f"edge-{n}" for n in range(60)])
    for d in devices:
        d.sections = {"cpu": {"cores": 4}}
    await rig.take(*(d.inbound(d.presence()) for d in devices))
    await rig.take(*(d.inbound(d.facts(os={"kernel": "1"})) for d in devices))
    rig.mono += SETTLE_S + 1
    await rig.ingest.flush()
    assert sum(len(rig.sent.resyncs(d)) for d in devices) == 50
    await rig.ingest.flush()
    assert sum(len(rig.sent.resyncs(d)) for d in devices) == 60


# --- the database goes away -----------------------------------------------------------------------------------------------------


async def test_a_restart_of_the_database_in_the_middle_loses_nothing(rig: Rig) -> None:
    """Its connections are cut while batches are being written: everything is written once, in order, and acknowledged."""
    devices = await make_devices(rig.db, rig.store, rig.authority, [f"edge-{n}" for n in range(10)])
    other = await rig.db.connect()
    written = asyncio.Event()

    async def kill() -> None:
        for n in range(8):
            await written.wait()
            await asyncio.sleep(0.002 * n)  # another place within a transaction each time
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            written.clear()

    task, batches = asyncio.create_task(kill()), 0
    while batches < 30 or not task.done():
        written.set()
        async with patience(30):
            await rig.take(*(d.inbound(d.facts(os={"kernel": str(batches)})) for d in devices))
        batches += 1
    await task
    await other.close()
    for d in devices:
        assert rig.sent.acks(d)[-1] == ("e1", batches)
        assert (await rig.store.get("host", d.id))["kernel"] == str(batches - 1)
    assert rig.interrupted > 0
    assert await rig.fetch("SELECT * FROM poison") == []


async def test_answers_carry_a_mac_that_only_this_device_can_check(rig: Rig) -> None:
    """`Sent.to` has checked it with the device's key; with another it does not fit."""
    d = rig.device
    await rig.take(d.inbound(d.facts(os={})))
    assert [type(m) for m in rig.sent.to(d)] == [Ack]
    with pytest.raises(Exception, match="mac"):
        rig.sent.to(Device(d.id, b"1" * 32))


async def test_unseen_rows_of_the_kind_table_are_untouched(rig: Rig) -> None:
    """A component of another host with the same key is another component."""
    [other] = await make_devices(rig.db, rig.store, rig.authority, ["other"])
    await rig.take(*(d.inbound(d.facts(storage={"disks": [DISK]})) for d in (rig.device, other)))
    await rig.take(other.inbound(other.facts(storage={"disks": []})))
    rows = await rig.fetch("SELECT host, present, attributes FROM component")
    assert {row["host"]: row["present"] for row in rows} == {rig.device.id: True, other.id: False}
    assert loads(rows[0]["attributes"])["model"] == "Disk"

"""Dump and load of the database: what a restored one must and must not say, and when a load is refused."""

import gzip
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.messages import Item
from broker.topics import Topics
from fleetward import postgres
from fleetward.preflight import libpq_environment
from inventory import changes, schema
from inventory.actor import Actor
from inventory.authority import RESTORED, Authority
from inventory.backup import BackupError, Described, dump, load
from inventory.changes import Relay
from inventory.db import Database
from inventory.errors import Gone
from inventory.ingest import Ingest
from inventory.seals import Sealer
from inventory.signing import CommandSigner
from inventory.store import Store
from tests.inventory_wire.device import Device, Sent, make_device, result, status

BILLION = 1_000_000_000
ADMIN = Actor.user("admin", "admin")


@pytest.fixture
def programs(inventory_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PostgreSQL's programs, and libpq's variables for the test's database."""
    for name, value in libpq_environment(inventory_url).items():
        monkeypatch.setenv(name, value)
    return postgres.installed()[0].root / "bin"


async def saved(url: str, programs: Path, to: Path) -> Described:
    return await dump(url, programs, to)


async def restored(db: Database, url: str, programs: Path, file: Path, described: Described) -> Database:
    """The database after a load, with new connections."""
    await db.close()
    await load(url, programs, file, described.schema)
    return await Database.open(url, application="tests", pool_size=4)


async def numbers(db: Database) -> dict[str, int]:
    async with db.acquire() as connection:
        return {
            "version": await connection.fetchval("SELECT last_value FROM versions"),
            "work": await connection.fetchval("SELECT last_value FROM work_fences"),
            "position": await connection.fetchval("SELECT position FROM relay"),
            "fence": await connection.fetchval("SELECT max(fence) FROM device_identity"),
        }


async def test_nothing_falls(db: Database, inventory_url: str, programs: Path, tmp_path: Path) -> None:
    """Versions, positions and fences rise by 10^9; what was written since is gone, and who has read it is told; the chain goes on."""
    store, relay = Store(db), Relay(db)
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    await make_device(db, store, authority)
    for name in ("one", "two"):
        await store.create("region", {"name": name}, ADMIN)
    await relay.step()
    described = await saved(inventory_url, programs, tmp_path / "dump")
    assert asdict(described) == {"schema": tuple(sorted(schema.known())), "position": 3, "hosts": 1}
    before = await numbers(db)
    for name in ("lost", "also-lost"):
        await store.create("region", {"name": name}, ADMIN)
    await relay.step()
    db = await restored(db, inventory_url, programs, tmp_path / "dump", described)
    try:
        assert await numbers(db) == {name: value + BILLION for name, value in before.items()}
        store, relay = Store(db), Relay(db)
        assert (await store.create("region", {"name": "three"}, ADMIN))["version"] > BILLION
        await relay.step()
        assert [c.position for c in (await changes.read(db, 2)).changes] == [3, 3 + BILLION + 1], "who was behind reads on"
        assert [c.position for c in (await changes.read(db, 3 + BILLION)).changes] == [3 + BILLION + 1]
        for ahead in (4, 5, 2 + BILLION):
            with pytest.raises(Gone, match="restored"):
                await changes.read(db, ahead)
        assert await changes.trim(db, datetime.now(UTC), Sealer.read(authority.directory).anchor) == 999_999, "retention passes the gap"
        async with db.acquire() as connection:
            anchor = await connection.fetchval("SELECT hash FROM change_anchors")
            row = await connection.fetchrow("SELECT * FROM changes")
        assert row is not None and changes.chain(bytes(anchor), row["position"], row) == bytes(row["hash"])
    finally:
        await db.close()


async def test_a_device_is_asked_and_what_it_has_too_much_is_noted(
    db: Database, inventory_url: str, programs: Path, tmp_path: Path
) -> None:
    """Once connected it is asked for its items, again until it tells; its numbers draw an acknowledgement below what it was told; an item
    that nobody asks for is queued for removal, and forgotten when the device says that it is gone."""
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    device = await make_device(db, Store(db), authority)
    described = await saved(inventory_url, programs, tmp_path / "dump")
    db = await restored(db, inventory_url, programs, tmp_path / "dump", described)
    try:
        sent = Sent()
        ingest = Ingest(db, Topics(), authority, CommandSigner(authority.directory), sent)
        await ingest.process(await ingest.open([device.inbound(device.presence())]))
        await ingest.flush()
        await ingest.flush()
        [asked] = sent.resyncs(device)
        assert asked.items and asked.sections == ()
        device.session = "s2"
        await ingest.process(await ingest.open([device.inbound(device.presence())]))
        await ingest.flush()
        assert len(sent.resyncs(device)) == 2, "who connects anew has not heard what was asked before"
        stray = Item(kind="host-config", id="hcfg-lost", generation=4, state="present", digest="d")
        await said(ingest, device, stray, seq=9)
        assert sent.acks(device) == [("e1", 0)], "below what it had been told"
        device.epoch, device.seq = "e2", 0
        await said(ingest, device, stray)
        async with db.acquire() as connection:
            assert await connection.fetchval("SELECT resync_at FROM device_stream") is None
            found = [tuple(row) for row in await connection.fetch("SELECT id, host, generation FROM strays")]
            assert found == [("hcfg-lost", device.id, 4)]
            assert await connection.fetchval("SELECT key FROM work WHERE manager = 'host-config'") == "hcfg-lost"
        await said(ingest, device, Item(kind="host-config", id="hcfg-lost", generation=5, state="absent"), full=False)
        async with db.acquire() as connection:
            assert await connection.fetchval("SELECT count(*) FROM strays") == 0
        await said(ingest, device, Item(kind="host-config", id="hcfg-other", generation=1, state="present", digest="d"))
        async with db.acquire() as connection:
            assert await connection.fetchval("SELECT count(*) FROM strays") == 0, "only a device in doubt is tidied up"
        await ingest.process(await ingest.open([device.inbound(result("cmd-lost", "succeeded"))]))
        assert sent.acks(device)[-1] == ("e2", device.seq), "a result of a lost command is acknowledged, and nothing else"
    finally:
        await db.close()


async def said(ingest: Ingest, device: Device, *items: Item, full: bool = True, **numbers: int) -> None:
    await ingest.process(await ingest.open([device.inbound(status(*items, full=full), **numbers)]))


async def test_a_load_is_refused_beside_services_and_of_newer_schemas(
    db: Database, inventory_url: str, programs: Path, tmp_path: Path
) -> None:
    """Before anything is touched; a dump that breaks halfway leaves everything as it was."""
    await Store(db).create("region", {"name": "there"}, ADMIN)
    described = await saved(inventory_url, programs, tmp_path / "dump")
    with pytest.raises(BackupError, match="9999_future"):
        await load(inventory_url, programs, tmp_path / "dump", (*described.schema, "9999_future"))
    service = await Database.open(inventory_url, application="fleetward-managers", pool_size=1)
    async with service.acquire():
        with pytest.raises(BackupError, match="fleetward-managers"):
            await load(inventory_url, programs, tmp_path / "dump", described.schema)
    await service.close()
    content = gzip.decompress((tmp_path / "dump").read_bytes())
    (tmp_path / "broken").write_bytes(gzip.compress(content[: len(content) // 2] + b"\nSELECT no_such_thing;\n"))
    with pytest.raises(BackupError, match="can't be loaded"):
        await load(inventory_url, programs, tmp_path / "broken", described.schema)
    assert (await Store(db).get("region", "there"))["version"] < BILLION
    assert (tmp_path / "dump").stat().st_mode & 0o777 == 0o600
    assert os.environ["PGDATABASE"]


def test_the_delegation_outranks_what_devices_may_have_seen(tmp_path: Path) -> None:
    """And still signs: what was signed with the earlier one is refused by a device that has heard of this one."""
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    signer = CommandSigner(authority.directory)
    generation, key = signer.generation, signer.sign("x").key
    authority.delegate_anew()
    assert signer.generation == generation + RESTORED
    assert signer.sign("x").key == key
    authority.bootstrap()
    assert CommandSigner(authority.directory).generation == generation + RESTORED, "the next start keeps it"

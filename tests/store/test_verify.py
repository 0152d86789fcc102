"""The change log's verification: an untouched log is intact whatever happened to it, and nothing done to it goes unseen."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from inventory import account_log, changes, seals
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import SQL, Connection, Database
from inventory.heads import Witness
from inventory.seals import Head, Sealer
from inventory.store import Store
from inventory.verdict import read_head, words
from inventory.verify import Acquire, Report, verify
from tests.store import tampering
from tests.waiting import patience

KEY = bytes(range(32))
NOW = datetime(2026, 11, 26, 18, 0, tzinfo=UTC)
TAMPERS = 1000
SAMPLE = 200
"""Of them in `make test`: each way of tampering several times."""


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(KEY)


async def fill(store: Store, sealer: Sealer, admin: Actor) -> Head:
    """Forty-odd changes of resources and accounts, with a head amid them and one at the end, which is given."""
    witness, relay = Witness(store, sealer), Relay(store.db)
    for n in range(14):
        await store.create("region", {"name": f"r{n}", "labels": {"n": str(n)}}, admin)
        await store.patch("region", f"r{n}", {"title": f"Ünï {n}\\\n\x1f"}, admin)
        async with store.db.transaction() as tx:
            await account_log.record(tx, admin, "user", f"user-{n}", NOW, after={"name": f"ann{n}", "role": "viewer"})
        if n % 3 == 0:
            await store.delete("region", f"r{n}", admin)
        await relay.step()
        if n == 6:
            await witness.step(NOW)
    head = await witness.step(NOW + timedelta(hours=2))
    assert head is not None
    return head


def through(connection: Connection) -> Acquire:
    """One connection for all that is asked, to see what a transaction has not committed."""

    @asynccontextmanager
    async def acquire() -> AsyncIterator[Connection]:
        yield connection

    def give() -> AbstractAsyncContextManager[Connection]:
        return acquire()

    return give


async def report(db: Database, sealer: Sealer, **saved: Head) -> Report:
    return await verify(db.acquire, sealer.public, saved)


@pytest.mark.sampled
async def test_a_thousand_tampers_are_all_found(store: Store, db: Database, sealer: Sealer, admin: Actor, full: bool) -> None:
    """Rows edited in every column, removed, swapped, renumbered, forged, cut off and computed anew: each is found, and where."""
    head = await fill(store, sealer, admin)
    assert (await report(db, sealer)).count == 0
    unseen, ways = list[str](), set[str]()
    async with db.acquire() as connection:
        for seed in range(TAMPERS if full else SAMPLE):
            dice = random.Random(seed)
            way = dice.choice(tampering.WAYS)
            undone = connection.transaction()
            await undone.start()
            where = await way(dice, connection)
            found = await verify(through(connection), sealer.public)
            await undone.rollback()
            ways.add(way.__name__)
            if not any(finding.position in where for finding in found.findings):
                unseen.append(f"seed {seed}, {way.__name__} at {list(where)}: {found.findings}")
    assert not unseen, "\n".join(unseen)
    assert ways == {way.__name__ for way in tampering.WAYS}
    assert (await report(db, sealer, kept=head)).count == 0


async def test_an_untouched_log_is_intact(store: Store, db: Database, sealer: Sealer, admin: Actor) -> None:
    """Every row and head of it is looked at, in portions."""
    head = await fill(store, sealer, admin)
    found = await report(db, sealer, kept=head)
    assert (found.count, found.first, found.last, found.heads) == (0, 1, head.position, 3)
    assert found.changes == head.position > 40
    assert "intact" in words(found, sealer.id).splitlines()
    assert json.loads(json.dumps(found.to_json()))["intact"] is True


async def test_an_empty_log_is_intact(db: Database, sealer: Sealer) -> None:
    """There is nothing that could be wrong."""
    assert (await report(db, sealer)).count == 0


async def test_a_cut_tail_shows_by_a_head_kept_elsewhere(store: Store, db: Database, sealer: Sealer, admin: Actor) -> None:
    """With the heads in the database removed as well, the log is intact but for whoever has kept one."""
    head = await fill(store, sealer, admin)
    async with db.transaction() as tx:
        await tx.raw.execute("DELETE FROM chain_heads")
        await tx.raw.execute("DELETE FROM changes WHERE position > 20")
        await tx.raw.execute("UPDATE relay SET position = 20, hash = (SELECT hash FROM changes WHERE position = 20)")
    assert (await report(db, sealer)).count == 0
    [finding] = (await report(db, sealer, kept=head)).findings
    assert (finding.position, finding.what) == (20, "end")
    assert "tail was cut" in finding.detail


async def test_rows_computed_anew_show_by_a_head_kept_elsewhere(store: Store, db: Database, sealer: Sealer, admin: Actor) -> None:
    """A chain that fits does not fit what was signed."""
    head = await fill(store, sealer, admin)
    async with db.transaction() as tx:
        await tx.raw.execute("DELETE FROM chain_heads")
        await tampering.recompute(random.Random(1), tx.raw)
    assert (await report(db, sealer)).count == 0
    assert [finding.what for finding in (await report(db, sealer, kept=head)).findings] == ["head"]


@pytest.mark.parametrize("part", ["position", "hash", "at", "signature", "key"])
async def test_a_forged_head_proves_nothing(part: str, store: Store, db: Database, sealer: Sealer, admin: Actor) -> None:
    """One that was edited, or is of another installation, is refused as what it is."""
    head = await fill(store, sealer, admin)
    other = Sealer(bytes(32)).head(head.position, head.hash, head.at)
    forged = {
        "position": replace(head, position=head.position - 1),
        "hash": replace(head, hash=bytes(32)),
        "at": replace(head, at=head.at + timedelta(seconds=1)),
        "signature": replace(head, signature=bytes(64)),
        "key": other,
    }[part]
    [finding] = (await report(db, sealer, kept=forged)).findings
    assert finding.what == "head" and "kept" in finding.detail


async def test_retention_leaves_a_log_that_verifies(
    store: Store, db: Database, sealer: Sealer, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signed anchor takes the place of what is gone; without its signature, or with another hash, it is a finding."""
    monkeypatch.setattr(changes, "PARTITION", 10)
    async with db.transaction() as tx:
        await tx.raw.execute("DROP TABLE changes_0; CREATE TABLE changes_0 PARTITION OF changes FOR VALUES FROM (0) TO (10)")
    old = sealer.head(5, b"x" * 32, NOW)
    head = await fill(store, sealer, admin)
    assert await changes.trim(db, store.clock() + timedelta(seconds=1), sealer.anchor) == head.position // 10 * 10 - 1
    found = await report(db, sealer, kept=head, old=old)
    assert (found.count, found.first) == (0, head.position // 10 * 10)
    assert ["retention has dropped" in note for note in found.notes] == [True]
    for tampered in ("signature = NULL", "hash = sha256(hash)"):
        async with db.acquire() as connection:
            undone = connection.transaction()
            await undone.start()
            await connection.execute(f"UPDATE change_anchors SET {tampered}")
            found = await verify(through(connection), sealer.public)
            await undone.rollback()
        assert "anchor" in {finding.what for finding in found.findings}


async def test_a_restore_leaves_a_log_that_verifies(store: Store, db: Database, sealer: Sealer, admin: Actor, tmp_path: Path) -> None:
    """The positions that it skips are signed for; a head of what it has lost is told as that."""
    await fill(store, sealer, admin)
    end = await changes.position(db)
    (tmp_path / seals.KEY_FILE).write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    async with db.transaction() as tx:
        await tx.raw.execute("INSERT INTO log_gaps (after, before, at) SELECT position, position + 1000000000, now() FROM relay")
        await tx.raw.execute("UPDATE relay SET position = position + 1000000000")
        first = (end + 1_000_000_001) // changes.PARTITION
        await tx.raw.execute(
            f"CREATE TABLE changes_{first} PARTITION OF changes FOR VALUES FROM ({first * changes.PARTITION}) "
            f"TO ({(first + 1) * changes.PARTITION})"
        )
    assert [finding.what for finding in (await report(db, sealer)).findings] == ["gap", "missing"]
    await seals.seal_restore(db, tmp_path, NOW)
    assert (await report(db, sealer)).count == 0
    await Relay(db).step()
    found = await report(db, sealer, lost=sealer.head(end + 3, b"y" * 32, NOW))
    assert [(finding.position, finding.what) for finding in found.findings] == [(end + 3, "head")]
    assert f"went back to {end}" in found.findings[0].detail
    [restored] = (await changes.read(db, end)).changes
    assert (restored.kind, restored.op, restored.resource) == ("installation", "restored", {"up_to": end, "on_from": end + 1_000_000_001})


async def test_a_log_that_goes_on_is_verified_up_to_where_it_was(
    store: Store, db: Database, sealer: Sealer, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written and signed while it is read is neither missed nor taken for too much."""
    monkeypatch.setattr("inventory.verify.PORTION", 7)
    head = await fill(store, sealer, admin)
    stop = asyncio.Event()

    async def go_on() -> None:
        witness, relay = Witness(store, sealer), Relay(db)
        while not stop.is_set():
            await store.create("region", {"name": f"more-{await changes.position(db)}"}, admin)
            await relay.step()
            await witness.step(datetime.now(UTC))

    writer = asyncio.create_task(go_on())
    found = [await report(db, sealer, kept=head)]
    async with patience(30):
        while len(found) < 10 or found[-1].last == found[0].last:
            found.append(await report(db, sealer, kept=head))
    stop.set()
    await writer
    assert [each.findings for each in found] == [[]] * len(found)
    assert head.position <= found[0].last < found[-1].last


async def test_a_missing_key_is_made_and_signs_what_stands(db: Database, sealer: Sealer, tmp_path: Path) -> None:
    """An installation from before the audit: its anchors and gaps are signed by the first key, and by no later one."""
    async with db.transaction() as tx:
        await tx.raw.execute("INSERT INTO change_anchors (position, hash, at) VALUES (9, sha256('x'), now())")
        await tx.raw.execute("INSERT INTO log_gaps (after, before, at) VALUES (1, 5, now())")
        await tx.raw.execute(SQL["add_head"], 7, b"x", NOW, sealer.public, b"y")
    await seals.ensure_key(db, tmp_path / "secrets")
    made = Sealer.read(tmp_path / "secrets")
    async with db.acquire() as connection:
        anchor = await connection.fetchrow("SELECT * FROM change_anchors")
        gap = await connection.fetchrow("SELECT * FROM log_gaps")
        assert await connection.fetchval("SELECT count(*) FROM chain_heads") == 0, "heads of a key that is gone"
    assert anchor is not None and gap is not None
    assert seals.stands(made.public, seals.anchored(9, bytes(anchor["hash"])), anchor["signature"])
    assert seals.stands(made.public, seals.missing(1, 5), gap["signature"])
    async with db.transaction() as tx:
        await tx.raw.execute("UPDATE log_gaps SET signature = NULL")
    await seals.ensure_key(db, tmp_path / "secrets")
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT signature FROM log_gaps") is None, "the key is there: nothing is signed unasked"
    assert Sealer.read(tmp_path / "secrets").public == made.public


def test_a_head_comes_back_from_its_file(sealer: Sealer, tmp_path: Path) -> None:
    """As it was written; what is no head says which member is wrong."""
    head = sealer.head(4711, bytes(range(32)), NOW + timedelta(microseconds=123_456))
    file = tmp_path / "head.json"
    file.write_text(json.dumps(head.to_json()))
    assert read_head(file) == head
    for name, value in (
        ("v", 2),
        ("position", "4711"),
        ("position", -1),
        ("hash", "xy"),
        ("at", "today"),
        ("key", "?"),
        ("signature", None),
    ):
        file.write_text(json.dumps(head.to_json() | {name: value}))
        with pytest.raises(ValueError, match=rf"head\.json holds no head.*{name}"):
            read_head(file)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"head\.json"):
        read_head(file)

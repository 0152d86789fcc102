"""The audit trail: entries by who, from where, what and when, in pages and as a whole."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from inventory import account_log, changes, trail
from inventory.actor import Actor
from inventory.changes import Draft, Relay
from inventory.db import Database
from inventory.store import Store
from inventory.trail import PEOPLE, Wanted

NOW = datetime(2020, 1, 2, tzinfo=UTC)
ANN = Actor.user("ann", "admin", "192.0.2.7")
BOB = Actor.user("bob", "admin", "192.0.2.8")
EVE = Actor("stranger", "eve", address="203.0.113.9")


async def fill(store: Store) -> None:
    """Positions 1 to 8: what ann, bob, a stranger and a manager did."""
    region = await store.create("region", {"name": "north", "labels": {"line": "3"}}, ANN)
    await store.patch("region", "north", {"title": "North", "labels": {"line": "4"}}, BOB)
    viewer, admin = {"name": "eve", "role": "viewer"}, {"name": "eve", "role": "admin"}
    seen = Draft(
        "host", "host-1", "updated", 1, 1, ("presence",), {"presence": "stale"}, {"presence": "online"}, "host-1", Actor.inventory()
    )
    async with store.db.transaction() as tx:
        await account_log.record(tx, ANN, "user", "user-1", NOW, after=viewer)
        await account_log.record(tx, BOB, "user", "user-1", NOW, before=viewer, after=admin)
        await account_log.record(tx, EVE, "sign-in", "user-1", NOW, after={"user": "eve"}, op="refused")
        await changes.append(tx, [seen], NOW - timedelta(days=1))
    await store.delete("region", region["id"], ANN)
    async with store.db.transaction() as tx:
        await account_log.record(tx, ANN, "user", "user-1", NOW, before={"name": "eve", "role": "admin"})
    await Relay(store.db).step()


def positions(items: list[dict[str, Any]]) -> list[int]:
    return [item["position"] for item in items]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), [8, 7, 6, 5, 4, 3, 2, 1]),
        (Wanted(types=PEOPLE), [8, 7, 5, 4, 3, 2, 1]),
        (Wanted(types=("inventory",)), [6]),
        (Wanted(types=("user", "inventory"), actor="inventory"), [6]),
        (Wanted(actor="bob"), [4, 2]),
        (Wanted(types=("stranger",)), [5]),
        (Wanted(address="203.0.113.9"), [5]),
        (Wanted(address="192.0.2.7", kinds=("user",)), [8, 3]),
        (Wanted(kinds=("user", "sign-in"), types=PEOPLE), [8, 5, 4, 3]),
        (Wanted(ops=("refused", "deleted")), [8, 7, 5]),
        (Wanted(id="user-1", ops=("updated",)), [4]),
        (Wanted(path="role"), [4]),
        (Wanted(path="labels.line"), [2]),
        (Wanted(until=NOW), [6]),
        (Wanted(since=NOW, until=NOW + timedelta(seconds=1), types=("user",)), [8, 4, 3]),
        (Wanted(actor="nobody"), []),
    ],
)
async def test_each_filter_chooses(wanted: Wanted, found: list[int], store: Store, db: Database) -> None:
    """Alone and together, newest first in a page, oldest first as a whole."""
    await fill(store)
    assert positions((await trail.page(db, wanted)).items) == found
    assert [p async for portion in trail.everything(db, wanted) for p in positions(portion)] == found[::-1]


async def test_an_entry_says_before_and_after_of_what_changed(store: Store, db: Database) -> None:
    """Of an update only that; of what was made all there is, of what is gone all there was; and its place in the chain."""
    await fill(store)
    items = {item["position"]: item for item in (await trail.page(db, Wanted())).items}
    assert items[2]["changed"] == ["title", "labels.line"]
    assert items[2]["before"] == {"title": "", "labels": {"line": "3"}}
    assert items[2]["after"] == {"title": "North", "labels": {"line": "4"}}
    assert (items[3]["before"], items[3]["after"]) == (None, {"name": "eve", "role": "viewer"})
    assert (items[8]["before"], items[8]["after"]) == ({"name": "eve", "role": "admin"}, None)
    assert items[4]["actor"] == {"type": "user", "name": "bob", "address": "192.0.2.8"}
    assert len(items[1]["hash"]) == 64


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(types=PEOPLE)])
async def test_pages_follow_one_another(wanted: Wanted, store: Store, db: Database) -> None:
    """Each goes on below the one before, without an entry twice or left out."""
    await fill(store)
    seen, before = list[int](), None
    while True:
        found = await trail.page(db, wanted, before=before, limit=3)
        seen += positions(found.items)
        if found.next is None:
            break
        before = found.next
    assert seen == positions((await trail.page(db, wanted)).items)


async def test_a_page_looks_no_further_than_its_window(store: Store, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rare in a long log is found all the same, page by page; a gap of a restore costs nothing."""
    monkeypatch.setattr(trail, "WINDOW", 3)
    await fill(store)
    async with db.transaction() as tx:
        await tx.raw.execute("CREATE TABLE changes_1000 PARTITION OF changes FOR VALUES FROM (1000000000) TO (1001000000)")
        await tx.raw.execute("UPDATE changes SET position = position + 1000000000 WHERE position > 4")
        await tx.raw.execute("UPDATE relay SET position = 1000000008")
    seen, before, asked = list[int](), None, 0
    while True:
        found = await trail.page(db, Wanted(path="role"), before=before)
        seen, asked = seen + positions(found.items), asked + 1
        if found.next is None:
            break
        before = found.next
    assert (seen, asked) == ([4], 4)
    assert [p async for portion in trail.everything(db, Wanted(path="role")) for p in positions(portion)] == [4]
    assert len([p async for portion in trail.everything(db, Wanted()) for p in positions(portion)]) == 8


async def test_an_export_of_any_length_comes_in_portions(store: Store, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry twice or left out at their edges, from any position on."""
    monkeypatch.setattr(trail, "PORTION", 3)
    await fill(store)
    for wanted, expected in ((Wanted(), [[3, 4, 5], [6, 7, 8]]), (Wanted(types=PEOPLE), [[3, 4, 5], [7, 8]])):
        assert [positions(portion) async for portion in trail.everything(db, wanted, after=2)] == expected


async def test_what_people_did_is_found_by_its_index(store: Store, db: Database) -> None:
    """However much devices and managers write: the planner uses the partial index once there is something to choose from."""
    await fill(store)
    drafts = [Draft("host", "host-1", "updated", n, 1, (), {}, {}, "host-1", Actor.inventory()) for n in range(3000)]
    async with db.transaction() as tx:
        await changes.append(tx, drafts, NOW)
    while await Relay(db).step():
        pass
    async with db.acquire() as connection:
        await connection.execute("ANALYZE changes")
        conditions, values = trail._conditions(Wanted(types=PEOPLE, actor="ann"), [0, 10_000, 50])
        plan = await connection.fetch(
            f"EXPLAIN SELECT * FROM changes WHERE position > $1 AND position <= $2{conditions} ORDER BY position DESC LIMIT $3", *values
        )
    text = "\n".join(row[0] for row in plan)
    assert "changes_0_position_idx" in text, text

"""The store's promises, one by one, on a real database."""

import asyncio
from typing import Any

import pytest

from inventory.actor import Actor
from inventory.changes import Relay, Slice, read
from inventory.db import Database
from inventory.errors import Conflict, Forbidden, Invalid, LeaseLost, NotFound, PreconditionFailed, Unavailable
from inventory.kinds import BY_NAME
from inventory.store import Lease, ListQuery, Store
from tests.waiting import patience

CONFIG = Actor.manager("config")


async def log_of(db: Database) -> Slice:
    relay = Relay(db)
    while await relay.step():
        pass
    return await read(db, 0)


async def test_a_write_and_its_change_are_one(store: Store, db: Database, admin: Actor) -> None:
    """Creating, changing and deleting leave one change each, with actor, paths and old values."""
    made = await store.create("region", {"name": "north", "labels": {"zone": "1"}}, admin)
    await store.patch("region", "north", {"labels": {"zone": "2", "new": "x"}, "title": "North"}, admin)
    await store.delete("region", made["id"], admin)
    created, updated, deleted = (await log_of(db)).changes
    assert [c.op for c in (created, updated, deleted)] == ["created", "updated", "deleted"]
    assert updated.changed == ("title", "labels.new", "labels.zone")
    assert updated.before == {"title": "", "labels": {"zone": "1"}}
    assert deleted.resource is None and deleted.before is not None and deleted.before["labels"] == {"zone": "2", "new": "x"}
    assert created.actor == {"type": "user", "name": "admin", "address": "127.0.0.1"}
    assert created.version < updated.version < deleted.version


async def test_a_version_never_falls_across_delete_and_recreate(store: Store, admin: Actor) -> None:
    """A resource made again under its old name is newer than the one that went."""
    first = await store.create("region", {"name": "north"}, admin)
    await store.delete("region", "north", admin)
    assert (await store.create("region", {"name": "north"}, admin))["version"] > first["version"] + 1


async def test_generation_rises_with_intent_only(store: Store, admin: Actor) -> None:
    """Names, titles and labels are no intent; what the user wants of the resource is."""
    await store.create("config", {"name": "motd", "selector": ""}, admin)
    named = await store.patch("config", "motd", {"title": "Message", "labels": {"a": "b"}}, admin)
    wanted = await store.patch("config", "motd", {"priority": 5}, admin)
    assert (named["generation"], wanted["generation"]) == (1, 2)


async def test_a_patch_that_changes_nothing_writes_nothing(store: Store, db: Database, admin: Actor) -> None:
    """The same values again, read-only ones included, give neither version nor change."""
    made = await store.create("region", {"name": "north"}, admin)
    again = await store.patch("region", "north", made, admin)
    assert again["version"] == made["version"]
    assert len((await log_of(db)).changes) == 1


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/name", "/selector"]),
        ({"name": "Not A Name", "selector": ""}, ["/name"]),
        ({"name": "x", "selector": "cpu_cores >"}, ["/selector"]),
        ({"name": "x", "selector": "presence = online"}, ["/selector"]),
        ({"name": "x", "selector": "", "priority": "1"}, ["/priority"]),
        ({"name": "x", "selector": "", "priority": True}, ["/priority"]),
        ({"name": "x", "selector": "", "labels": {"UPPER": "1", "ok": 2}}, ["/labels/ok"]),
        ({"name": "x", "selector": "", "labels": {"UPPER": "1"}}, ["/labels"]),
        ({"name": "x", "selector": "", "files": [{"path": "relative", "content": ""}]}, ["/files/0/path"]),
        ({"name": "x", "selector": "", "files": [{"path": "/a/../b", "content": ""}]}, ["/files/0/path"]),
        ({"name": "x", "selector": "", "files": [{"path": "/a"}]}, ["/files/0"]),
        ({"name": "x", "selector": "", "files": [{"path": "/a", "content": "", "mode": "999"}]}, ["/files/0/mode"]),
        ({"name": "x", "selector": "", "files": [{"path": "/a", "template": "{{"}]}, ["/files/0/template"]),
        ({"name": "x", "selector": "", "files": [{"path": "/a", "content": "x" * 131_073}]}, ["/files"]),
        ({"name": "x", "selector": "", "on_change": {"command": ["a"], "timeout_s": 0}}, ["/on_change/timeout_s"]),
        ({"name": "x", "selector": "", "fils": []}, ["/fils"]),
        ({"name": "a\x00b", "selector": ""}, ["/name"]),
        ({"name": "x", "selector": "", "title": "a\x00b"}, ["/title"]),
        ({"name": "x", "selector": "", "title": "\ud800"}, ["/title"]),
        ({"name": None, "selector": None}, ["/name", "/selector"]),
        ([], [""]),
        ("text", [""]),
    ],
)
async def test_bad_input_names_its_fields_and_writes_nothing(
    store: Store, db: Database, admin: Actor, body: Any, pointers: list[str]
) -> None:
    """Each problem comes with its JSON pointer, and neither row nor change is left behind."""
    with pytest.raises(Invalid) as refusal:
        await store.create("config", body, admin)
    found = [p.pointer for p in refusal.value.errors]
    assert set(pointers) <= set(found)
    assert (await store.list("config", ListQuery())).items == []
    assert (await log_of(db)).changes == []


async def test_fields_of_other_owners_are_refused(store: Store, admin: Actor) -> None:
    """A user can't write what the device or Inventory owns, on create or patch; a manager only what is its own."""
    with pytest.raises(Forbidden) as refusal:
        await store.create("host", {"name": "h", "serial": "1"}, admin)
    assert [p.pointer for p in refusal.value.errors] == ["/serial"]
    host = await store.create("host", {"name": "h"}, admin)
    with pytest.raises(Forbidden):
        await store.patch("host", "h", {"presence": "online"}, admin)
    with pytest.raises(Forbidden):
        await store.write("host", host["id"], {"current_state": "onboarded"}, CONFIG)
    with pytest.raises(Forbidden):
        await store.create("component", {"name": "c"}, admin)


async def test_the_loser_of_a_race_is_told(store: Store, admin: Actor) -> None:
    """Of two patches with the same If-Match, one wins and the other gets PreconditionFailed."""
    made = await store.create("region", {"name": "north"}, admin)
    tries = [store.patch("region", "north", {"title": str(n)}, admin, if_match=made["version"]) for n in range(4)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(r, dict) for r in results) == 1
    assert sum(isinstance(r, PreconditionFailed) for r in results) == 3


async def test_what_is_used_stays(store: Store, admin: Actor) -> None:
    """Deleting a region with sites is refused, and the refusal names them."""
    await store.create("region", {"name": "north"}, admin)
    await store.create("site", {"name": "kiel", "region": "north"}, admin)
    with pytest.raises(Conflict, match="kiel"):
        await store.delete("region", "north", admin)
    await store.delete("site", "kiel", admin)
    assert await store.delete("region", "north", admin) is None


async def test_references_by_name_are_shown_as_ids(store: Store, admin: Actor) -> None:
    """Input takes a name or an id; what does not exist is refused with its pointer."""
    north = await store.create("region", {"name": "north"}, admin)
    site = await store.create("site", {"name": "kiel", "region": "north"}, admin)
    assert site["region"] == north["id"]
    assert (await store.patch("site", "kiel", {"region": north["id"]}, admin))["version"] == site["version"]
    with pytest.raises(Invalid) as refusal:
        await store.patch("site", "kiel", {"region": "south"}, admin)
    assert refusal.value.errors[0].pointer == "/region"


async def test_regions_make_no_circle(store: Store, admin: Actor) -> None:
    """A region can't come to lie below itself, over however many steps, nor by two patches at once."""
    for name, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", None)):
        await store.create("region", {"name": name, "parent": parent}, admin)
    with pytest.raises(Invalid, match="circle"):
        await store.patch("region", "a", {"parent": "c"}, admin)
    results = await asyncio.gather(
        store.patch("region", "a", {"parent": "d"}, admin), store.patch("region", "d", {"parent": "a"}, admin), return_exceptions=True
    )
    assert sum(isinstance(r, Invalid) for r in results) == 1


async def test_taken_names(store: Store, admin: Actor) -> None:
    """A taken name is a conflict, except for hosts, which get the next number, also when ten come at once."""
    await store.create("region", {"name": "north"}, admin)
    with pytest.raises(Conflict, match="north"):
        await store.create("region", {"name": "north"}, admin)
    hosts = await asyncio.gather(*(store.create("host", {"name": "line"}, admin) for _ in range(10)))
    assert {h["name"] for h in hosts} == {"line", *(f"line-{n}" for n in range(2, 11))}


async def test_labels_are_inherited_and_the_nearest_wins(store: Store, db: Database, admin: Actor) -> None:
    """Host over site over region over the region above; hosts whose labels did not change get no change."""
    await store.create("region", {"name": "world", "labels": {"a": "world", "b": "world", "c": "world", "d": "world"}}, admin)
    await store.create("region", {"name": "north", "parent": "world", "labels": {"b": "north", "c": "north", "d": "north"}}, admin)
    await store.create("site", {"name": "kiel", "region": "north", "labels": {"c": "kiel", "d": "kiel"}}, admin)
    await store.create("host", {"name": "h1", "site": "kiel", "labels": {"d": "host"}}, admin)
    await store.create("host", {"name": "h2", "site": "kiel", "labels": {"a": "own", "d": "own"}}, admin)
    assert (await store.get("host", "h1"))["effective_labels"] == {"a": "world", "b": "north", "c": "kiel", "d": "host"}
    world = await store.patch("region", "world", {"labels": {"a": "earth"}}, admin)
    before = (await log_of(db)).next
    changed = await store.relabel(Actor.manager("places"), regions=[world["id"]])
    assert changed == [(await store.get("host", "h1"))["id"]]
    await log_of(db)
    [change] = (await read(db, before)).changes
    assert change.changed == ("effective_labels.a",) and change.host == change.id
    found = await store.list("host", ListQuery(filter='labels.a = "earth"'))
    assert [h["name"] for h in found.items] == ["h1"]


async def test_two_phase_deletes(store: Store, admin: Actor) -> None:
    """A host waits for its manager; a config for its host-configs; what the owner loses, the owned lose too."""
    host = await store.create("host", {"name": "h"}, admin)
    config = await store.create("config", {"name": "c", "selector": ""}, admin)
    held = await store.make("host-config", {"host": host["id"], "config": config["id"], "digest": "d"}, CONFIG)
    waiting = await store.delete("config", "c", admin)
    assert waiting is not None and waiting["deleted_at"] is not None
    with pytest.raises(Conflict):
        await store.patch("config", "c", {"priority": 1}, admin)
    leaving = await store.delete("host", "h", admin)
    assert leaving is not None and leaving["desired_state"] == "deleted"
    await store.remove("host", host["id"], Actor.manager("host"))
    with pytest.raises(NotFound):
        await store.get("host-config", held["id"])
    assert await store.delete("config", "c", admin) is None


async def test_force_drops_a_row_that_nobody_confirmed(store: Store, admin: Actor) -> None:
    """force=true removes a two-phase resource at once, with what it owns."""
    host = await store.create("host", {"name": "h"}, admin)
    assert await store.delete("host", "h", admin, force=True) is None
    with pytest.raises(NotFound):
        await store.get("host", host["id"])


async def test_a_dry_run_answers_and_leaves_nothing(store: Store, db: Database, admin: Actor) -> None:
    """The answer is that of the real write; no row, change or deletion remains."""
    shown = await store.create("region", {"name": "north"}, admin, dry_run=True)
    assert shown["name"] == "north"
    with pytest.raises(NotFound):
        await store.get("region", "north")
    await store.create("region", {"name": "north"}, admin)
    assert await store.delete("region", "north", admin, dry_run=True) is None
    assert (await store.get("region", "north"))["name"] == "north"
    assert len((await log_of(db)).changes) == 1


async def test_a_lost_lease_writes_nothing(store: Store, db: Database) -> None:
    """A manager whose lease has a lower fence, or has run out, can't write."""
    host = await store.create("host", {"name": "h"}, Actor.system())
    manager = Actor.manager("host")
    async with db.transaction() as tx:
        await tx.raw.execute(
            "INSERT INTO work (manager, key, due_at, attempts, halted, again, backoff, fence, queued_at, lease_until) "
            "VALUES ('host', $1, now(), 0, false, 0, false, 2, now(), now() + interval '1 minute')",
            host["id"],
        )
    with pytest.raises(LeaseLost):
        await store.write("host", host["id"], {"current_state": "onboarded"}, manager, lease=Lease("host", host["id"], 1))
    await store.write("host", host["id"], {"current_state": "onboarded"}, manager, lease=Lease("host", host["id"], 2))
    async with db.transaction() as tx:
        await tx.raw.execute("UPDATE work SET lease_until = now() - interval '1 second'")
    with pytest.raises(LeaseLost):
        await store.write("host", host["id"], {"current_state": "registered"}, manager, lease=Lease("host", host["id"], 2))
    assert (await store.get("host", host["id"]))["current_state"] == "onboarded"


async def test_restless_fields_make_no_change(store: Store, db: Database) -> None:
    """What varies by itself is stored without a row in the log."""
    host = await store.create("host", {"name": "h"}, Actor.system())
    command = {"host": host["id"], "verb": "facts.refresh", "not_after": store.clock(), "args": {"secret": "file"}}
    made = await store.make("command", command, Actor.manager("host"))
    before = (await log_of(db)).changes
    await store.write("command", made["id"], {"sends": 1, "sent_at": store.clock()}, Actor.manager("dispatch"))
    assert (await log_of(db)).changes == before
    assert before[-1].resource is not None and "args" not in before[-1].resource


async def test_a_database_out_of_reach_says_so(admin: Actor, ports: Any) -> None:
    """Reads and writes raise Unavailable, not a driver's exception."""
    db = await Database.open(f"postgresql://x:y@127.0.0.1:{ports()}/none", application="test")
    store = Store(db)
    with pytest.raises(Unavailable):
        await store.create("region", {"name": "north"}, admin)
    with pytest.raises(Unavailable):
        await store.get("region", "north")


@pytest.mark.parametrize("state", ["53100", "58030", "25006", "0A000"])
async def test_a_database_that_cannot_write_is_away(db: Database, state: str) -> None:
    """A full disk, a failing one, a standby not yet promoted and its unlogged tables: nobody is to blame, and no message is set aside."""
    with pytest.raises(Unavailable):
        async with db.transaction() as tx:
            await tx.raw.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")


async def test_crossing_writers_all_succeed(store: Store, admin: Actor) -> None:
    """Moves and relabels that lock the same hosts in different orders end without an error."""
    await store.create("region", {"name": "north"}, admin)
    for n in range(2):
        await store.create("site", {"name": f"s{n}", "region": "north"}, admin)
    hosts = [await store.create("host", {"name": f"h{n}", "site": "s0"}, admin) for n in range(6)]
    north = await store.get("region", "north")

    async def move(n: int) -> None:
        for turn in range(3):
            await store.patch("host", hosts[n]["id"], {"site": f"s{turn % 2}"}, admin)

    async def relabel(n: int) -> None:
        await store.patch("region", "north", {"labels": {"turn": str(n)}}, admin)
        await store.relabel(Actor.manager("places"), regions=[north["id"]])

    await asyncio.gather(*(move(n) for n in range(6)), *(relabel(n) for n in range(4)))
    final = (await store.get("region", "north"))["labels"]
    await store.relabel(Actor.manager("places"), regions=[north["id"]])
    for host in hosts:
        assert (await store.get("host", host["id"]))["effective_labels"] == final


def test_every_reference_names_a_kind() -> None:
    """References point to kinds that are registered."""
    for kind in BY_NAME.values():
        for _, reference in kind.references:
            assert reference.kind in BY_NAME


async def test_closing_waits_for_nobody_for_long(inventory_url: str) -> None:
    """A connection that is still in use does not hold up the end of its process."""
    db = await Database.open(inventory_url, application="held", pool_size=2)
    started = asyncio.Event()

    async def hold() -> None:
        async with db.acquire() as connection:
            started.set()
            await connection.fetchval("SELECT pg_sleep(60)")

    holding = asyncio.create_task(hold())
    await started.wait()
    async with patience(10):
        await db.close()
    with pytest.raises(Unavailable):
        await holding


async def test_a_commit_is_lazy_for_one_transaction_alone(inventory_url: str) -> None:
    """The next one on the same connection is on disk when it returns, like every other."""
    database = await Database.open(inventory_url, application="test", pool_size=1)
    try:
        async with database.transaction() as tx:
            await tx.lazily()
            assert await tx.raw.fetchval("SHOW synchronous_commit") == "off"
        async with database.transaction() as tx:
            assert await tx.raw.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await database.close()

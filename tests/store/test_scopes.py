"""Scopes in the store: what a scoped reader sees, what a scoped writer may write, and what the change log tells them."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from inventory import changes, overview
from inventory.access import Action, allowed, checked_scope, hosts_within, seen
from inventory.actor import Actor
from inventory.changes import Change, Relay
from inventory.columns import resolve
from inventory.db import Database
from inventory.errors import Forbidden, Invalid, NotFound
from inventory.explain import explain
from inventory.kinds import BY_NAME, KINDS
from inventory.kinds.host import HOST
from inventory.listing import ListQuery
from inventory.resource import Resource
from inventory.seen import ASKED, Asked, Seen
from inventory.store import Store
from inventory.view import OF_A_HOST, View, narrowed, utcnow
from tests.two_sides import ADMIN, HANGING, OUTSIDE, SCOPE, SYSTEM, Sides, things, two_sides

OPERATOR = Actor.user("olga", "operator", scope=SCOPE)
HOSTED = [kind.name for kind in KINDS if kind.has_host]


@pytest.fixture
async def sides(db: Database) -> Sides:
    return await two_sides(db)


async def _relayed(db: Database) -> None:
    while await Relay(db).step():
        pass


# --- scopes themselves --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('presence = "online"', "changes by itself"),
        ("created_at > -1h", "can't be used in a selector"),
        ("labels.line =", "column 14"),
        ("no_such = 1", "no field no_such"),
        ('site = "plant"', "by its id (site-…)"),
        ('labels.line = 4 AND NOT (site = "site-*")', "by its id"),
    ],
)
def test_a_scope_is_a_selector_that_names_nothing_by_a_name(text: str, why: str) -> None:
    """Neither what flaps nor a site that may be called otherwise tomorrow decides who sees what."""
    with pytest.raises(Invalid) as refused:
        checked_scope(text)
    assert [problem.pointer for problem in refused.value.errors] == ["/scope"]
    assert why in refused.value.detail


def test_a_scope_is_kept_as_it_was_written() -> None:
    """But for the blanks around it; an empty one holds everything."""
    assert (
        checked_scope('  labels.line = "4" AND (site = "site-01" OR site = null) ')
        == 'labels.line = "4" AND (site = "site-01" OR site = null)'
    )
    assert checked_scope("  ") == ""


@pytest.mark.parametrize("scope", ["no_such_field = 1", "labels.line =", " ", 'presence = "online"'])
def test_one_that_can_not_be_understood_any_more_holds_nothing(scope: str) -> None:
    """Rather than everything, whatever became of the kind or of the row that it stood in."""
    assert hosts_within(scope).sql == "FALSE"
    assert "FALSE" in seen(BY_NAME["component"], scope).sql


def test_who_has_a_scope_administers_nobody() -> None:
    """An administrator of a part could else give himself the whole."""
    assert allowed("admin", Action.WRITE, SCOPE)
    assert allowed("admin", Action.ADMINISTER)
    assert not allowed("admin", Action.ADMINISTER, SCOPE)


def test_what_a_scope_can_ask_of_is_in_every_change_of_a_host() -> None:
    """Or its coming and going could not be told from the log."""
    for name in ASKED:
        column = resolve(HOST, name, 1)
        assert column.sql.startswith(("r.", "hl.labels")), name
        assert name not in HOST.unlogged


# --- reads ----------------------------------------------------------------------------------------------------------------------


async def test_every_table_that_is_of_hosts_is_narrowed(db: Database) -> None:
    """A table that is added and forgotten would be read whole."""
    async with db.acquire() as connection:
        rows = await connection.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE a.attname = 'host' AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace"
        )
    assert {row["relname"] for row in rows} == set(OF_A_HOST)


async def test_a_view_shows_what_is_inside_and_nothing_else(db: Database, sides: Sides) -> None:
    """Of every kind that is of hosts, in lists with their totals, one by one, and many by their ids."""
    view = View(db, SCOPE)
    for kind in HOSTED:
        page = await view.list(kind, ListQuery(count=True))
        assert [each["id"] for each in page.items] == [sides.inside.ids[kind]]
        assert page.total == 1
        assert OUTSIDE not in str(page.items)
        assert (await view.get(kind, sides.inside.ids[kind]))["id"] == sides.inside.ids[kind]
        with pytest.raises(NotFound):
            await view.get(kind, sides.outside.ids[kind])
        assert list(await view.read_many(kind, [sides.outside.ids[kind], sides.inside.ids[kind]])) == [sides.inside.ids[kind]]
    for kind, id in sides.of_none.items():
        assert (await view.get(kind, id))["id"] == id, "what is of no host is everybody's to read"


async def test_no_filter_reaches_outside(db: Database, sides: Sides) -> None:
    """Neither by OR, nor by a reference's name, nor on the next page."""
    view = View(db, SCOPE)
    for text in ('name = "outside-press" OR name:*', 'NOT name = "x"', f'id = "{sides.outside.host}" OR id:*'):
        assert [each["id"] for each in (await view.list("host", ListQuery(text))).items] == [sides.inside.host]
    assert (await view.list("component", ListQuery('host = "outside-press"'))).items == []
    first = await View(db).list("host", ListQuery(order_by="name desc", page_size=1))
    after = await view.list("host", ListQuery(order_by="name desc", page_size=1, page_token=first.next_page_token))
    assert [each["id"] for each in after.items] == [sides.inside.host]


async def test_numbers_count_what_is_inside(db: Database, sides: Sides) -> None:
    """The overview's, facets, versions, places and configs; and what waits or is unread."""
    view = View(db, SCOPE)
    fleet, whole = await overview.fleet(view), await overview.fleet(View(db))
    assert (fleet.hosts, fleet.placed, fleet.halted, fleet.pending) == (1, 1, 1, 1)
    assert (whole.hosts, whole.placed) == (2, 2)
    assert await overview.facets(view, "host", "", [overview.Narrowing("labels.side")], utcnow()) == (1, [[("inside", 1)]])
    assert await overview.count_by(view, "component", "", "key", utcnow()) == [("inside-disk", 1)]
    assert (await overview.health_of_sites(view))[sides.of_none["site"]]["hosts"] == 1
    assert (await overview.work_of_configs(view, [sides.of_none["config"]]))[sides.of_none["config"]]["hosts"] == 1
    assert await overview.work_of_hosts(view, [sides.outside.host]) == {}
    assert await overview.waiting_ids(view, 9) == [sides.inside.host]
    assert await overview.unread(view) == 1
    assert await overview.unread_ids(view, 9) == [sides.inside.ids["notification"]]
    assert await overview.things_of_host(view, sides.outside.host) == [sides.outside.host]


async def test_an_explanation_speaks_of_what_is_inside(db: Database, sides: Sides) -> None:
    """A config's goes over its hosts, and names them."""
    told = await explain(View(db, SCOPE), "config", sides.of_none["config"])
    assert "0 of 1 host" in told["summary"]
    assert "inside-press" in str(told)
    assert OUTSIDE not in str(told)
    with pytest.raises(NotFound):
        await explain(View(db, SCOPE), "host", sides.outside.host)


def test_a_recursive_statement_is_refused() -> None:
    """Its expressions would see themselves, and the scope would read the narrowed tables."""
    with pytest.raises(ValueError, match="recursive"):
        narrowed("WITH RECURSIVE up AS (SELECT 1) SELECT 1", SCOPE, 0)


# --- writes ---------------------------------------------------------------------------------------------------------------------


async def test_a_scoped_writer_writes_inside(store: Store, sides: Sides) -> None:
    """A host, and what hangs on it."""
    assert (await store.patch("host", sides.inside.host, {"title": "Mine"}, OPERATOR))["title"] == "Mine"
    assert (await store.create("host", {"name": "new", "labels": {"side": "inside"}}, OPERATOR))["name"] == "new"
    await store.retry("host", sides.inside.host, OPERATOR)
    await store.retry("host-config", sides.inside.ids["host-config"], OPERATOR)
    await store.patch("notification", sides.inside.ids["notification"], {"read_at": utcnow().isoformat()}, OPERATOR)
    assert (await store.delete("host", sides.inside.host, OPERATOR) or {})["deleted_at"] is not None


async def test_what_is_outside_is_not_there_for_a_writer(store: Store, sides: Sides) -> None:
    """Whatever is asked of it, with whatever precondition."""
    for kind in HOSTED:
        await _refuse_all_of(store, kind, sides)


async def _refuse_all_of(store: Store, kind: str, sides: Sides) -> None:
    id, before = sides.outside.ids[kind], await store.get(kind, sides.outside.ids[kind])
    acts: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.patch(kind, id, {"title": "Mine"}, OPERATOR),
        lambda: store.patch(kind, id, {"title": "Mine"}, OPERATOR, if_match=1),
        lambda: store.delete(kind, id, OPERATOR, force=True),
    ]
    if BY_NAME[kind].verbs:
        acts.append(lambda: store.retry(kind, id, OPERATOR))
    for act in acts:
        with pytest.raises(NotFound):
            await act()
    assert await store.get(kind, id) == before


async def test_what_reaches_beyond_any_host_takes_a_role_for_all(store: Store, sides: Sides) -> None:
    """A config's selector, a site's labels, a token's devices: nobody has counted whom they concern."""
    for kind, id in sides.of_none.items():
        with pytest.raises(Forbidden, match="beyond any host"):
            await store.create(kind, {"name": "mine"}, OPERATOR)
        with pytest.raises(Forbidden, match="beyond any host"):
            await store.patch(kind, id, {"title": "Mine"}, OPERATOR)
        with pytest.raises(Forbidden, match="beyond any host"):
            await store.delete(kind, id, OPERATOR)


async def test_nobody_writes_a_host_out_of_their_own_sight(store: Store, sides: Sides) -> None:
    """Nor makes one there; it is as it was before, and the words say why."""
    with pytest.raises(Forbidden, match=r"would be outside then.*labels\.side"):
        await store.patch("host", sides.inside.host, {"labels": {"side": "elsewhere"}}, OPERATOR)
    with pytest.raises(Forbidden, match="would be outside then"):
        await store.create("host", {"name": "other", "labels": {"side": "elsewhere"}}, OPERATOR)
    assert (await store.get("host", sides.inside.host))["labels"] == {"side": "inside"}
    with pytest.raises(NotFound):
        await store.get("host", "other")


async def test_no_reference_reaches_outside(store: Store, sides: Sides) -> None:
    """A waiting device can't be made another's host, and one that is to become another's is not let in."""
    with pytest.raises(Invalid, match="there is no host 'outside-press'"):
        await store.patch("host", sides.inside.host, {"replaces": "outside-press"}, OPERATOR)
    await store.patch("host", sides.inside.host, {"replaces": "outside-press", "desired_state": "registered"}, ADMIN)
    with pytest.raises(Forbidden, match="replaces one"):
        await store.patch("host", sides.inside.host, {"desired_state": "onboarded"}, OPERATOR)
    await store.patch("host", sides.inside.host, {"desired_state": "onboarded", "replaces": None}, OPERATOR)


# --- the change log -------------------------------------------------------------------------------------------------------------


async def _told(db: Database, after: int) -> list[Change]:
    await _relayed(db)
    return (await Seen(db, SCOPE).read(after, 1000, Asked())).changes


async def _position(db: Database) -> int:
    await _relayed(db)
    return await changes.position(db)


def _short(told: list[Change]) -> list[tuple[str, str]]:
    return sorted((change.op, change.kind) for change in told)


async def test_who_leaves_is_deleted_with_all_that_hangs_on_it_and_comes_back_the_same_way(
    db: Database, store: Store, sides: Sides
) -> None:
    """At one position, the host last and first; nothing of what it is now is told of one that is outside."""
    start = await _position(db)
    await store.patch("host", sides.inside.host, {"labels": {"side": "elsewhere"}}, ADMIN)
    await store.patch("host", sides.inside.host, {"title": "Unseen"}, ADMIN)
    told = await _told(db, start)
    assert _short(told) == sorted([("deleted", "host"), *(("deleted", kind) for kind in HANGING)])
    assert told[-1].kind == "host"
    assert {change.position for change in told} == {start + 1}
    assert (told[-1].body()["resource"]["labels"], told[-1].resource) == ({"side": "inside"}, None)
    assert "elsewhere" not in str(told)
    assert {change.body()["scope"] for change in told} == {"left"}
    left = await _position(db)
    await store.patch("host", sides.inside.host, {"labels": {"side": "inside"}}, ADMIN)
    told = await _told(db, left)
    assert _short(told) == sorted([("created", "host"), *(("created", kind) for kind in HANGING)])
    assert told[0].kind == "host"
    assert all(change.version >= told[0].version for change in told), "a reader takes them for new"
    assert {change.body()["scope"] for change in told} == {"entered"}


async def test_what_is_made_or_deleted_inside_has_not_moved(db: Database, store: Store, sides: Sides) -> None:
    """Nor has what hangs on it: only a move is told as one."""
    start = await _position(db)
    made = await store.create("host", {"name": "new-press", "labels": {"side": "inside"}, "desired_state": "registered"}, ADMIN)
    await store.delete("host", made["id"], ADMIN, force=True)
    await store.delete("host", sides.inside.host, ADMIN, force=True)
    told = await _told(db, start)
    assert {(change.op, change.kind) for change in told} >= {("created", "host"), ("deleted", "host"), ("deleted", "component")}
    assert [change for change in told if "scope" in change.body()] == []


async def test_a_page_of_the_newest_parts_no_move(db: Database, store: Store, sides: Sides) -> None:
    """A page goes on below a position, so all that came with a host is on one, however few were asked for."""
    await store.patch("host", sides.outside.host, {"labels": {"side": "inside"}}, ADMIN)
    await store.patch("host", sides.outside.host, {"title": "Seen"}, ADMIN)
    await _relayed(db)
    newest = await Seen(db, SCOPE).newest(2, Asked())
    assert [change.op for change in newest.changes] == ["created"] * (1 + len(HANGING)) + ["updated"]
    assert newest.older == newest.changes[0].position
    assert newest.changes == (await Seen(db, SCOPE).newest(1000, Asked())).changes[-len(newest.changes) :]


async def test_labels_of_a_region_move_hosts_in_and_out(db: Database, store: Store, sides: Sides) -> None:
    """What is inherited counts like what is written on the host, and tells of itself."""
    scope = 'labels.tier = "production"'
    start = await _position(db)
    await store.patch("region", "north", {"labels": {"tier": "production"}}, ADMIN)
    await store.relabel(SYSTEM, regions=[sides.of_none["region"]])
    came = (await Seen(db, scope).read(start, 1000, Asked(frozenset({"host"})))).changes if await _position(db) else []
    assert {(change.op, change.id) for change in came} == {("created", sides.inside.host), ("created", sides.outside.host)}
    start = await _position(db)
    await store.patch("region", "north", {"labels": {"tier": None}}, ADMIN)
    await store.relabel(SYSTEM, regions=[sides.of_none["region"]])
    await _relayed(db)
    assert {each.op for each in (await Seen(db, scope).read(start, 1000, Asked(frozenset({"component"})))).changes} == {"deleted"}


async def test_what_is_outside_is_never_told(db: Database, store: Store, sides: Sides) -> None:
    """Its making, its changes, its end; whatever way the log is read."""
    await store.patch("host", sides.outside.host, {"title": "Unseen"}, ADMIN)
    await store.delete("host", sides.outside.host, ADMIN, force=True)
    told = await _told(db, 0)
    newest = (await Seen(db, SCOPE).newest(1000, Asked())).changes
    assert newest == told
    assert OUTSIDE not in str([change.body() for change in told])
    assert {change.host for change in told} == {None, sides.inside.host}
    for id in sides.of_outside:
        assert (await Seen(db, SCOPE).history(id))[0] == []
        assert (await Seen(db, SCOPE).newest(10, Asked(ids=frozenset({id})))).changes == []


async def test_who_is_gone_for_good_is_told_by_how_it_was_at_its_end(db: Database, store: Store, sides: Sides) -> None:
    """Also while the relay has placed only a part of the deletion: it is one transaction of many changes."""
    start = await _position(db)
    await store.delete("host", sides.inside.host, ADMIN, force=True)
    whole = await _told(db, start)
    assert {(change.op, change.kind) for change in whole if change.id in sides.inside.ids.values()} == {
        ("deleted", "host"),
        *(("deleted", kind) for kind in HANGING),
    }
    assert [change.id for change in (await Seen(db, SCOPE).history(sides.inside.ids["component"]))[0]][:1] == [
        sides.inside.ids["component"]
    ]


async def test_a_page_of_the_newest_is_filled_from_further_back(db: Database, store: Store, sides: Sides) -> None:
    """Where most of what happened last happened outside."""
    for number in range(8):
        await store.patch("host", sides.outside.host, {"title": f"{number}"}, ADMIN)
    await _relayed(db)
    asked = Asked(frozenset({"host", "component", "command"}))
    found = await Seen(db, SCOPE).newest(2, asked)
    assert [change.kind for change in found.changes] == ["component", "command"]
    found = await Seen(db, SCOPE).newest(2, asked, before=found.older)
    assert ([change.kind for change in found.changes], found.older) == (["host"], None)
    assert OUTSIDE not in str(found.changes)


class _Watcher:
    """Lists once, then goes by what it is told, as a program would: it ignores versions that it has seen."""

    def __init__(self, db: Database, scope: str) -> None:
        self.db, self.scope, self.at = db, scope, 0
        self.there: dict[tuple[str, str], Resource] = {}
        self.seen: dict[tuple[str, str], int] = {}

    async def lists(self) -> dict[tuple[str, str], Resource]:
        found: dict[tuple[str, str], Resource] = {}
        for kind in HOSTED:
            page = await View(self.db, self.scope).list(kind, ListQuery(page_size=1000))
            self.at = page.position
            found |= {(kind, each["id"]): each for each in page.items}
        return found

    async def start(self) -> None:
        self.there = await self.lists()
        self.seen = {key: each["version"] for key, each in self.there.items()}

    async def catch_up(self) -> None:
        while True:
            found = await Seen(self.db, self.scope).read(self.at, 7, Asked(frozenset(HOSTED)))
            for change in found.changes:
                self.take(change)
            if found.next == self.at:
                return
            self.at = found.next

    def take(self, change: Change) -> None:
        key = (change.kind, change.id)
        if change.version <= self.seen.get(key, 0):
            return
        self.seen[key] = change.version
        if change.op == "deleted":
            self.there.pop(key, None)
        else:
            self.there[key] = change.resource or {}


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_follows_knows_what_a_list_would_say(db: Database, store: Store, sides: Sides, seed: int) -> None:
    """Through a hundred random writes: hosts come, go, move, inherit, are deleted, and so does what hangs on them; read at once or late."""
    chance, config = random.Random(seed), sides.of_none["config"]
    prompt, late = _Watcher(db, SCOPE), _Watcher(db, SCOPE)
    await _relayed(db)
    await prompt.start()
    await late.start()
    for number in range(100):
        await _something(store, chance, number, config)
        await _relayed(db)
        if chance.random() < 0.5:
            await prompt.catch_up()
    for watcher in (prompt, late):
        await watcher.catch_up()
        wanted = await watcher.lists()
        assert watcher.there.keys() == wanted.keys()
        assert {key: each["version"] for key, each in watcher.there.items()} == {key: each["version"] for key, each in wanted.items()}


async def _something(store: Store, chance: random.Random, number: int, config: str) -> None:
    hosts = (await store.list("host", ListQuery(page_size=1000))).items
    host = chance.choice(hosts)["id"] if hosts else None
    side = chance.choice(["inside", "elsewhere"])
    match chance.randrange(8):
        case 0:
            made = await store.create("host", {"name": f"h{number}", "labels": {"side": side}}, ADMIN)
            for kind, values in things(made["id"], side, config).items():
                await store.make(kind, values, SYSTEM)
        case 1 if host:
            await store.delete("host", host, ADMIN, force=True)
        case 2:
            await store.patch("region", "north", {"labels": {"side": chance.choice([None, "inside"])}}, ADMIN)
            await store.relabel(SYSTEM, regions=["north", *[each["id"] for each in (await store.list("region", ListQuery())).items]])
        case 3 | 4 if host:
            await store.patch("host", host, {"labels": {"side": chance.choice([None, side])}}, ADMIN)
        case 5 if host:
            await store.patch("host", host, {"title": f"{number}"}, ADMIN)
        case 6:
            of = (await store.list("component", ListQuery(page_size=1000))).items
            if of:
                await store.write("component", chance.choice(of)["id"], {"attributes": {"n": number}}, SYSTEM)
        case 7:
            of = (await store.list("host-config", ListQuery(page_size=1000))).items
            if of:
                await store.remove("host-config", chance.choice(of)["id"], SYSTEM)
        case _:
            return

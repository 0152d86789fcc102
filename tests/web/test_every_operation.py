"""Every operation of the API and every page, as every role, with and without a scope: nobody gets more than they may, nor less."""

import re
from collections.abc import AsyncIterator, Iterator

import pytest
from quart import Quart
from quart.testing import QuartClient

from inventory import access, view
from inventory.changes import Relay
from inventory.db import Database
from inventory.filter import Predicate
from inventory.view import View
from tests.two_sides import Sides, two_sides
from tests.web.walking import ASKERS, Asker, as_who, let_in, serving, unclassified, walk
from web.app import create_app
from web.pages import PAGES
from web.pages.host import TABS
from web.settings import Settings

OUTSIDE_PRESS = "outside-press"


@pytest.fixture
async def ground(db: Database) -> Sides:
    """Two sides in the database, all askers, and the log up to there."""
    sides = await two_sides(db)
    await let_in(db)
    while await Relay(db).step():
        pass
    return sides


@pytest.fixture
async def client(db: Database, ground: Sides) -> AsyncIterator[QuartClient]:
    async with serving(create_app(Settings(database=db.url, heartbeat_s=0.05))) as found:
        yield found


def test_every_operation_is_classified() -> None:
    """A new one that nobody has thought of fails here: say in `tests/web/walking.py` who may."""
    assert unclassified() == []


async def test_nobody_gets_more_or_less_than_they_may(client: QuartClient, ground: Sides) -> None:
    """All operations, three roles, without a scope and within one, at things inside and outside; the batch included."""
    breaches = [breach for asker in ASKERS for breach in await walk(client, asker, ground)]
    assert breaches == [], "\n".join(breaches)


async def test_the_walk_finds_a_check_that_is_missing(client: QuartClient, ground: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the scope taken for true once in reads, once in writes: it would else prove nothing."""

    def everything(scope: str, start: int = 1) -> Predicate:
        return Predicate("TRUE", (), frozenset(), start)

    scoped = Asker("operator", ASKERS[1].scope)
    with monkeypatch.context() as missing:
        missing.setattr(view, "narrowed", lambda statement, scope, given: (statement, ()))
        found = await walk(client, scoped, ground)
        assert any("getHost " in breach and "200, not 404" in breach for breach in found)
        assert any("listComponents" in breach and "tells of" in breach for breach in found)
    with monkeypatch.context() as missing:
        missing.setattr(access, "hosts_within", everything)
        found = await walk(client, scoped, ground)
        assert any("patchHost" in breach and "200, not 404" in breach for breach in found)
        assert any("preregisterHosts" in breach and "200, not 4xx" in breach for breach in found)
    assert await walk(client, scoped, ground) == []


async def test_a_stream_tells_a_scoped_reader_of_what_is_inside(client: QuartClient, ground: Sides) -> None:
    """All of the log, live and stored, through the same scope."""
    for asker in ASKERS:
        text = await _streamed(client, asker, "?after=0")
        assert ("inside-press" in text, OUTSIDE_PRESS in text) == (True, not asker.scope), asker.token
        only = await _streamed(client, asker, f"?after=0&id={ground.outside.host}")
        assert (OUTSIDE_PRESS in only) == (not asker.scope), asker.token


async def _streamed(client: QuartClient, asker: Asker, query: str) -> str:
    """What a stream sends up to its first heartbeat."""
    text = ""
    async with client.request(f"/api/v1/events/stream{query}", headers=as_who(asker)) as connection:
        await connection.send_complete()
        while ": heartbeat" not in text:
            text += (await connection.receive()).decode()
        await connection.disconnect()
    return text


PAGE_QUERIES = {
    "/hosts": ("?filter=outside", "?filter=NOT name = x", "?site=x"),
    "/hosts/rows": ("?id={outside}&id={inside}",),
    "/find": ("?q=outside", "?q=press"),
    "/hosts/<ref>": tuple(f"?tab={tab}" for tab in TABS),
    "/notifications": ("?show=all",),
    "/configs/preview": ("?selector=labels.side:*",),
}
"""What is asked of a page besides the page itself."""


def _pages(app: Quart, sides: Sides) -> Iterator[tuple[str, bool]]:
    """Every page that can be looked at, as a path, and whether it is of something outside."""
    names = {blueprint.name for blueprint in PAGES} - {"assets", "entry"}
    for rule in app.url_map.iter_rules():
        if rule.endpoint.split(".")[0] not in names or "GET" not in (rule.methods or ()):
            continue
        for id, is_outside in ((sides.inside.host, False), (sides.outside.host, True)):
            if "<" not in rule.rule and is_outside:
                continue
            own = id if rule.rule.startswith("/hosts/") else sides.of_none["config" if rule.rule.startswith("/configs/") else "site"]
            chosen = re.sub(r"<any\((?:\w+, )*(\w+)\):\w+>", r"\1", rule.rule)  # the last of each choice
            path = chosen.replace("<ref>", own).replace("<collection>", "components")
            for query in ("", *PAGE_QUERIES.get(rule.rule, ())):
                yield path + query.format(inside=sides.inside.host, outside=sides.outside.host), is_outside and own == id


async def test_no_page_tells_of_what_is_outside(client: QuartClient, ground: Sides) -> None:
    """Whatever page, as whatever role with a scope: lists, counts, the palette, the sheet, stories; one of a host outside is 404."""
    looked = list(_pages(client.app, ground))
    assert len(looked) > 40
    for asker in (each for each in ASKERS if each.scope):
        for path, is_outside in looked:
            answer = await client.get(path, headers=as_who(asker))
            text = str(await answer.get_data(as_text=True))
            assert answer.status_code == 404 if is_outside else answer.status_code in (200, 303, 403), (asker.token, path, text[-600:])
            told = [word for word in (OUTSIDE_PRESS, "outside-disk", "outside says", "outside is", *ground.of_outside) if word in text]
            assert [word for word in told if word not in path] == [], (asker.token, path)


async def test_no_form_reaches_outside(client: QuartClient, ground: Sides, db: Database) -> None:
    """Buttons of hosts, of the waiting room and of notifications."""
    outside = ground.outside.ids
    for asker in (each for each in ASKERS if each.scope and each.writes):
        for path in (f"/hosts/{outside['host']}", f"/enroll/waiting/{outside['host']}"):
            for what in ("approve", "distrust", "retry", "label", "forget"):
                assert (await client.post(path, form={"do": what}, headers=as_who(asker))).status_code == 404
        await client.post("/notifications/read", form={"id": outside["notification"]}, headers=as_who(asker))
        await client.post("/notifications/read", form={"all": "yes"}, headers=as_who(asker))
    notes = await View(db).read_many("notification", [outside["notification"], ground.inside.ids["notification"]])
    assert {id: note["read_at"] is not None for id, note in notes.items()} == {
        outside["notification"]: False,
        ground.inside.ids["notification"]: True,
    }

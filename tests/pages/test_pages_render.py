"""Every page renders in a real browser: no console error, nothing that the content security policy refuses, in every theme and width."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from inventory.actor import Actor
from tests.pages.conftest import Fleet, Open
from tests.pages.seed import ADMIN

PAGES = {
    "overview": "/",
    "hosts": "/hosts",
    "hosts-filtered": '/hosts?filter=labels.role+%3D+"camera"+AND+presence+%3D+"online"&order=memory_bytes+desc',
    "hosts-wrong": "/hosts?filter=presense+%3D+online",
    "host": "/hosts/camera-2",
    "host-hardware": "/hosts/press-line-3?tab=hardware",
    "host-activity": "/hosts/camera-2?tab=activity",
    "host-commands": "/hosts/camera-2?tab=commands",
    "host-raw": "/hosts/camera-2?tab=raw",
    "configs": "/configs",
    "config": "/configs/camera",
    "config-new": "/configs/new",
    "config-edit": "/configs/motd/edit",
    "places": "/places",
    "places-add": "/places?add=site",
    "site": "/sites/berlin-plant",
    "region": "/regions/germany",
    "events": "/events",
    "events-kind": "/events?kind=component&kind=host",
    "audit": "/audit",
    "audit-everything": "/audit?type=people&type=manager&type=device&type=inventory&kind=host",
    "notifications": "/notifications",
    "enroll": "/enroll",
    "host-configs": "/tables/host-configs?filter=status.halted+%3D+true",
    "commands": "/tables/commands",
    "components": "/tables/components",
    "missing": "/hosts/nobody",
    "access": "/access",
    "access-user": "/access/users/admin",
    "programs": "/access/programs",
    "programs-revoke": "/access/programs/integrations/mes",
    "programs-scope": "/access/programs/integrations/mes/scope",
    "access-sessions": "/access/sessions",
    "account": "/account",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
}
SOME = (
    "overview",
    "hosts",
    "hosts-wrong",
    "host",
    "host-hardware",
    "config",
    "config-edit",
    "places",
    "events",
    "audit",
    "notifications",
    "enroll",
    "access",
    "access-user",
    "programs",
    "programs-revoke",
    "account",
)
"""Pages that are looked at in every look; the others differ in nothing that a look decides."""

NARROWEST_CARD = "Math.min(1000, ...[...document.querySelectorAll('main .card')].map(card => card.getBoundingClientRect().width || 1000))"
"""CSS pixels; on a phone there is room for one column."""

WIDEST_TABLE = "Math.max(0, ...[...document.querySelectorAll('.scroll')].map(each => each.scrollWidth - each.clientWidth))"
"""CSS pixels by which a table is wider than its place."""

UNREADABLE = (Path(__file__).parent / "unreadable.js").read_text()
"""Gives the texts whose contrast is below WCAG 2.2 AA."""


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_renders(look: str, contexts: Open, fleet: Fleet, tmp_path: Path) -> None:
    """Each page has one heading, complains of nothing, is no wider than the screen, and every text of it can be read."""
    page = contexts(**LOOKS[look]).new_page()
    for name in PAGES if look == "light" else SOME:
        path = PAGES[name]
        page.goto(path)
        assert page.locator("h1").count() == 1, path
        page.locator("#live[data-state=live]").wait_for()
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        page.screenshot(path=tmp_path / f"{look}-{name}.png", full_page=True)
        assert wide <= 0, f"{path} is {wide} px wider than the screen"
        if look == "phone":
            assert page.evaluate(NARROWEST_CARD) > 300, f"{path} squeezes a card"
        assert page.evaluate(UNREADABLE) == [], path


def test_the_sign_in_page(contexts: Open, fleet: Fleet, tmp_path: Path) -> None:
    """A stranger is sent to sign in, and a wrong password says so without saying which half was wrong."""
    context = contexts()
    context.clear_cookies()
    page = context.new_page()
    page.goto("/hosts?presence=online")
    assert page.url == fleet.site.url + "/login?next=%2Fhosts%3Fpresence%3Donline"
    page.screenshot(path=tmp_path / "login.png")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    assert "The name or the password is wrong" in page.get_by_role("alert").inner_text()


def test_hostile_text_stays_text(page: Page, fleet: Fleet) -> None:
    """Markup in every text that a device controls is shown, and runs nowhere."""
    for path in ("/", "/hosts", "/hosts/mallory", "/hosts/mallory?tab=hardware", "/hosts/mallory?tab=raw", "/events", "/tables/components"):
        page.goto(path)
        page.locator("#live[data-state=live]").wait_for()
        assert page.locator("img").count() == 0, path
        assert page.title().endswith("Fleetward"), path
    page.goto("/hosts/mallory")
    assert "<img src=x" in page.locator("h1").inner_text()


def test_the_owners_word_and_what_is_withheld_are_shown(page: Page, fleet: Fleet) -> None:
    """The policy among the vitals; a lock at the head with its reason; commands that the device says did not reach it."""
    host = fleet.run(fleet.at.store.create("host", {"name": "guarded"}, ADMIN))
    page.goto("/hosts/guarded")
    assert page.locator("#policy").inner_text() == "not told"
    policy = {"verbs": ["config.apply"], "roots": ["/srv/ours"], "on_change": False, "maintenance": "rewiring, until Friday; Ana"}
    fleet.run(fleet.at.store.write("host", host["id"], {"policy": policy}, Actor.device(host["id"])))
    fleet.run(lacking(fleet, host["id"]))
    page.goto("/hosts/guarded")
    assert "rewiring, until Friday; Ana" in page.locator("#locked").inner_text()
    assert page.locator("#host-head .badge", has_text="maintenance lock").count() == 1
    assert "2 commands sent to it did not reach it" in page.locator("#withheld").inner_text()
    free = policy | {"maintenance": None}
    fleet.run(fleet.at.store.write("host", host["id"], {"policy": free}, Actor.device(host["id"])))
    page.locator("#policy", has_text="allows config.apply").wait_for()
    assert "/srv/ours; on_change may not run" in page.locator("#policy").inner_text()


async def lacking(fleet: Fleet, host: str) -> None:
    async with fleet.at.db.acquire() as connection:
        await connection.execute(
            "INSERT INTO host_facts (host, section, hash, data, updated_at) VALUES ($1, 'agent', 'h', $2, now())",
            host,
            '{"missing": ["cmd-1", "cmd-2"], "missing_since": "no time"}',
        )


def test_endless_names_fit(contexts: Open, fleet: Fleet) -> None:
    """Titles, labels and paths as long as they may be neither widen a page nor, on a desk, push columns out of a table."""
    site = fleet.run(fleet.at.store.create("site", {"name": "endless", "title": "W" * 256}, ADMIN))
    body = {"name": "endless", "title": "M" * 256, "site": site["id"], "labels": {"note": "v" * 256}}
    host = fleet.run(fleet.at.store.create("host", body, ADMIN))
    file = {"path": "/etc/" + "d" * 200, "content": "x" * 500, "mode": "0644"}
    config = fleet.run(fleet.at.store.create("config", {"name": "endless", "title": "C" * 256, "selector": "", "files": [file]}, ADMIN))
    paths = ("/hosts?filter=endless", f"/hosts/{host['id']}", "/places", f"/sites/{site['id']}", "/configs", f"/configs/{config['id']}")
    for look in ("light", "phone"):
        page = contexts(**LOOKS[look]).new_page()
        for path in paths:
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, (look, path)
            tables = page.evaluate(WIDEST_TABLE)
            assert look == "phone" or tables <= 0, f"{path} pushes columns {tables} px out of a table"


def test_an_override_of_direction_stays_in_its_name(page: Page, fleet: Fleet) -> None:
    """A title that turns the direction of writing does not turn the name beside it."""
    fleet.run(fleet.at.store.create("host", {"name": "turned", "title": "\u202eenil sserp"}, ADMIN))
    page.goto("/hosts?filter=turned")
    name, beside = (page.locator(f"tr[data-id] {each}").bounding_box() for each in (".name", ".sub"))
    assert name is not None and beside is not None
    assert name["x"] + name["width"] <= beside["x"]


def test_a_view_as_csv(page: Page, fleet: Fleet) -> None:
    """The link gives all hosts of the filter and of the chosen facets, in the page's order; a wrong filter is refused."""
    page.goto("/hosts?filter=labels.role+%3D+crane&presence=online&order=name+desc&size=25")
    shown = page.locator("tr[data-id] .name").all_inner_texts()
    answer = page.request.get(str(page.get_by_role("link", name="CSV").get_attribute("href")))
    rows = list(csv.DictReader(io.StringIO(answer.text())))
    assert [row["title"] or row["name"] for row in rows] == shown != []
    assert all(row["presence"] == "online" and "role=crane" in row["labels"] for row in rows)
    assert page.request.get("/hosts.csv?filter=nope+%3D+1").status == 400

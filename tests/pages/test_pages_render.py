"""Every page renders in a real browser: no console error, nothing that the content security policy refuses, in every theme and width."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.pages.conftest import Fleet, Open

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
    "notifications": "/notifications",
    "enroll": "/enroll",
    "host-configs": "/tables/host-configs?filter=status.halted+%3D+true",
    "commands": "/tables/commands",
    "components": "/tables/components",
    "missing": "/hosts/nobody",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
}
SOME = ("overview", "hosts", "hosts-wrong", "host", "host-hardware", "config", "config-edit", "places", "events", "notifications", "enroll")
"""Pages that are looked at in every look; the others differ in nothing that a look decides."""

NARROWEST_CARD = "Math.min(1000, ...[...document.querySelectorAll('main .card')].map(card => card.getBoundingClientRect().width || 1000))"
"""CSS pixels; on a phone there is room for one column."""

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

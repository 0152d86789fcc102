"""What a device says of itself is text on every page, in every kind of text that has ever run somewhere: nothing of it runs, nothing of it
becomes an element, nothing is evaluated, and nothing turns what stands beside it. In a real browser, under the content security policy,
whose every refusal fails the test too (`Complaints`)."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Dialog, Page

from tests.pages.conftest import Fleet, Open
from tests.pages.hostile import END, EVALUATED, KINDS, make
from web.app import create_app
from web.settings import Settings

OF_A_HOST = ("", "?tab=hardware", "?tab=activity", "?tab=commands", "?tab=raw")
OF_ALL = (
    *("/", "/hosts?size=25", "/events", "/notifications", "/audit?type=device", "/enroll", "/places", "/sites/berlin-plant"),
    *("/configs", "/configs/camera", "/find?q=hostile"),
    *("/tables/components?filter=key+:+END", "/tables/commands", "/tables/host-configs?filter=status.halted+%3D+true"),
    *("/access/preview", "/enroll/expected"),
)
"""With everything else, or that part of it which a page shows first."""

LEAKS = (Path(__file__).parent / "leaks.js").read_text()
"""Gives what of a hostile text has become more than text, as lines for people."""


@pytest.fixture(scope="module")
def hostile(fleet: Fleet) -> dict[str, str]:
    """Ids of the hostile hosts by kind."""
    return {kind: fleet.run(make(fleet.db, kind, fleet.made.configs["camera"])) for kind in KINDS}


@pytest.fixture
def watched(contexts: Open, fleet: Fleet) -> Iterator[Page]:
    """A page of which every dialog, and every request to anybody else or to what only a hostile text names, is a failure."""
    page, asked = contexts(viewport={"width": 1440, "height": 900}).new_page(), list[str]()

    def dismiss(dialog: Dialog) -> None:
        asked.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert [each for each in asked if not each.startswith((fleet.site.url, "data:")) or "owned" in each] == []


def look(page: Page, path: str) -> str:
    """Open it, and check what it made of the texts; its visible text."""
    page.goto(path)
    if page.locator("#live").count():
        page.locator("#live[data-state=live]").wait_for()
    leaks = page.evaluate(LEAKS, END)
    assert leaks == [], f"{path}: {leaks}"
    text = page.locator("body").inner_text()
    assert EVALUATED not in text, f"{path} evaluates an expression"
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_on_every_page_of_its_host_it_is_text(kind: str, hostile: dict[str, str], watched: Page) -> None:
    """Facts, components, logs, results, errors, evidence: shown on each tab as it was said, and nothing more."""
    for tab in OF_A_HOST:
        shown = look(watched, f"/hosts/{hostile[kind]}{tab}")
        assert KINDS[kind][:12] in shown or tab == "?tab=commands", f"{tab} does not show it, so nothing was tried"


@pytest.mark.parametrize("path", OF_ALL)
def test_on_every_other_page_it_is_text(path: str, hostile: dict[str, str], watched: Page) -> None:
    """Lists, tables, inbox, events, search, places."""
    look(watched, path)


def test_no_page_is_left_out(fleet: Fleet) -> None:
    """Each route that answers GET with HTML is opened here, or shows nothing that a device says."""
    opened = {path.partition("?")[0] for path in OF_ALL}
    nothing = {"/login", "/configs/new", "/configs/<ref>/edit", "/configs/preview", "/assets/<version>/<path:name>", "/favicon.ico"}
    spoken = {
        "/configs/<ref>": "/configs/camera",
        "/<any(regions, sites):collection>/<ref>": "/sites/berlin-plant",
        "/tables/<collection>": None,
    }
    spoken |= {"/enroll/waiting/<ref>": "/enroll", "/hosts/<ref>": None, "/hosts/rows": "/hosts", "/hosts.csv": None}
    nothing |= {"/account", "/password", "/access", "/access/sessions", "/access/users/<ref>"}
    nothing |= {"/access/programs", "/access/programs/<any(tokens, integrations, certificates):what>/<ref>"}
    nothing |= {"/access/programs/integrations/<ref>/scope"}
    app = create_app(Settings(database=fleet.site.database))
    rules = [rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())]
    pages = {rule.rule.rstrip("/") or "/" for rule in rules if app.view_functions[rule.endpoint].__module__.startswith("web.pages")}
    assert len(pages) > 15
    assert {page for page in pages if page not in opened | nothing and page not in spoken} == set()


def test_what_comes_while_a_page_is_open_is_text_too(fleet: Fleet, hostile: dict[str, str], watched: Page) -> None:
    """A notification that arrives live, with its toast, and a row that is changed in place."""
    look(watched, "/hosts?filter=name+:+hostile")
    text = KINDS["markup"]
    fleet.run(fleet.at.note("critical", "test", text, hostile["markup"]))
    watched.get_by_text(text[:12]).first.wait_for()
    assert watched.evaluate(LEAKS, END) == []


def test_no_cell_of_the_csv_is_a_formula(hostile: dict[str, str], watched: Page) -> None:
    """Whatever separates cells where the file is opened: comma, semicolon or tab."""
    answer = watched.request.get("/hosts.csv")
    rows = list(csv.reader(io.StringIO(answer.text())))
    assert any(END in cell for row in rows for cell in row), "nothing was tried"
    for separator in (",", ";", "\t"):
        for row in csv.reader(io.StringIO(answer.text()), delimiter=separator):
            formulas = [cell for cell in row if cell.lstrip(' "').startswith(("=", "+", "-", "@", "\t", "\r"))]
            assert formulas == [], f"separated by {separator!r}"

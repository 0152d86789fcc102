"""The audit page in a browser: who did what, filtered by the form, exported, and nobody else's business."""

import json
from pathlib import Path

from playwright.sync_api import Page

from tests.pages.conftest import Fleet
from tests.pages.seed import ADMIN
from tests.waiting import until


def test_the_form_filters_and_the_url_tells(page: Page, fleet: Fleet) -> None:
    """What somebody did, by kind, what and changed member: each row says who, from where, before and after."""
    fleet.run(fleet.at.store.create("region", {"name": "audited", "title": "Old"}, ADMIN))
    fleet.run(fleet.at.store.patch("region", "audited", {"title": "<b>New</b>"}, ADMIN))

    def shown() -> bool:
        page.goto("/audit")
        return "<b>New</b>" in page.locator("table.audit").inner_text()

    until(shown, 10, "the entries")
    form = page.get_by_role("search")
    form.get_by_label("Who").fill(ADMIN.name)
    form.get_by_label("Kind").select_option("region")
    form.get_by_label("What").select_option("updated")
    form.get_by_label("Changed").fill("title")
    form.get_by_role("button", name="Show").click()
    page.wait_for_url("**/audit?*path=title*")
    row = page.locator("table.audit tbody tr").first.inner_text()
    for words in (ADMIN.name, "updated", "region", "title", "Old", "<b>New</b>"):
        assert words in row
    assert form.get_by_label("What").input_value() == "updated"
    answer = page.request.get(str(page.get_by_role("link", name="Export").get_attribute("href")))
    assert answer.ok, answer.text()
    lines = [json.loads(line) for line in answer.text().splitlines()]
    assert {(line["kind"], line["op"]) for line in lines} == {("region", "updated")}
    page.get_by_role("link", name="Clear").click()
    page.wait_for_url("**/audit")


def test_pages_follow_one_another(page: Page, fleet: Fleet, tmp_path: Path) -> None:
    """Older and back, without a row twice."""
    page.goto("/audit?type=people&type=manager&type=device&type=inventory")
    first = page.locator("table.audit tbody tr").evaluate_all("rows => rows.map(row => row.id)")
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**before=*")
    second = page.locator("table.audit tbody tr").evaluate_all("rows => rows.map(row => row.id)")
    assert first and second and not set(first) & set(second)
    page.screenshot(path=tmp_path / "older.png")
    page.get_by_role("link", name="Newest").click()
    page.wait_for_function("!location.search.includes('before')")


def test_it_is_for_administrators(fleet: Fleet) -> None:
    """An operator is refused, and finds no way there on the events page."""
    with fleet.site.client("operator") as operator:
        assert operator.get("/audit").status_code == 403
        assert 'href="/audit"' not in operator.get("/events").text
    with fleet.site.client("admin") as admin:
        assert 'href="/audit"' in admin.get("/events").text

"""What happens is seen without a reload: rows change in place, new ones are announced, people are told, regions of pages follow."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from inventory.actor import Actor
from tests.pages.conftest import Fleet
from tests.pages.seed import ADMIN, HOSTILE, SYSTEM

INVENTORY = Actor.inventory()


@pytest.fixture
def unloaded(page: Page) -> Iterator[Page]:
    """A page that must not be loaded again once it stands."""
    yield page
    assert page.evaluate("window.stands") is True, "the page was loaded again"


def stand(page: Page, path: str) -> None:
    """Open a page and mark it."""
    page.goto(path)
    page.locator("#live[data-state=live]").wait_for()
    page.evaluate("window.stands = true")


def test_a_row_changes_in_place(unloaded: Page, fleet: Fleet) -> None:
    """A host that goes offline says so in its row, while the other rows stay the elements that they were."""
    stand(unloaded, "/hosts")
    row = unloaded.locator(f"#row-{fleet.made.hosts['crane-1']}")
    expect(row.locator(".c-presence")).to_have_text("online")
    row.evaluate("row => { window.row = row }")
    fleet.run(fleet.at.store.write("host", fleet.made.hosts["crane-1"], {"presence": "offline"}, INVENTORY))
    expect(row.locator(".c-presence")).to_have_text("offline")
    assert row.evaluate("row => row === window.row")


def test_what_comes_to_match_is_announced(unloaded: Page, fleet: Fleet) -> None:
    """A host that comes to match a filtered list is announced; a change of what the filter doesn't read is not."""
    stand(unloaded, "/hosts?filter=labels.hall+%3D+%227%22+OR+name+%3D+%22kiosk-1%22")
    fleet.run(fleet.at.store.write("host", fleet.made.hosts["kiosk-2"], {"kernel": "6.12"}, Actor.device(fleet.made.hosts["kiosk-2"])))
    fleet.run(fleet.at.store.patch("host", fleet.made.hosts["kiosk-3"], {"labels": {"hall": "7"}}, ADMIN))
    pill = unloaded.locator("#news")
    expect(pill).to_contain_text("1 change")
    pill.click()
    expect(unloaded.locator(f"#row-{fleet.made.hosts['kiosk-3']}")).to_be_visible()


def test_new_hosts_wait_behind_a_pill(unloaded: Page, fleet: Fleet) -> None:
    """A host that is made while somebody reads does not move the rows; the pill brings it."""
    stand(unloaded, "/hosts?order=created_at+desc")
    made = fleet.run(fleet.at.store.create("host", {"name": "newcomer"}, ADMIN))
    pill = unloaded.locator("#news")
    expect(pill).to_contain_text("1 change")
    assert unloaded.locator(f"#row-{made['id']}").count() == 0
    pill.click()
    expect(unloaded.locator(f"#row-{made['id']}")).to_be_visible()
    expect(pill).not_to_be_visible()


def test_people_are_told(unloaded: Page, fleet: Fleet) -> None:
    """A notification is a toast on whatever page is open, with a link to its host, and counts at the bell; its text stays text."""
    stand(unloaded, "/configs")
    before = int(unloaded.locator("#unread").inner_text())
    fleet.run(fleet.at.note("error", "ConfigHalted", f"crane-2: {HOSTILE} has halted", fleet.made.hosts["crane-2"]))
    toast = unloaded.locator(".toast")
    expect(toast).to_contain_text(f"crane-2: {HOSTILE} has halted")
    expect(toast.get_by_role("link")).to_have_attribute("href", f"/hosts/{fleet.made.hosts['crane-2']}")
    expect(unloaded.locator("#unread")).to_have_text(str(before + 1))
    assert unloaded.locator("img").count() == 0


def test_a_vanished_component_is_shown(unloaded: Page, fleet: Fleet) -> None:
    """A disk that is found appears on the host's hardware, and stays as vanished when it is gone."""
    host = fleet.made.hosts["gateway-4"]
    stand(unloaded, f"/hosts/{host}?tab=hardware")
    made = fleet.run(fleet.at.component(host, "disk", "WD-NEW-1", {"name": "sdb", "model": "WD Red"}))
    row = unloaded.locator(f"#row-{made}")
    expect(row).to_contain_text("present")
    fleet.run(fleet.at.store.write("component", made, {"present": False}, Actor.device(host)))
    expect(row).to_contain_text("vanished")


def test_what_is_being_typed_stays(unloaded: Page, fleet: Fleet) -> None:
    """A page that follows its host keeps an opened form, and what is being typed into it."""
    host = fleet.made.hosts["gateway-5"]
    stand(unloaded, f"/hosts/{host}")
    unloaded.get_by_text("Edit title and labels").click()
    unloaded.get_by_label("Title").fill("half a ti")
    fleet.run(fleet.at.store.write("host", host, {"presence": "stale"}, INVENTORY))
    expect(unloaded.locator("#host-head")).to_contain_text("stale")
    assert unloaded.get_by_label("Title").input_value() == "half a ti"


def test_the_enroll_page_lights_up(unloaded: Page, fleet: Fleet) -> None:
    """After a token is made, the device that connects appears beside its command."""
    unloaded.goto("/enroll")
    unloaded.get_by_role("button", name="Make a token").click()
    expect(unloaded.locator("#made pre").first).to_contain_text("/install.sh | sudo sh -s -- --token fwt_")
    unloaded.locator("#live[data-state=live]").wait_for()
    unloaded.evaluate("window.stands = true")
    made = fleet.run(fleet.at.store.create("host", {"name": "arrival"}, SYSTEM))
    expect(unloaded.locator("#arrived")).to_contain_text("arrival waits for approval")
    fleet.run(fleet.at.store.patch("host", made["id"], {"desired_state": "onboarded"}, ADMIN))
    expect(unloaded.locator("#arrived")).to_contain_text("arrival let in, not connected yet")
    fleet.run(fleet.at.store.write("host", made["id"], {"presence": "online"}, INVENTORY))
    expect(unloaded.locator("#arrived")).to_contain_text("arrival online")


def test_the_keyboard_gets_everywhere(page: Page) -> None:
    """`/` goes to the filter, `j` along the rows, Ctrl-K finds by name, `g h` goes to the hosts."""
    page.goto("/configs")
    page.keyboard.press("Control+k")
    page.keyboard.type("press-line-2")
    expect(page.locator("#found [role=option]").first).to_contain_text("press-line-2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/hosts/host-*")
    page.keyboard.type("gh")
    page.wait_for_url("**/hosts")
    page.keyboard.press("/")
    page.keyboard.type('presence = "stale"')
    page.wait_for_url("**/hosts?filter=presence*stale*")
    expect(page.locator("tr[data-id] .c-presence").filter(has_not_text="stale")).to_have_count(0)
    expect(page.locator("tr[data-id]").first).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.closest('tr') !== null")


def test_the_filter_box_completes(page: Page) -> None:
    """Fields by their beginning, the values of the field that is compared, nothing inside of quotes."""
    page.goto("/hosts")
    box, offered = page.locator("#filter-text"), "[...document.querySelectorAll('#completions option')].map(each => each.value)"
    for typed, expected in {
        "pres": ["presence"],
        "presence = o": ["presence = online", "presence = offline"],
        "presence = online A": ["presence = online arch", "presence = online agent_version", "presence = online AND"],
        'title = "pres': [],
    }.items():
        box.fill(typed)
        assert page.evaluate(offered) == expected, typed

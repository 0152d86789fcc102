"""What people do on the pages: write and edit a config with the difference shown before it is saved, and what the buttons of a host do."""

import re

import httpx
from playwright.sync_api import Browser, Page, expect

from inventory.actor import Actor
from inventory.resource import Resource
from tests.pages.conftest import PATIENCE_S, Fleet
from tests.web.site_under_test import PASSWORD


def get(fleet: Fleet, kind: str, ref: str) -> Resource:
    """A resource as it stands."""
    return fleet.run(fleet.at.store.get(kind, ref))


def test_a_config_from_nothing_to_an_edit(page: Page, fleet: Fleet) -> None:
    """Written, previewed, reviewed, saved; then edited, and the review shows exactly the lines that differ."""
    page.goto("/configs/new")
    page.get_by_label("Name lower case").fill("issue")
    page.get_by_label("Selector").fill('labels.role = "crane"')
    expect(page.locator("#selection")).to_contain_text("5 of")
    page.get_by_label("Path").fill("/etc/issue")
    page.get_by_label("Content").fill("Authorised use only.\nSecond line.\n")
    page.get_by_role("button", name="Review changes").click()
    expect(page.get_by_role("heading", name="Create this config?")).to_be_visible()
    expect(page.locator("tr.plus")).to_have_count(2)
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/configs/conf-*")
    expect(page.locator(".toast")).to_contain_text("Created.")
    assert get(fleet, "config", "issue")["files"] == [
        {"path": "/etc/issue", "content": "Authorised use only.\nSecond line.\n", "mode": "0644"}
    ]

    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Content").fill("Authorised use only.\nAnother second line.\n")
    page.get_by_label("Selector").fill('labels.role = "crane" AND labels.line = "1"')
    page.get_by_role("button", name="Review changes").click()
    expect(page.locator("tr.minus code")).to_have_text(["Second line."])
    expect(page.locator("tr.plus code")).to_have_text(["Another second line."])
    expect(page.locator("aside")).to_contain_text("+0, −4")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/configs/conf-*")
    assert get(fleet, "config", "issue")["generation"] == 2


def test_secrets_are_typed_and_never_shown(page: Page, fleet: Fleet) -> None:
    """Added, reviewed and saved; kept by an empty input, replaced by a typed one, removed by its box; the page says since when, and no
    more. What was typed is not lost to an error beside it."""
    page.goto("/configs/new")
    page.get_by_label("Name lower case").fill("with-secrets")
    page.get_by_label("Path").fill("/etc/app/key")
    page.get_by_label("Jinja2 template").check()
    page.get_by_label("Content").fill("p={{ secrets.password }}")
    page.get_by_role("button", name="Add a secret").click()
    secrets = page.locator("#secrets")
    secrets.get_by_label("Name").fill("pass word")
    secrets.get_by_label("Value").fill("hunter2-typed")
    page.get_by_role("button", name="Review changes").click()
    expect(secrets.locator("[aria-invalid=true]")).to_have_value("pass word")
    expect(secrets.get_by_label("Value")).to_have_value("hunter2-typed")
    secrets.get_by_label("Name").fill("password")
    page.get_by_role("button", name="Review changes").click()
    expect(page.locator("main")).to_contain_text("a value")
    expect(page.locator("main")).not_to_contain_text("hunter2")
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/configs/conf-*")
    expect(page.locator("#secrets")).to_contain_text(re.compile(r"password set (just now|\d+ (s|min) ago)"))
    assert "hunter2" not in page.content()

    page.get_by_role("link", name="Edit").click()
    expect(secrets.locator("input[type=password]")).to_have_value("")
    page.get_by_label("Title").fill("With secrets")
    page.get_by_role("button", name="Add a secret").click()
    secrets.get_by_label("Name").fill("other")
    secrets.get_by_label("Value").fill("another")
    page.get_by_role("button", name="Review changes").click()
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/configs/conf-*")
    before = get(fleet, "config", "with-secrets")["secrets"]
    assert set(before) == {"password", "other"}
    page.get_by_role("link", name="Edit").click()
    secrets.get_by_label("Remove other").check()
    secrets.get_by_label("password", exact=False).first.fill("replaced")
    page.get_by_role("button", name="Review changes").click()
    expect(page.locator("main")).to_contain_text("another value")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/configs/conf-*")
    after = get(fleet, "config", "with-secrets")["secrets"]
    assert set(after) == {"password"} and after["password"]["changed_at"] > before["password"]["changed_at"]


def test_an_error_loses_nothing_typed(page: Page, fleet: Fleet) -> None:
    """Each wrong input says why, the first has the focus, and all that was typed is still there, twice over."""
    page.goto("/configs/new")
    typed = {
        "Name lower case": "Not A Name",
        "Selector": 'presence = "online"',
        "Path": "relative/path",
        "Mode": "9999",
        "Priority": "many",
    }
    for label, value in typed.items():
        page.get_by_label(label).fill(value)
    page.get_by_label("Content").fill("{% if %}")
    page.get_by_label("Jinja2 template").check()
    for _ in range(2):
        with page.expect_navigation():
            page.get_by_role("button", name="Review changes").click()
        expect(page.locator(".wrong").first).to_be_visible()
        for label, value in typed.items():
            assert page.get_by_label(label).first.input_value() == value
        assert page.get_by_label("Content").input_value() == "{% if %}"
    expect(page.locator("#wrong-priority")).to_contain_text("must be a whole number")
    page.get_by_label("Priority").fill("5")
    page.get_by_role("button", name="Review changes").click()
    expect(page.locator("#wrong-name")).to_be_visible()
    expect(page.locator("#wrong-file-0-path")).to_contain_text("absolute path")
    expect(page.locator("#wrong-file-0-text")).to_contain_text("is no Jinja2 template")
    expect(page.locator("[aria-invalid=true]").first).to_be_focused()


def test_a_selector_that_flaps_is_refused_where_it_stands(page: Page) -> None:
    """The preview says why while it is typed, and the form says it beside the input."""
    page.goto("/configs/new?selector=presence+%3D+%22online%22")
    expect(page.locator("#selection [role=alert]")).to_contain_text("presence")
    page.get_by_label("Name lower case").fill("flapping")
    page.get_by_label("Path").fill("/etc/flapping")
    page.get_by_role("button", name="Review changes").click()
    expect(page.locator("#wrong-selector")).to_contain_text("presence")


def test_somebody_else_saved_in_between(page: Page, fleet: Fleet) -> None:
    """The second save is told so, keeps what was typed, and the next review compares with theirs."""
    page.goto("/configs/chrony/edit")
    page.get_by_label("Title").fill("Clocks")
    fleet.run(fleet.at.store.patch("config", "chrony", {"priority": 3}, Actor.user("eve", "admin")))
    page.get_by_role("button", name="Review changes").click()
    expect(page.get_by_text("Somebody saved this config since you opened it")).to_be_visible()
    assert page.get_by_label("Title").input_value() == "Clocks"
    page.get_by_role("button", name="Review changes").click()
    expect(page.get_by_role("row", name="title")).to_contain_text("Clocks")


def test_files_are_added_and_removed(page: Page) -> None:
    """Adding a file keeps the others, and removing one takes that one."""
    page.goto("/configs/new")
    page.get_by_label("Path").fill("/etc/first")
    page.get_by_role("button", name="Add a file").click()
    page.get_by_label("Path").nth(1).fill("/etc/second")
    page.get_by_role("button", name="Remove file").first.click()
    expect(page.get_by_label("Path")).to_have_count(1)
    expect(page.get_by_label("Path")).to_have_value("/etc/second")


def test_a_delete_asks_for_the_number_of_hosts(page: Page, fleet: Fleet) -> None:
    """The wrong number deletes nothing and says the right one."""
    page.goto("/configs/camera")
    page.locator("summary", has_text="Delete").click()
    page.get_by_label("Number of hosts").fill("4")
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#refusal")).to_contain_text("it is on 5 hosts by now")
    assert get(fleet, "config", "camera")["deleted_at"] is None


def test_the_buttons_of_a_host(page: Page, fleet: Fleet) -> None:
    """Approve, move, label and retry write what they say, as the person who pressed them."""
    page.goto("/hosts/gateway-3")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator(".toast")).to_contain_text("Approved.")
    assert get(fleet, "host", "gateway-3")["desired_state"] == "onboarded"
    expect(page).not_to_have_url(re.compile("said="))
    page.get_by_label("Site").select_option(label="Lyon depot")
    with page.expect_navigation():
        page.get_by_role("button", name="Move").click()
    expect(page.locator(".crumbs")).to_contain_text("Lyon depot")
    page.get_by_text("Edit title and labels").click()
    page.get_by_label("Own labels").fill("role=gateway\nno equals sign")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#refusal")).to_contain_text("line 2: write key=value")
    assert page.get_by_label("Own labels").input_value() == "role=gateway\nno equals sign"
    page.get_by_label("Own labels").fill("role=gateway\nrack=b4")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#effective")).to_contain_text("b4")
    assert get(fleet, "host", "gateway-3")["labels"] == {"role": "gateway", "rack": "b4"}
    page.goto("/hosts/gateway-3?tab=activity")
    expect(page.locator(".line", has_text="desired_state").first).to_contain_text("by admin")


def test_retry_says_so_to_the_managers(page: Page, fleet: Fleet) -> None:
    """Retry of a halted config on one host makes it pending again."""
    page.goto("/hosts/camera-2")
    page.locator("#wanted").get_by_role("button", name="Retry").click()
    expect(page.locator("#wanted")).to_contain_text("pending")
    expect(page.locator("#wanted .badge.bad", has_text="path outside roots")).to_have_count(0)


def test_places_are_made_and_relabelled(page: Page, fleet: Fleet) -> None:
    """A site is made in the tree; what is wrong with it is said with all that was typed; labels of a region are saved."""
    page.goto("/places?add=site")
    page.get_by_label("Name lower case").fill("oslo")
    page.get_by_label("Time zone").fill("Europe/Atlantis")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#refusal")).to_contain_text("IANA")
    assert page.get_by_label("Name lower case").input_value() == "oslo"
    page.get_by_label("Time zone").fill("Europe/Oslo")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("link", name="oslo")).to_be_visible()
    page.goto("/regions/france")
    page.get_by_label("Labels").fill("country=fr\npower=nuclear")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".toast")).to_contain_text("Saved.")
    assert get(fleet, "region", "france")["labels"] == {"country": "fr", "power": "nuclear"}


def test_notifications_are_marked_read(page: Page, fleet: Fleet) -> None:
    """One is marked, and goes from the unread ones; the bell counts one less."""
    page.goto("/notifications")
    first = page.locator(".inbox li").first
    id = str(first.get_attribute("id")).removeprefix("row-")
    first.get_by_role("button", name="Mark as read").click()
    expect(page.locator(f"#row-{id}")).to_have_count(0)
    assert get(fleet, "notification", id)["read_at"] is not None


def test_a_viewer_is_offered_no_button(fleet: Fleet) -> None:
    """Somebody who may only read sees no form of a write, and is refused one that they make up."""
    with fleet.site.client("viewer") as client:
        shown: httpx.Response = client.get("/hosts/camera-1", headers={"Accept": "text/html"})
        assert shown.status_code == 200 and 'name="do"' not in shown.text
        assert client.post("/hosts/camera-1", data={"do": "approve"}).status_code == 403


def test_a_forged_form_is_refused(page: Page, fleet: Fleet) -> None:
    """A form without the session's token changes nothing, and the refusal is a page that says what to do."""
    page.goto("/hosts/kiosk-4")
    page.evaluate("document.querySelectorAll('[name=csrf_token]').forEach(each => each.value = 'forged')")
    page.evaluate("document.querySelector('form:has([name=site])').submit()")  # as a forger does: past the scripts
    expect(page.get_by_role("heading", name="Forbidden")).to_be_visible()


def test_signed_out_in_the_middle(browser: Browser, fleet: Fleet) -> None:
    """Who is signed out while typing is told, and keeps what was typed; signed in again in another tab, the same form saves it."""
    context = browser.new_context(base_url=fleet.site.url)
    context.set_default_timeout(PATIENCE_S * 1000)
    page, other = context.new_page(), context.new_page()
    sign_in(page)
    page.goto("/hosts/scanner-2")
    page.get_by_text("Edit title and labels").click()
    page.get_by_label("Title").fill("typed before")
    context.clear_cookies()
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".toast")).to_contain_text("You are signed out")
    sign_in(other)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="typed before")).to_be_visible()
    context.close()
    assert get(fleet, "host", "scanner-2")["title"] == "typed before"


def test_a_form_sent_without_a_session_comes_back(fleet: Fleet) -> None:
    """Without scripts, whoever signs in after sending a form is on the page with that form again; another site's page is never gone to."""
    with fleet.site.client(None) as stranger:
        for referer, back in (
            (fleet.site.url + "/configs/new?selector=x", "%2Fconfigs%2Fnew%3Fselector%3Dx"),
            ("http://evil.example/a", "%2F"),
        ):
            sent = stranger.post("/configs/new", data={"name": "x"}, headers={"Accept": "text/html", "Referer": referer})
            assert (sent.status_code, sent.headers["Location"]) == (303, f"/login?next={back}")


def sign_in(page: Page) -> None:
    page.goto("/login")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")

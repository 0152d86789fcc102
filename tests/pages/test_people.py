"""People in the browser: somebody is added, signs in, chooses a password, sets up a second factor, is signed out and goes."""

import base64
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, expect

from inventory import second_factor
from tests.pages.conftest import Complaints, Fleet, Open
from tests.pages.seed import ADMIN
from tests.pages.test_pages_render import LOOKS, UNREADABLE
from tests.waiting import Stopwatch

OWN = "a password of my own choosing"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def added(page: Page, name: str, role: str, scope: str = "") -> str:
    """Their one-time password, as the page shows it once."""
    page.goto("/access")
    page.get_by_label("Name", exact=False).first.fill(name)
    page.get_by_label("Role").select_option(role)
    page.get_by_label("Only for these hosts").fill(scope)
    page.get_by_role("button", name="Add").click()
    return page.locator("#made pre").inner_text().strip()


def sign_in(context: BrowserContext, name: str, password: str) -> Page:
    context.clear_cookies()
    page = context.new_page()
    page.goto("/login?next=/hosts")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    return page


def choose(page: Page, handed: str) -> None:
    """The first thing that somebody new does."""
    page.wait_for_url("**/password*")
    page.get_by_label("Password now").fill(handed)
    page.get_by_label("New password", exact=True).fill(OWN)
    page.get_by_label("New password again").fill(OWN)
    page.get_by_role("button", name="Change password").click()


def test_somebody_new_comes_in(page: Page, contexts: Open, fleet: Fleet, tmp_path: Path) -> None:
    """A one-time password leads to nothing but choosing one's own, and that on to where one wanted to go; an operator sees no Access."""
    handed = added(page, "ann", "operator")
    page.screenshot(path=tmp_path / "added.png", full_page=True)
    theirs = sign_in(contexts(), "ann", handed)
    theirs.wait_for_url("**/password?next=*")
    theirs.goto("/configs")
    theirs.wait_for_url("**/password?next=*")
    theirs.get_by_label("Password now").fill(handed)
    theirs.get_by_label("New password", exact=True).fill("password2026!!!!")
    theirs.get_by_label("New password again").fill("password2026!!!!")
    theirs.get_by_role("button", name="Change password").click()
    assert "first that anybody would try" in theirs.get_by_role("alert").inner_text()
    theirs.screenshot(path=tmp_path / "refused.png", full_page=True)
    choose(theirs, handed)
    theirs.wait_for_url("**/configs*")
    theirs.locator("#live[data-state=live]").wait_for()
    assert theirs.get_by_role("link", name="Access").count() == 0
    theirs.goto("/access")
    assert "Forbidden" in theirs.locator("h1").inner_text()


def test_a_second_factor_from_the_picture_to_the_sign_in(page: Page, contexts: Open, fleet: Fleet, tmp_path: Path) -> None:
    """Set up with the picture under the page's policy, asked for at the next sign-in, each recovery code good once."""
    handed = added(page, "cleo", "viewer")
    theirs = sign_in(contexts(), "cleo", handed)
    choose(theirs, handed)
    theirs.wait_for_url("**/hosts*")
    theirs.goto("/account")
    theirs.get_by_label("Your password").fill(OWN)
    theirs.get_by_role("button", name="Set it up").click()
    picture = theirs.get_by_alt_text("QR code for an authenticator app")
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("each => each.naturalWidth > 100")
    theirs.screenshot(path=tmp_path / "picture.png", full_page=True)
    secret = base64.b32decode(theirs.locator("#secret").inner_text().replace(" ", ""))
    theirs.get_by_label("Code").fill("000000")
    theirs.get_by_role("button", name="Turn it on").click()
    assert "clocks" in theirs.get_by_role("alert").inner_text()
    theirs.get_by_label("Code").fill(second_factor.code_at(secret, int(datetime.now(UTC).timestamp()) // second_factor.STEP_S))
    theirs.get_by_role("button", name="Turn it on").click()
    codes = theirs.locator("#codes pre").inner_text().split()
    assert len(codes) == second_factor.RECOVERY_CODES
    theirs.screenshot(path=tmp_path / "codes.png", full_page=True)
    again = sign_in(contexts(), "cleo", OWN)
    again.get_by_label("Code").fill(codes[0])
    again.screenshot(path=tmp_path / "code.png", full_page=True)
    again.get_by_role("button", name="Go on").click()
    again.wait_for_url("**/hosts")
    again.goto("/account")
    assert "9 recovery codes left" in again.locator("#second-factor").inner_text()


def who_moves_is_told_as_moving(theirs: Page, fleet: Fleet) -> None:
    """An edit of its labels brings a host with an alert into the scope, and takes it out: a line each, and at the bell, and no toast."""
    theirs.goto("/events")
    theirs.locator("#live[data-state=live]").wait_for()
    bell, newest = theirs.locator("#unread"), theirs.locator("#events .line").first
    before = int(bell.text_content() or "0")
    for line, said, unread in (("4", "came into your scope", before + 1), ("3", "left your scope", before)):
        fleet.run(fleet.at.store.patch("host", fleet.made.hosts["camera-2"], {"labels": {"line": line}}, ADMIN))
        expect(newest).to_contain_text(said)
        expect(newest).to_contain_text("by admin")
        expect(bell).to_have_text(str(unread))
    assert theirs.locator(".toast").count() == 0


def test_a_scope_shows_its_hosts_while_it_is_typed(page: Page, contexts: Open, fleet: Fleet, tmp_path: Path) -> None:
    """How many and the first of them, or what is wrong with it; and whoever has it sees these hosts and no button that is not theirs."""
    page.goto("/access")
    preview, field = page.locator("#scope-preview"), page.get_by_label("Only for these hosts")
    preview.get_by_text("31 hosts match").wait_for()
    field.fill("presence = online")
    preview.get_by_text("can't be used in a selector").wait_for()
    field.fill('site = "berlin-plant"')
    preview.get_by_text("by its id").wait_for()
    field.fill('labels.line = "4"')
    preview.get_by_text("6 of 31 hosts match").wait_for()
    page.screenshot(path=tmp_path / "scope.png", full_page=True)
    handed = added(page, "linda", "operator", 'labels.line = "4"')
    expect(page.locator("td .sub.mono")).to_have_text(['labels.line = "4"'])
    theirs = sign_in(contexts(viewport={"width": 1440, "height": 900}), "linda", handed)
    choose(theirs, handed)
    theirs.wait_for_url("**/hosts*")
    assert theirs.locator("tbody tr").count() == 6
    theirs.screenshot(path=tmp_path / "hosts.png", full_page=True)
    theirs.goto("/configs")
    assert theirs.get_by_role("link", name="New config").count() == 0
    theirs.goto("/enroll")
    theirs.get_by_text("somebody else makes them").wait_for()
    theirs.screenshot(path=tmp_path / "enroll.png", full_page=True)
    who_moves_is_told_as_moving(theirs, fleet)


def test_a_page_that_is_open_ends_with_its_session(page: Page, contexts: Open, fleet: Fleet, complaints: Complaints) -> None:
    """Signed out by the administrator: the open page notices by itself within seconds, and its next step is signing in."""
    handed = added(page, "dora", "viewer")
    theirs = sign_in(contexts(), "dora", handed)
    choose(theirs, handed)
    theirs.wait_for_url("**/hosts*")
    theirs.locator("#live[data-state=live]").wait_for()
    page.goto("/access/users/dora")
    page.get_by_role("button", name="Sign out everywhere").click()
    expect(page.locator(".toast")).to_contain_text("Signed out there.")
    watch = Stopwatch()
    theirs.locator("#live[data-state=lost]").wait_for()
    assert watch.seconds() < 8
    theirs.get_by_role("link", name="Configs").click()
    theirs.wait_for_url("**/login?next=*")
    # That it was refused is what this is about, and browsers log that.
    complaints[:] = [each for each in complaints if "status of 401" not in each]


def test_a_refusal_is_said_and_loses_nothing(page: Page, fleet: Fleet) -> None:
    """A name that can be none stays in its field; the last administrator can't be disabled, and the page says why."""
    page.goto("/access")
    page.get_by_label("Name", exact=False).first.fill("Not A Name")
    page.get_by_role("button", name="Add").click()
    assert "name" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Name", exact=False).first.input_value() == "Not A Name"
    page.goto("/access/users/admin")
    page.get_by_role("button", name="Disable").click()
    assert "only administrator" in page.get_by_role("alert").inner_text()


def test_pages_without_the_frame_render(contexts: Open, fleet: Fleet, tmp_path: Path) -> None:
    """Signing in, its code and a new password: readable, and no wider than the screen, in every look."""
    for look, options in LOOKS.items():
        context = contexts(**options)
        page = context.new_page()
        page.goto("/password")
        page.screenshot(path=tmp_path / f"{look}-password.png", full_page=True)
        assert page.evaluate(WIDER) <= 0 and page.evaluate(UNREADABLE) == []
        context.clear_cookies()
        for name, path in (("login", "/login?error=throttled"), ("code", "/login?step=code&error=code")):
            page.goto(path)
            page.screenshot(path=tmp_path / f"{look}-{name}.png", full_page=True)
            assert page.evaluate(WIDER) <= 0 and page.evaluate(UNREADABLE) == []

"""The enroll page: who waits, with what they say of themselves, what a person decides, and sheets of machines that are to come."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from inventory.db import dumps
from inventory.kinds.host import HOST
from tests.pages.conftest import Fleet, Open
from tests.pages.seed import HOSTILE, SYSTEM
from tests.pages.test_pages_render import LOOKS, NARROWEST_CARD, UNREADABLE


def ask(fleet: Fleet, name: str, replaces: str | None = None, **said: Any) -> str:
    """A device that asks to be let in, as enrollment writes it down; its host."""
    key = hashlib.sha256(name.encode()).hexdigest()
    evidence = {"address": "192.0.2.7", "agent_version": "0.1.0", **said}

    async def asked() -> str:
        async with fleet.at.store.transaction() as w:
            host = await w.make(HOST, {"name": name, "desired_state": "registered", "replaces": replaces}, SYSTEM)
            await w.tx.raw.execute(
                "INSERT INTO enrollment_request (host, fingerprint, token, evidence, same_as, told, created_at, asked_at)"
                " VALUES ($1, $2, 'tok-x', $3::jsonb, '[]', false, $4::timestamptz - interval '7 minutes', $4)",
                host,
                key,
                dumps(evidence),
                fleet.at.now,
            )
            return host

    return fleet.run(asked())


def asking(page: Page, host: str) -> Locator:
    return page.locator(f"#asking-{host}")


def state(fleet: Fleet, host: str) -> Any:
    return fleet.run(fleet.at.store.get("host", host))["desired_state"]


def test_who_waits_is_shown_while_one_looks(page: Page, fleet: Fleet) -> None:
    """With all of the evidence, and without a reload; let in, it says so, and is not asked about again."""
    page.goto("/enroll")
    page.locator("#live[data-state=live]").wait_for()
    page.evaluate("window.stands = true")
    said: dict[str, Any] = {
        "serial": "5CG1234ABC",
        "uuid": "4c4c4544-004b-5210-8051-b4c04f4a4d32",
        "macs": ["52:54:00:12:34:56", "52:54:00:12:34:57"],
    }
    host = ask(fleet, "newcomer-1", **said)
    shown = asking(page, host)
    for words in (said["serial"], said["uuid"], "52:54:00:12:34:57", hashlib.sha256(b"newcomer-1").hexdigest(), "192.0.2.7"):
        expect(shown).to_contain_text(str(words))
    assert page.evaluate("window.stands") is True
    shown.get_by_role("button", name="Approve").click()
    expect(page.locator(".toast")).to_contain_text("Approved. It gets its identity")
    assert state(fleet, host) == "onboarded"
    expect(asking(page, host)).to_contain_text("approved, not back yet")
    expect(asking(page, host).get_by_role("button", name="Approve")).to_have_count(0)


def test_one_that_replaces_a_host(page: Page, fleet: Fleet) -> None:
    """It says whose machine it says it is; a person may let it replace that host, or be one of its own."""
    host = ask(fleet, "newcomer-2", fleet.made.hosts["gateway-1"], serial="SN1")
    page.goto("/enroll")
    expect(asking(page, host)).to_contain_text("It says it is the machine of")
    expect(asking(page, host).locator(".notice a")).to_have_attribute("href", f"/hosts/{fleet.made.hosts['gateway-1']}")
    expect(asking(page, host).get_by_role("button", name="Let it take that place")).to_be_visible()
    asking(page, host).get_by_role("button", name="Approve as a new host").click()
    expect(page.locator(".toast")).to_contain_text("Approved.")
    found = fleet.run(fleet.at.store.get("host", host))
    assert (found["desired_state"], found["replaces"]) == ("onboarded", None)


def test_what_it_replaces_has_changed_meanwhile(page: Page, fleet: Fleet) -> None:
    """Nobody decides about another question than the one that was shown."""
    host = ask(fleet, "newcomer-3", serial="SN2")
    page.goto("/enroll")
    asking(page, host).get_by_role("button", name="Approve").focus()  # or what comes live may put the form right again
    page.evaluate(f"document.querySelector('#asking-{host} [name=replaces]').value = 'host-other'")
    asking(page, host).get_by_role("button", name="Approve").click()
    expect(page.locator("#refusal")).to_contain_text("has changed since you looked")
    assert state(fleet, host) == "registered"


def test_one_is_refused_and_forgotten(page: Page, fleet: Fleet) -> None:
    """Refused, it stays to be seen, and may be let in after all; forgotten, it goes."""
    host = ask(fleet, "newcomer-4")
    page.goto("/enroll")
    with page.expect_navigation():
        asking(page, host).get_by_role("button", name="Refuse").click()
    expect(asking(page, host)).to_contain_text("refused")
    assert state(fleet, host) == "untrusted"
    expect(asking(page, host).get_by_role("button", name="Approve")).to_be_visible()
    asking(page, host).get_by_role("button", name="Forget it").click()
    expect(page.locator(".toast")).to_contain_text("Being deleted")
    assert state(fleet, host) == "deleted"


def test_a_sheet_is_handed_in(page: Page, fleet: Fleet, tmp_path: Path) -> None:
    """What is wrong with it is said by line, and it is there again to be put right; then its machines are expected, the page lives on."""
    page.goto("/enroll")
    page.get_by_label("or paste it").fill("serial,name\nPAGE-0001,sheet-page-1\nDefault string,sheet-page-2\n")
    page.get_by_role("button", name="Write them down").click()
    expect(page.locator("#sheet [role=alert]")).to_contain_text("line 3, serial")
    assert page.get_by_label("or paste it").input_value().startswith("serial,name\nPAGE-0001")
    (tmp_path / "machines.csv").write_text("serial,name\nPAGE-0001,sheet-page-1\nPAGE-0002,sheet-page-2\n")
    page.get_by_label("or paste it").fill("")
    page.get_by_label("File").set_input_files(tmp_path / "machines.csv")
    page.get_by_role("button", name="Write them down").click()
    expect(page.locator("#sheet [role=status]")).to_contain_text("2 machines written down")
    expect(page.locator("#expected")).to_contain_text("PAGE-0002")
    page.locator("#live[data-state=live]").wait_for()
    newcomer = ask(fleet, "newcomer-after-a-sheet")
    expect(asking(page, newcomer)).to_be_visible()
    page.goto("/hosts/sheet-page-1")
    expect(page.locator("#vitals")).to_contain_text("PAGE-0001")


def test_a_viewer_sees_and_decides_nothing(fleet: Fleet) -> None:
    """No buttons; a request that is made up is refused."""
    host = ask(fleet, "newcomer-5")
    with fleet.site.client("viewer") as viewer:
        shown = viewer.get("/enroll", headers={"Accept": "text/html"}).text
        assert f"asking-{host}" in shown and 'value="approve"' not in shown
        for path, form in ((f"/enroll/waiting/{host}", {"do": "approve"}), ("/enroll/expected", {"sheet": "serial\nAB1\n"})):
            assert viewer.post(path, data=form).status_code == 403
    assert state(fleet, host) == "registered"


@pytest.mark.parametrize("look", LOOKS)
def test_it_can_be_read_in_every_look(look: str, contexts: Open, fleet: Fleet, tmp_path: Path) -> None:
    """With a token just made, somebody who waits and says markup, one that replaces, one refused, and some that are expected."""
    host = ask(
        fleet, f"hostile-{look}", fleet.made.hosts["mallory"], serial=HOSTILE, uuid=HOSTILE, macs=["52:54:00:12:34:56"] * 8, address=HOSTILE
    )
    refused = ask(fleet, f"refused-{look}", serial="W" * 256)
    fleet.run(fleet.at.store.patch("host", refused, {"desired_state": "untrusted"}, SYSTEM))
    fleet.run(fleet.at.store.create("host", {"name": f"expected-{look}", "expected_serial": "E" * 120 + look}, SYSTEM))
    page = contexts(**LOOKS[look]).new_page()
    page.goto("/enroll")
    page.get_by_role("button", name="Make a token").click()
    expect(page.locator("#made .copybox")).to_have_count(3)
    expect(page.locator("#made")).to_contain_text("CPython")
    page.locator("#live[data-state=live]").wait_for()
    page.screenshot(path=tmp_path / f"enroll-{look}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    if look == "phone":
        assert page.evaluate(NARROWEST_CARD) > 300
    assert page.evaluate(UNREADABLE) == []
    assert page.locator("main img").count() == 0
    expect(asking(page, host)).to_contain_text("<img src=x")
    page.goto(f"/hosts/{host}")
    expect(page.locator("#vitals")).to_contain_text("waits for approval")

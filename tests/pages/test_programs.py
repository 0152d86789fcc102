"""Programs in the browser: a token is made and revoked, an integration and a service's certificate are taken back after a second look."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.pages.conftest import Complaints, Fleet
from web.pages.frame import SAID


def test_a_token_is_shown_once(page: Page, fleet: Fleet, complaints: Complaints, tmp_path: Path) -> None:
    """Made, shown, and in the list without its secret; revoked, after a second look, it is good for nothing."""
    page.goto("/access/programs")
    page.get_by_label("Name").fill("ci")
    page.get_by_label("Role").select_option("operator")
    page.get_by_role("button", name="Make a token").click()
    token = page.locator("#made pre").inner_text().strip()
    page.screenshot(path=tmp_path / "token.png", full_page=True)
    assert re.fullmatch(r"fwa_[\w-]{43}", token)
    asked = page.request.get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}"})
    assert asked.json() == {"type": "token", "name": "ci", "role": "operator"}
    page.goto("/access/programs")
    assert token not in page.content()
    page.get_by_role("link", name="Revoke ci", exact=True).click()
    page.get_by_role("link", name="Leave it").click()
    page.get_by_role("link", name="Revoke ci", exact=True).click()
    page.get_by_role("button", name="Revoke ci").click()
    expect(page.locator(".toast")).to_contain_text("Revoked.")
    assert page.get_by_role("link", name="Revoke ci", exact=True).count() == 0
    assert page.request.get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}"}).status == 401


def test_whatever_its_name_and_scope_a_token_can_be_revoked_without_scrolling(page: Page, fleet: Fleet) -> None:
    """Long ones break, on a phone and on a desk, and the button stays within the page."""
    page.goto("/access/programs")
    page.get_by_label("Name").fill("a-token-with-quite-a-long-name-for-reports")
    page.get_by_label("Only for these hosts").fill('labels.country = de AND cpu_cores >= 8 AND os_name = "Debian GNU/Linux"')
    page.get_by_role("button", name="Make a token").click()
    page.locator("#made").wait_for()
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        button = page.get_by_role("link", name="Revoke a-token-with", exact=False)
        box, card = button.bounding_box(), page.locator("#tokens").bounding_box()
        assert box is not None and card is not None and box["x"] + box["width"] <= card["x"] + card["width"], width


def test_an_integration_is_given_a_scope(page: Page, fleet: Fleet, tmp_path: Path) -> None:
    """What is none is refused and stays typed; a first one is said to replace the certificate, another one is not."""
    fleet.let_in("gauges", "none")
    for typed, said in (("nothing = 1", ""), ("labels.line = 4", "certificate-replaced"), ("labels.line = 5", "saved")):
        page.goto("/access/programs")
        page.get_by_role("link", name="Scope of gauges").click()
        page.get_by_label("Only for these hosts").fill(typed)
        page.get_by_role("button", name="Save").click()
        if said:
            expect(page.locator(".toast")).to_contain_text(SAID[said])
            expect(page.locator("#gauges")).to_contain_text(typed)
        else:
            page.locator("#refusal").wait_for()
            expect(page.get_by_label("Only for these hosts")).to_have_value(typed)
            expect(page.locator("#scope-preview")).to_be_empty()
            page.screenshot(path=tmp_path / "scope.png", full_page=True)


def test_what_a_scope_would_see_moves_no_button(page: Page, fleet: Fleet) -> None:
    """It comes while somebody is about to press it, and may be long."""
    fleet.let_in("meters", "none")
    for where in ("/access/programs/integrations/meters/scope", "/access/programs", "/access", "/access/users/admin"):
        page.goto(where)
        expect(page.locator("#scope-preview")).to_contain_text("hosts match")
        button = page.locator("form:has(textarea) button[type=submit]")
        before = button.bounding_box()
        page.get_by_label("Only for these hosts").fill("nothing = 1")
        expect(page.locator("#scope-preview")).to_contain_text("host has no field nothing")
        assert before is not None and button.bounding_box() == before, where


def test_unsigned_writers_are_shown_as_such_and_taken_back(page: Page, fleet: Fleet, tmp_path: Path) -> None:
    """Whoever may write unsigned is named in a warning and marked in its row, who signs or only reads is not, nor who is gone."""
    for name, write in (("scada", "unsigned"), ("erp", "signed"), ("grafana", "none")):
        fleet.let_in(name, write)
    page.goto("/access/programs")
    page.screenshot(path=tmp_path / "programs.png", full_page=True)
    assert page.locator("#unsigned b").inner_text() == "mes, scada"
    writes = {name: page.locator(f"#integrations #{name} td").nth(1).inner_text() for name in ("scada", "erp", "grafana")}
    assert writes == {"scada": "unsigned", "erp": "signed", "grafana": "reads only"}
    page.get_by_role("link", name="Revoke scada").click()
    page.screenshot(path=tmp_path / "asked.png", full_page=True)
    page.get_by_role("button", name="Revoke scada").click()
    expect(page.locator(".toast")).to_contain_text("Taken back.")
    assert page.locator("#unsigned b").inner_text() == "mes" and page.locator("#integrations #scada").count() == 0


def test_a_service_s_certificate_that_is_in_use_is_not_revoked_unawares(page: Page, fleet: Fleet, tmp_path: Path) -> None:
    """The one in the secrets says what would stop, and how to replace it; replaced, it is shown so, and revoked without a warning."""
    before = dict(fleet.authority.services_issued())["svc-managers"].serial
    page.goto(f"/access/programs/certificates/{before}")
    assert "no command reaches a device" in page.locator("#asked").inner_text()
    assert "create svc-managers --new-key" in page.locator("#asked pre").inner_text()
    page.screenshot(path=tmp_path / "in-use.png", full_page=True)
    fleet.authority.equip("svc-managers", anew=True)
    page.goto("/access/programs")
    row = page.locator(f"[id='{before}']")
    assert "replaced" in row.inner_text()
    row.get_by_role("link", name="Revoke").click()
    assert "no command reaches a device" not in page.locator("#asked").inner_text()
    page.get_by_role("button", name="Revoke svc-managers").click()
    expect(page.locator(".toast")).to_contain_text("Taken back.")
    assert "revoked" in page.locator(f"[id='{before}']").inner_text()
    after = dict(fleet.authority.services_issued())["svc-managers"].serial
    assert "in use" in page.locator(f"[id='{after}']").inner_text()


@pytest.mark.parametrize("path", ["tokens/nobody", "integrations/nobody", "certificates/0", "certificates/svc-web", "users/admin"])
def test_what_is_not_there_is_not_asked_about(page: Page, fleet: Fleet, complaints: Complaints, path: str) -> None:
    """404; certificates by their serial number alone, as a name may have several."""
    page.goto(f"/access/programs/{path}")
    assert "404" in page.locator("main").inner_text() or "not" in page.locator("h1").inner_text().lower()

"""Signing in, sessions and their CSRF tokens, as browsers and programs meet them."""

import re

import httpx
import pytest

from tests.web.site_under_test import PASSWORD, Site
from web.signin import local_path
from web.throttle import FORGET_S, FREE_ADDRESS, FREE_CODE, FREE_NAME, LONGEST_S, Throttle

RIGHT = {"username": "admin", "password": PASSWORD}


def test_a_session_reads_with_its_cookie_and_writes_with_its_csrf_token(site: Site) -> None:
    """JSON in, JSON out; without the token a write is refused, with it it is done; after signing out nothing is left."""
    with site.client(None) as browser:
        answer = browser.post("/login", json=RIGHT)
        assert answer.status_code == 200
        assert answer.json().keys() == {"name", "role", "csrf_token"}
        token = answer.json()["csrf_token"]
        assert browser.get("/api/v1/whoami").json() == {"type": "user", "name": "admin", "role": "admin", "csrf_token": token}
        refused = browser.post("/api/v1/regions", json={"name": "north"})
        assert refused.status_code == 403
        assert "CSRF" in refused.json()["detail"]
        assert browser.post("/api/v1/regions", json={"name": "north"}, headers={"X-CSRF-Token": "x"}).status_code == 403
        assert browser.post("/api/v1/regions", json={"name": "north"}, headers={"X-CSRF-Token": token}).status_code == 201
        assert browser.post("/logout").status_code == 403
        secret = browser.cookies["fleetward-session"]
        assert browser.post("/logout", headers={"X-CSRF-Token": token}).status_code == 204
        assert browser.get("/api/v1/whoami", headers={"Cookie": f"fleetward-session={secret}"}).status_code == 401


def test_the_cookie_is_kept_from_scripts_and_other_sites(site: Site) -> None:
    """HttpOnly, SameSite=Lax, for the whole site, and at least 128 bits."""
    with site.client(None) as browser:
        cookie = browser.post("/login", json=RIGHT).headers["Set-Cookie"]
    attributes = {part.strip().lower() for part in cookie.split(";")}
    assert {"httponly", "samesite=lax", "path=/"} <= attributes
    assert "domain" not in cookie.lower()
    assert len(cookie.split("=")[1].split(";")[0]) >= 22


def test_a_form_sends_a_browser_on(site: Site) -> None:
    """303 to where it wanted to go, never to another site; a wrong password sends it back to the form, with why."""
    page = {"Accept": "text/html"}
    with site.client(None) as browser:
        sent = browser.post("/login", data={**RIGHT, "next": "/hosts?filter=x"}, headers=page)
        assert (sent.status_code, sent.headers["Location"]) == (303, "/hosts?filter=x")
        foreign = browser.post("/login", data={**RIGHT, "next": "//evil.example/"}, headers=page)
        assert foreign.headers["Location"] == "/"
        wrong = browser.post("/login", data={**RIGHT, "password": "x", "next": "/hosts"}, headers=page)
        assert (wrong.status_code, wrong.headers["Location"]) == (303, "/login?error=wrong&next=%2Fhosts")


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}])
def test_another_sites_page_can_not_sign_anybody_in(site: Site, headers: dict[str, str]) -> None:
    """Its request is refused before the password is looked at."""
    with site.client(None) as browser:
        assert browser.post("/login", data=RIGHT, headers=headers).status_code == 403
        assert browser.post("/login", data=RIGHT, headers={"Origin": site.url, "Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.usefixtures("long_waits")
def test_guessing_is_slowed_down(site: Site) -> None:
    """After a few wrong passwords 429 with how long to wait, for the right one too; a wrong name looks like a wrong password."""
    with site.client(None) as browser:
        texts = set()
        for number in range(FREE_ADDRESS):
            refused = browser.post("/login", json={"username": "admin" if number % 2 else "nobody", "password": f"x{number}"})
            assert refused.status_code == 401
            texts.add(refused.text)
        assert len(texts) == 1
        slowed = browser.post("/login", json=RIGHT)
        assert slowed.status_code == 429
        assert int(slowed.headers["Retry-After"]) >= 1


def test_the_wait_begins_when_the_refusal_is_told() -> None:
    """On a busy machine a check takes longer than the first waits; they would have run out before anybody could be told of them."""
    throttle = Throttle()
    for _ in range(FREE_ADDRESS):
        throttle.failed("a", "n", 0.0)
    throttle.told("a", "n", 5.0)
    throttle.told("b", "m", 5.0)
    assert throttle.wait("a", "n", 5.0) == 1.0
    assert throttle.wait("b", "m", 5.0) == 0


def test_the_throttle_has_one_of_a_wait_written_down() -> None:
    """The first who comes too early; another one once there was a further failure, and with it another wait."""
    throttle = Throttle()
    assert not throttle.first_too_early("a", "n", 0.0)
    for _ in range(FREE_ADDRESS):
        throttle.failed("a", "n", 0.0)
    assert [throttle.first_too_early("a", "n", 0.5) for _ in range(3)] == [True, False, False]
    assert not throttle.first_too_early("a", "another", 0.5)
    throttle.failed("a", "n", 1.0)
    assert [throttle.first_too_early("a", "n", 1.5) for _ in range(3)] == [True, False, False]


def test_who_gives_no_name_is_known_by_address() -> None:
    """As on the way back from an identity provider: its failures are the address's, and everybody else goes on."""
    throttle = Throttle()
    for _ in range(FREE_NAME):
        throttle.failed("a", "", 0.0)
    assert throttle.wait("a", "n", 0.0) > 0
    assert throttle.wait("b", "", 0.0) == 0


def test_the_throttle_doubles_forgets_and_pardons() -> None:
    """The wait doubles from the first failure too many up to its longest; time and success end it."""
    throttle = Throttle()
    for number in range(FREE_ADDRESS):
        assert throttle.wait("a", f"n{number}", 0.0) == 0
        throttle.failed("a", f"n{number}", 0.0)
    waits = []
    for _ in range(12):
        waits.append(throttle.wait("a", "n", 0.0))
        throttle.failed("a", "other", 0.0)
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == LONGEST_S
    assert throttle.wait("a", "n", 10.0) == LONGEST_S - 10
    assert throttle.wait("a", "n", FORGET_S) == 0
    assert throttle.wait("b", "n", 0.0) == 0
    throttle.succeeded("a", "n")
    assert throttle.wait("a", "n", 0.0) == 0


def test_one_name_guessed_from_many_addresses_is_slowed_down_too() -> None:
    """Each address has its failures free, the name has only so many altogether."""
    throttle = Throttle()
    for number in range(FREE_NAME):
        assert throttle.wait(f"a{number}", "admin", 0.0) == 0
        throttle.failed(f"a{number}", "admin", 0.0)
    assert throttle.wait("another", "admin", 0.0) == 1
    assert throttle.wait("another", "somebody", 0.0) == 0


def test_codes_guessed_from_many_addresses_are_slowed_down_for_their_account() -> None:
    """With far less leave than passwords; a right password in between pardons none of them; signing in does."""
    throttle = Throttle()
    for number in range(FREE_CODE):
        assert throttle.wait(f"a{number}", "ann", 0.0, code=True) == 0
        throttle.failed(f"a{number}", "ann", 0.0)
        throttle.pardoned(f"a{number}", "ann")
        throttle.failed(f"a{number}", "ann", 0.0, code=True)
    assert throttle.wait("another", "ann", 0.0, code=True) == 1
    assert throttle.wait("another", "ann", 0.0) == 0
    assert throttle.wait("another", "bob", 0.0, code=True) == 0
    throttle.succeeded("another", "ann")
    assert throttle.wait("yet another", "ann", 0.0, code=True) == 0


@pytest.mark.parametrize(
    "wanted", ["", "hosts", "//evil", "/\\evil", "https://evil", "javascript:alert(1)", "/a\r\nSet-Cookie: x=y", "\\/evil"]
)
def test_only_paths_of_this_site_are_gone_on_to(wanted: str) -> None:
    """Anything else becomes the front page."""
    assert local_path(wanted) == "/"
    assert local_path("/hosts?filter=a%20b#top") == "/hosts?filter=a%20b#top"


def test_every_response_carries_the_security_headers(site: Site) -> None:
    """Answers, refusals and pages that are not there: nothing inline may run, nothing is sniffed, framed or cached."""
    with site.client() as client:
        answers: list[httpx.Response] = [client.get(path) for path in ("/api/v1/kinds", "/api/v1/nothing", "/livez", "/nothing")]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?:", policy)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"

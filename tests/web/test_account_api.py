"""One's own account over the API: the second factor, from its first code to the one that is refused."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from inventory import second_factor
from tests.web.site_under_test import PASSWORD, Site, running
from tests.web.test_users_api import own_account, signed_in

AGAIN = {"password": PASSWORD}


@pytest.fixture
def keeping(web_url: str, tmp_path: Path) -> Iterator[Site]:
    """A site that has a session key of its installation."""
    (tmp_path / "session.key").write_bytes(b"k" * 32)
    with running(web_url, secrets=tmp_path) as site:
        yield site


def enrolled(browser: httpx.Client) -> tuple[bytes, list[str], int]:
    """The secret, the recovery codes, and the step whose code has been used."""
    begun = browser.post("/api/v1/account:begin-second-factor", json=AGAIN)
    assert begun.status_code == 200, begun.text
    text = parse_qs(urlsplit(begun.json()["uri"]).query)["secret"][0]
    assert text == begun.json()["secret"]
    secret = base64.b32decode(text + "=" * (-len(text) % 8))
    step = now_step()
    done = browser.post("/api/v1/account:confirm-second-factor", json={"code": second_factor.code_at(secret, step)})
    assert done.status_code == 200, done.text
    return secret, done.json()["recovery_codes"], step


def now_step() -> int:
    return int(datetime.now(UTC).timestamp()) // second_factor.STEP_S


def sign_in(site: Site, **more: Any) -> httpx.Response:
    with site.client(None) as browser:
        return browser.post("/login", json={"username": "admin", "password": PASSWORD, **more})


def test_a_second_factor_is_asked_for_and_no_code_is_good_twice(keeping: Site) -> None:
    """Without a code 401 that says so; the code that confirmed it is used up; the next one is good once; a recovery code is good once."""
    with signed_in(keeping, "admin", PASSWORD) as browser:
        secret, codes, step = enrolled(browser)
        needed = sign_in(keeping)
        assert needed.status_code == 401
        assert needed.json()["errors"][0]["pointer"] == "/code"
        assert sign_in(keeping, code=second_factor.code_at(secret, step)).status_code == 401
        following = second_factor.code_at(secret, step + 1)  # good within the skew
        assert sign_in(keeping, code=following).status_code == 200
        assert sign_in(keeping, code=following).status_code == 401
        assert sign_in(keeping, code=codes[0]).status_code == 200
        assert sign_in(keeping, code=codes[0]).status_code == 401
        account = browser.get("/api/v1/account").json()
        assert (account["second_factor"], account["recovery_codes_left"]) == (True, 9)
        assert browser.post("/api/v1/account:remove-second-factor", json={"password": "wrong"}).status_code == 422
        assert browser.post("/api/v1/account:remove-second-factor", json=AGAIN).status_code == 204
        assert sign_in(keeping).status_code == 200


def test_a_browser_is_asked_in_a_second_step(keeping: Site) -> None:
    """Name and password lead to the code, by a cookie that is no session; the code to where it wanted to go; the cookie to nothing."""
    page = {"Accept": "text/html"}
    with signed_in(keeping, "admin", PASSWORD) as browser:
        _, codes, _ = enrolled(browser)
    with keeping.client(None) as browser:
        first = browser.post("/login", data={"username": "admin", "password": PASSWORD, "next": "/hosts"}, headers=page)
        assert (first.status_code, first.headers["Location"]) == (303, "/login?step=code&next=%2Fhosts")
        assert set(browser.cookies) == {"fleetward-sign-in"}
        assert browser.get("/api/v1/whoami").status_code == 401
        assert "recovery codes" in browser.get(first.headers["Location"], headers=page).text
        wrong = browser.post("/login", data={"code": "000000", "next": "/hosts"}, headers=page)
        assert wrong.headers["Location"] == "/login?step=code&error=code&next=%2Fhosts"
        planted = browser.cookies["fleetward-sign-in"]
        right = browser.post("/login", data={"code": codes[3], "next": "/hosts"}, headers=page)
        assert (right.status_code, right.headers["Location"]) == (303, "/hosts")
        assert browser.get("/api/v1/whoami").status_code == 200
    with keeping.client(None, cookies={"fleetward-sign-in": planted}) as again:
        late = again.post("/login", data={"code": codes[4]}, headers=page)
        assert late.headers["Location"].startswith("/login?error=late")


@pytest.mark.usefixtures("long_waits")
def test_guessing_codes_is_slowed_down_for_the_account(keeping: Site) -> None:
    """The right password forgives no wrong codes: after five everybody who tries that account's codes waits."""
    with signed_in(keeping, "admin", PASSWORD) as browser:
        enrolled(browser)
    tried = [sign_in(keeping, code=f"00000{number}").status_code for number in range(7)]
    assert tried == [401] * 5 + [429] * 2


def test_an_administrator_resets_what_was_lost(keeping: Site) -> None:
    """The password alone then suffices; somebody else's second factor can't be begun with a session alone."""
    with keeping.client() as client, own_account(keeping, client, "ann") as browser:
        assert browser.post("/api/v1/account:begin-second-factor", json={"password": "not hers"}).status_code == 422
        given = {"password": "a password of my own choosing"}
        secret = base64.b32decode(browser.post("/api/v1/account:begin-second-factor", json=given).json()["secret"])
        code = second_factor.code_at(secret, now_step())
        assert browser.post("/api/v1/account:confirm-second-factor", json={"code": code}).status_code == 200
        with keeping.client(None) as other:
            name = {"username": "ann", **given}
            assert other.post("/login", json=name).status_code == 401
            assert client.post("/api/v1/users/ann:reset-second-factor").json()["second_factor"] is False
            assert other.post("/login", json=name).status_code == 200


def test_without_a_lasting_key_no_second_factor_is_made(site: Site) -> None:
    """It could not be read after the next start: 503 that says what is missing."""
    with signed_in(site, "admin", PASSWORD) as browser:
        refused = browser.post("/api/v1/account:begin-second-factor", json=AGAIN)
        assert refused.status_code == 503
        assert "FLEETWARD_SECRETS" in refused.json()["detail"]

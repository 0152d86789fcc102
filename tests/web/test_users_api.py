"""Users, sessions and API tokens over the API, and signing in as those who were made there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.waiting import Stopwatch
from tests.web.site_under_test import PASSWORD, Site, running, until

OWN = "a password of my own choosing"


@contextmanager
def signed_in(site: Site, name: str, password: str, **more: str) -> Iterator[httpx.Client]:
    """A browser's client: cookie and CSRF token."""
    with site.client(None) as browser:
        answer = browser.post("/login", json={"username": name, "password": password, **more})
        assert answer.status_code == 200, answer.text
        browser.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
        yield browser


def made(client: httpx.Client, name: str, role: str = "viewer") -> dict[str, Any]:
    answer = client.post("/api/v1/users", json={"name": name, "role": role})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@contextmanager
def own_account(site: Site, client: httpx.Client, name: str, role: str = "viewer") -> Iterator[httpx.Client]:
    """The browser of somebody new who has chosen a password."""
    handed = made(client, name, role)["password"]
    with signed_in(site, name, handed) as browser:
        done = browser.post("/api/v1/account:change-password", json={"current_password": handed, "new_password": OWN})
        assert done.status_code == 200, done.text
        browser.headers["X-CSRF-Token"] = done.json()["csrf_token"]
        yield browser


def test_a_one_time_password_opens_nothing_but_its_change(site: Site, client: httpx.Client) -> None:
    """All else is 403 until then; afterwards the session goes on under another cookie and token, and the password handed out is wrong."""
    handed = made(client, "ann", "operator")["password"]
    with signed_in(site, "ann", handed) as browser:
        assert browser.get("/api/v1/whoami").json()["must_change_password"] is True
        for path in ("/api/v1/hosts", "/api/v1/sessions", "/api/v1/events/stream"):
            refused = browser.get(path)
            assert (refused.status_code, refused.json()["title"]) == (403, "Password to be changed"), path
        before = browser.cookies["fleetward-session"]
        for new, words in (("short", "at least 12"), (handed, "is the present one")):
            bad = browser.post("/api/v1/account:change-password", json={"current_password": handed, "new_password": new})
            assert bad.status_code == 422 and words in bad.json()["detail"]
        wrong = browser.post("/api/v1/account:change-password", json={"current_password": "x", "new_password": OWN})
        assert wrong.json()["errors"] == [{"pointer": "/current_password", "detail": "is not your password"}]
        done = browser.post("/api/v1/account:change-password", json={"current_password": handed, "new_password": OWN})
        assert done.status_code == 200, done.text
        assert browser.cookies["fleetward-session"] != before
        old = {"Cookie": f"fleetward-session={before}"}
        with site.client(None, headers=old) as elsewhere:
            assert elsewhere.get("/api/v1/whoami").status_code == 401
        browser.headers["X-CSRF-Token"] = done.json()["csrf_token"]
        assert browser.post("/api/v1/regions", json={"name": "north"}).status_code == 201
        assert browser.get("/api/v1/whoami").json() == {
            "type": "user",
            "name": "ann",
            "role": "operator",
            "csrf_token": done.json()["csrf_token"],
        }
    with site.client(None) as stranger:
        assert stranger.post("/login", json={"username": "ann", "password": handed}).status_code == 401
        assert stranger.post("/login", json={"username": "ann", "password": OWN}).status_code == 200


def test_a_role_holds_from_the_moment_it_is_given(site: Site, client: httpx.Client) -> None:
    """A session that is open has the new rights with its next request, and none at all when its user is gone."""
    with own_account(site, client, "ann", "operator") as browser:
        assert browser.post("/api/v1/regions", json={"name": "north"}).status_code == 201
        assert client.patch("/api/v1/users/ann", json={"role": "viewer"}).json()["role"] == "viewer"
        assert browser.post("/api/v1/regions", json={"name": "south"}).status_code == 403
        assert client.delete("/api/v1/users/ann").status_code == 204
        assert browser.get("/api/v1/whoami").status_code == 401
    assert client.get("/api/v1/users/ann").status_code == 404


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_administrators_let_people_in(site: Site, role: str) -> None:
    """Neither users nor tokens are shown to others, let alone made."""
    with site.client(role) as other:
        for path in ("/api/v1/users", "/api/v1/users/admin", "/api/v1/api-tokens", "/api/v1/api-tokens/admin"):
            assert other.get(path).status_code == 403
        assert other.post("/api/v1/users", json={"name": "mallory", "role": "admin"}).status_code == 403
        assert other.post("/api/v1/api-tokens", json={"name": "mallory", "role": "admin"}).status_code == 403
        assert other.patch("/api/v1/users/admin", json={"role": "viewer"}).status_code == 403
        assert other.post("/api/v1/users/admin:reset-password").status_code == 403
        assert other.get("/api/v1/sessions").status_code == 403


def test_the_last_administrator_stays(client: httpx.Client) -> None:
    """409 with what to do instead, also for a dry run."""
    for refused in (
        client.delete("/api/v1/users/admin"),
        client.delete("/api/v1/users/admin", params={"dry_run": "true"}),
        client.patch("/api/v1/users/admin", json={"role": "viewer"}),
        client.patch("/api/v1/users/admin", json={"disabled": True}),
    ):
        assert refused.status_code == 409
        assert "only administrator" in refused.json()["detail"]


def test_a_dry_run_writes_nothing_and_a_key_repeats_the_secret(client: httpx.Client) -> None:
    """What would be made is shown without a secret; the same request under the same key gets the same one, another body 422."""
    body = {"name": "ann", "role": "operator"}
    asked = client.post("/api/v1/users", json=body, params={"dry_run": "true"})
    assert (asked.status_code, asked.json()["name"]) == (200, "ann")
    assert "password" not in asked.json()
    assert client.get("/api/v1/users/ann").status_code == 404
    cases: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("/api/v1/users", "password", body),
        ("/api/v1/api-tokens", "token", {"name": "ci"}),
    )
    for path, member, given in cases:
        key = {"Idempotency-Key": f"{member}-1"}
        first, again = (client.post(path, json=given, headers=key) for _ in range(2))
        assert first.status_code == again.status_code == 201
        assert first.json() == again.json()
        assert first.json()[member]
        assert client.post(path, json={"name": "other"}, headers=key).status_code == 422
        assert client.post(path, json=given).status_code == 409
        assert client.get(f"{path}/{given['name']}").json().keys() == first.json().keys() - {member}


def test_a_token_is_shown_once_and_ends_at_once(site: Site, client: httpx.Client) -> None:
    """It reads and writes by its role, is listed with its last use but never again with its secret, and is nobody once revoked."""
    answer = client.post("/api/v1/api-tokens", json={"name": "ci", "role": "operator", "expires_at": None})
    token = answer.json()["token"]
    with site.client(token) as program:
        assert program.get("/api/v1/whoami").json() == {"type": "token", "name": "ci", "role": "operator"}
        assert program.post("/api/v1/regions", json={"name": "north"}).status_code == 201
        assert program.get("/api/v1/users").status_code == 403
        assert program.get("/api/v1/account").status_code == 403
        [listed] = [each for each in client.get("/api/v1/api-tokens").json()["items"] if each["name"] == "ci"]
        assert listed["last_used_at"] is not None
        assert token not in client.get("/api/v1/api-tokens").text
        assert client.delete("/api/v1/api-tokens/ci").status_code == 204
        assert program.get("/api/v1/whoami").status_code == 401
    changed = until(lambda: client.get("/api/v1/events", params={"kind": "region"}).json()["items"])
    assert changed[0]["actor"] == {"type": "token", "name": "ci", "address": "127.0.0.1"}


def paged(client: httpx.Client, query: dict[str, str]) -> list[str]:
    """The ids of all sessions, asked for one a page."""
    found, token = list[str](), ""
    while True:
        page = client.get("/api/v1/sessions", params=query | {"page_size": "1", "page_token": token}).json()
        assert len(page["items"]) <= 1
        found, token = found + [each["id"] for each in page["items"]], page["next_page_token"]
        if token is None:
            return found


def test_sessions_are_listed_and_ended(site: Site, client: httpx.Client) -> None:
    """Each with address, browser and last use; everybody ends their own and not another's; an administrator any."""
    with own_account(site, client, "ann") as desk, own_account(site, client, "bob") as other:
        desk.headers["User-Agent"] = "desk"
        with signed_in(site, "ann", OWN) as phone:
            mine = desk.get("/api/v1/sessions").json()["items"]
            assert {each["user"] for each in mine} == {"ann"}
            assert [each["current"] for each in mine].count(True) == 1
            assert {each["address"] for each in mine} == {"127.0.0.1"}
            assert all(each["agent"].startswith("python-httpx") and each["seen_at"] for each in mine)
            [theirs] = other.get("/api/v1/sessions").json()["items"]
            assert desk.delete(f"/api/v1/sessions/{theirs['id']}").status_code == 404
            [elsewhere] = [each for each in mine if not each["current"]]
            assert desk.delete(f"/api/v1/sessions/{elsewhere['id']}").status_code == 204
            assert phone.get("/api/v1/whoami").status_code == 401
        with signed_in(site, "ann", OWN) as phone:
            assert desk.post("/api/v1/account:end-other-sessions").json() == {"ended": 1}
            assert phone.get("/api/v1/whoami").status_code == 401
            assert desk.get("/api/v1/whoami").status_code == 200
        everybody = client.get("/api/v1/sessions").json()["items"]
        assert {each["user"] for each in everybody} == {"ann", "bob"}
        assert paged(client, {}) == [each["id"] for each in everybody] == sorted((each["id"] for each in everybody), reverse=True)
        assert paged(client, {"user": "ann"}) == [each["id"] for each in everybody if each["user"] == "ann"]
        assert paged(desk, {"user": "bob"}) == []
        assert len(client.get("/api/v1/sessions", params={"user": "bob"}).json()["items"]) == 1
        assert client.delete(f"/api/v1/sessions/{theirs['id']}").status_code == 204
        assert other.get("/api/v1/whoami").status_code == 401
        assert client.post("/api/v1/users/ann:sign-out").json() == {"ended": 1}
        assert desk.get("/api/v1/whoami").status_code == 401


def test_signing_in_ends_the_session_that_the_browser_had(site: Site) -> None:
    """A cookie that somebody planted before is worth nothing after (session fixation)."""
    with signed_in(site, "admin", PASSWORD) as browser:
        planted = browser.cookies["fleetward-session"]
        assert browser.post("/login", json={"username": "admin", "password": PASSWORD}).status_code == 200
        assert browser.cookies["fleetward-session"] != planted
    with site.client(None, cookies={"fleetward-session": planted}) as thief:
        assert thief.get("/api/v1/whoami").status_code == 401


@pytest.mark.parametrize("path", ["/api/v1/users/a%00b", "/api/v1/api-tokens/%00", "/api/v1/users/%F0%9F%A4%96", "/api/v1/users/%20"])
def test_nobody_is_called_that(client: httpx.Client, path: str) -> None:
    """What PostgreSQL can't hold, and what is nobody's name."""
    assert client.get(path).status_code == 404
    assert client.delete("/api/v1/sessions/%00").status_code == 404


def test_accounts_stay_out_of_published_events(site: Site, client: httpx.Client) -> None:
    """They are in no list of events and in no stream, though the log has them for the audit."""
    with own_account(site, client, "ann", "operator") as browser:
        browser.post("/api/v1/regions", json={"name": "after"})
        found = until(lambda: [each for each in client.get("/api/v1/events").json()["items"] if each["kind"] == "region"])
        assert found[0]["resource"]["name"] == "after"
        assert {each["kind"] for each in client.get("/api/v1/events").json()["items"]} == {"region"}
        assert client.get("/api/v1/events", params={"kind": "user"}).status_code == 400


@pytest.mark.usefixtures("long_waits")
def test_the_throttle_goes_by_the_socket(site: Site) -> None:
    """Whoever claims another address in a header with each attempt is slowed down all the same."""
    with site.client(None) as browser:
        statuses = []
        for number in range(8):
            forged = {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-IP": f"203.0.113.{number}", "Forwarded": f"for=203.0.113.{number}"}
            statuses.append(browser.post("/login", json={"username": f"user{number}", "password": "x"}, headers=forged).status_code)
    assert statuses == [401] * 5 + [429] * 3


def test_a_session_is_dead_within_five_seconds(web_url: str) -> None:
    """Its open stream too, with the settings as they are, long before the next heartbeat."""
    with running(web_url) as site, site.client() as client, signed_in(site, "admin", PASSWORD) as browser:
        with browser.stream("GET", "/api/v1/events/stream") as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": connected"
            [mine] = client.get("/api/v1/sessions").json()["items"]
            assert client.delete(f"/api/v1/sessions/{mine['id']}").status_code == 204
            watch = Stopwatch()
            rest = list(lines)
            assert watch.seconds() < 5
        assert not [line for line in rest if line.startswith("data")]


def test_a_stream_ends_where_the_rights_have_changed(web_url: str) -> None:
    """Its reader comes back and is asked anew what it may see; streams of others go on."""
    with (
        running(web_url, stream_recheck_s=0.1) as site,
        site.client() as client,
        own_account(site, client, "ann", "operator") as browser,
        browser.stream("GET", "/api/v1/events/stream") as theirs,
        client.stream("GET", "/api/v1/events/stream") as ours,
    ):
        lines, others = theirs.iter_lines(), ours.iter_lines()
        assert next(lines) == next(others) == ": connected"
        client.patch("/api/v1/users/ann", json={"role": "viewer"})
        assert not [line for line in lines if line.startswith("data")]
        client.post("/api/v1/regions", json={"name": "north"})
        assert next(line for line in others if line.startswith("data"))

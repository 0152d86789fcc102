"""What the audit tells of signing in: each way in, each refusal, who it was as far as that is known, and where it came from."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from inventory import second_factor
from tests.web.provider_under_test import Op, provider
from tests.web.site_under_test import PASSWORD, Site, running, until
from tests.web.test_account_api import enrolled
from tests.web.test_audit_api import entries
from tests.web.test_provider import Way
from tests.web.test_users_api import signed_in
from web.throttle import FREE_ADDRESS

RIGHT = {"username": "admin", "password": PASSWORD}
FORGED = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
"""What anybody can write into a header."""
Told = tuple[str, str, str | None, str, str | None]


def told(client: httpx.Client, count: int) -> list[Told]:
    """Of the last `count` entries, oldest first: kind, what was done, whose name, from where; how, or why not."""
    found = until(lambda: len(all := entries(client, kind=["session", "sign-in"])) == count and all)  # type: ignore[arg-type]
    assert isinstance(found, list)
    return [_told(each) for each in reversed(found)]


def _told(entry: Any) -> Told:
    said = entry["after"] or entry["before"]
    return entry["kind"], entry["op"], entry["actor"].get("name"), entry["actor"]["address"], said.get("how") or said.get("reason")


def test_passwords(site: Site) -> None:
    """Wrong, of nobody, right, and out again, with the socket's address; of what was typed nothing stands there."""
    with site.client(None, headers=FORGED) as browser, site.client() as client:
        assert browser.post("/login", json={"username": "admin", "password": "not-it-7391"}).status_code == 401
        assert browser.post("/login", json={"username": "hunter2-7391", "password": "x"}).status_code == 401
        token = browser.post("/login", json=RIGHT).json()["csrf_token"]
        cookie = browser.cookies["fleetward-session"]
        assert browser.post("/logout", headers={"X-CSRF-Token": token}).status_code == 204
        assert told(client, 4) == [
            ("sign-in", "refused", "admin", "127.0.0.1", "password"),
            ("sign-in", "refused", None, "127.0.0.1", "password"),
            ("session", "created", "admin", "127.0.0.1", "password"),
            ("session", "deleted", "admin", "127.0.0.1", None),
        ]
        whole = client.get("/api/v1/audit/export").text
    for secret in ("not-it-7391", "hunter2-7391", PASSWORD, token, cookie, "203.0.113.9"):
        assert secret not in whole


@pytest.mark.usefixtures("long_waits")
def test_whoever_comes_too_early_is_told_once_a_wait(site: Site) -> None:
    """The audit can't be flooded by guessing: of many attempts that had to wait, the first stands in it."""
    with site.client(None) as browser, site.client() as client:
        for number in range(FREE_ADDRESS):
            assert browser.post("/login", json={"username": "admin", "password": f"x{number}"}).status_code == 401
        assert {browser.post("/login", json=RIGHT).status_code for _ in range(20)} == {429}
        assert told(client, FREE_ADDRESS + 1) == [
            *[("sign-in", "refused", "admin", "127.0.0.1", "password")] * FREE_ADDRESS,
            ("sign-in", "refused", "admin", "127.0.0.1", "throttled"),
        ]


def test_a_second_factor_and_a_one_time_password(web_url: str, tmp_path: Path) -> None:
    """A wrong code, a right one, a recovery code; a password for one sign-in that came too late."""
    (tmp_path / "session.key").write_bytes(b"k" * 32)
    with running(web_url, secrets=tmp_path) as site, site.client() as client, site.client(None) as other:
        with signed_in(site, "admin", PASSWORD) as browser:
            secret, codes, step = enrolled(browser)
        for code, status in (("000000", 401), (second_factor.code_at(secret, step + 1), 200), (codes[0], 200)):
            assert other.post("/login", json={**RIGHT, "code": code}).status_code == status
        one_time = client.post("/api/v1/users", json={"name": "ann"}).json()["password"]
        asyncio.run(_execute(web_url, "UPDATE users SET password_expires_at = now() - interval '1 minute' WHERE name = 'ann'"))
        assert other.post("/login", json={"username": "ann", "password": one_time}).status_code == 403
        done = [
            ("created", "password"),
            ("refused", "code"),
            ("created", "code"),
            ("created", "recovery-code"),
            ("refused", "password ended"),
        ]
        # A session that another takes the place of in the same browser ends without a word.
        assert [(op, how) for _, op, _, _, how in told(client, 5)] == done
        assert told(client, 5)[-1][2] == "ann"


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


@pytest.fixture
def way(web_url: str) -> Iterator[Way]:
    with provider() as op, running(web_url, provider=op.settings()) as site:
        yield Way(site, op)


def _without_role(op: Op) -> None:
    op.claims["groups"] = ["others"]


def _nobody(op: Op) -> None:
    op.claims |= {"sub": "43", "preferred_username": "admin", "groups": ["fleet-admins"]}


def _liar(op: Op) -> None:
    op.claims |= {"sub": "44", "aud": "another-client"}


def test_an_identity_provider(way: Way) -> None:
    """In; out of favour; somebody with a name that is taken; one who is not to be believed, whose claims are nobody's."""
    outcomes = [way.outcome()]
    for change in (_without_role, _nobody, _liar):
        change(way.op)
        outcomes.append(way.outcome())
    assert outcomes == ["/hosts", "/login?error=no-role", "/login?error=no-role", "/login?error=provider"]
    with way.site.client() as client:
        assert told(client, 4) == [
            ("session", "created", "ann", "127.0.0.1", "provider"),
            ("sign-in", "refused", "ann", "127.0.0.1", "no-role"),
            ("sign-in", "refused", None, "127.0.0.1", "no-role"),
            ("sign-in", "refused", None, "127.0.0.1", "provider"),
        ]
        said = [each["after"] for each in reversed(entries(client, kind="sign-in"))]
    assert said == [
        {"user": "ann", "reason": "no-role", "issuer": way.op.issuer, "subject": "42"},
        {"user": None, "reason": "no-role", "issuer": way.op.issuer, "subject": "43"},
        {"user": None, "reason": "provider", "issuer": way.op.issuer},
    ]


@pytest.mark.usefixtures("long_waits")
def test_coming_back_with_nonsense_is_slowed_down(way: Way) -> None:
    """As guessing is: a stranger fills neither the audit nor the provider's day. Who was never sent away leaves nothing at all."""
    with way.browser() as stranger:
        for _ in range(20):
            assert stranger.get("/login/provider/callback?code=x&state=y").headers["Location"] == "/login?error=late"
    way.op.answer = {"state": "forged"}
    outcomes = [way.outcome() for _ in range(FREE_ADDRESS + 3)]
    assert outcomes == ["/login?error=provider"] * FREE_ADDRESS + ["/login?error=throttled"] * 3
    with way.site.client() as client:
        assert [why for *_, why in told(client, FREE_ADDRESS + 1)] == ["provider"] * FREE_ADDRESS + ["throttled"]

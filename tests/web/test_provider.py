"""Signing in by an identity provider: the whole way round with one on loopback, and every answer of it that is not to be believed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from joserfc.jwk import ECKey

from tests.web.provider_under_test import Op, provider
from tests.web.site_under_test import Site, running
from web.providers import Provider

PAGE = {"Accept": "text/html"}


@dataclass
class Way:
    """A site and the provider that it trusts."""

    site: Site
    op: Op

    def browser(self) -> httpx.Client:
        return self.site.client(None, headers=PAGE)

    def callback(self, browser: httpx.Client, wanted: str = "/hosts") -> str:
        """Sent away and let in there: where the browser is sent back to."""
        sent = browser.get("/login/provider", params={"next": wanted})
        assert sent.status_code == 303, sent.text
        assert sent.headers["Location"].startswith(self.op.issuer + "/authorization_endpoint?")
        with self.site.client(None) as elsewhere:
            return str(elsewhere.get(sent.headers["Location"]).headers["Location"])

    def outcome(self) -> str:
        """Where a browser ends up after the whole way."""
        with self.browser() as browser:
            location = str(browser.get(self.callback(browser)).headers["Location"])
            assert ("fleetward-session" in browser.cookies) == (location == "/hosts")
            return location


@pytest.fixture
def way(web_url: str) -> Iterator[Way]:
    with provider() as op, running(web_url, provider=op.settings()) as site:
        yield Way(site, op)


def test_the_whole_way_round(way: Way) -> None:
    """Away with state, nonce and PKCE, back with a code, in: a user of the name and role that the claims say, shown as the provider's."""
    with way.browser() as browser, way.site.client() as client:
        assert "single sign-on" in browser.get("/login").text
        back = browser.get(way.callback(browser))
        assert (back.status_code, back.headers["Location"]) == (303, "/hosts")
        assert not way.op.refused
        asked = browser.get("/api/v1/whoami").json()
        assert (asked["name"], asked["role"]) == ("ann", "operator")
        user = client.get("/api/v1/users/ann").json()
        assert (user["source"], user["title"], user["second_factor"]) == (way.op.issuer, "Ann Example", False)
        changing = {"current_password": "x" * 12, "new_password": "another long password"}
        refused = browser.post("/api/v1/account:change-password", json=changing, headers={"X-CSRF-Token": asked["csrf_token"]})
        assert refused.status_code == 422
    with way.site.client(None) as stranger:
        assert stranger.post("/login", json={"username": "ann", "password": "x"}).status_code == 401


def test_the_role_follows_the_claim_at_each_sign_in(way: Way) -> None:
    """Up, down, and out; who has no role there is let in no more."""
    with way.site.client() as client:
        for groups, role in ((["ops", "fleet-admins"], "admin"), ("ops", "operator")):
            way.op.claims["groups"] = groups
            assert way.outcome() == "/hosts"
            assert client.get("/api/v1/users/ann").json()["role"] == role
        for none in (["others"], None, [], {"ops": True}):
            way.op.claims["groups"] = none
            assert way.outcome() == "/login?error=no-role"
        way.op.claims["groups"] = ["ops"]
        client.patch("/api/v1/users/ann", json={"disabled": True})
        assert way.outcome() == "/login?error=no-role"


def test_nobody_becomes_a_user_with_a_password_of_that_name(way: Way) -> None:
    """Whoever may choose a name at the provider does not choose `admin` here."""
    way.op.claims |= {"preferred_username": "admin", "groups": ["fleet-admins"]}
    assert way.outcome() == "/login?error=no-role"
    way.op.claims["preferred_username"] = "../../etc"
    assert way.outcome() == "/login?error=no-role"


LIES: dict[str, dict[str, Any]] = {
    "nonce": {"nonce": "another"},
    "audience": {"aud": "another-client"},
    "party": {"aud": ["fleetward", "another"], "azp": "another"},
    "issuer": {"iss": "https://evil.example"},
    "expired": {"exp": 1_000_000_000},
    "nobody": {"sub": None},
    "time": {"iat": "yesterday"},
}


@pytest.mark.parametrize("lie", LIES)
def test_an_id_token_that_lies_is_not_believed(way: Way, lie: str) -> None:
    """Each claim that has to be checked (OpenID Connect Core section 3.1.3.7)."""
    way.op.claims |= LIES[lie]
    assert way.outcome() == "/login?error=provider"


def test_a_signature_of_somebody_else_is_not_believed(way: Way) -> None:
    """Nor none at all; once the provider publishes the new key it is, without a restart."""
    way.op.unsigned = True
    assert way.outcome() == "/login?error=provider"
    way.op.unsigned = False
    assert way.outcome() == "/hosts"
    way.op.sign_with = ECKey.generate_key("P-256", {"kid": "1", "alg": "ES256"})
    assert way.outcome() == "/login?error=provider"
    way.op.key, way.op.sign_with = way.op.sign_with, None
    assert way.outcome() == "/hosts"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "another"}, "provider"),
        ({"state": ""}, "provider"),
        ({"code": "another"}, "provider"),
        ({"iss": "https://evil.example"}, "provider"),
        ({"error": "access_denied"}, "provider"),
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused(way: Way, changes: dict[str, str], why: str) -> None:
    """A forged state (another's sign-in slipped in), a code of elsewhere, another provider's answer (mix-up), a refusal."""
    way.op.answer = changes
    assert way.outcome() == f"/login?error={why}"


def test_an_answer_is_for_the_browser_that_asked_and_once(way: Way) -> None:
    """Overheard, it is worth nothing elsewhere; used, nothing anywhere."""
    with way.browser() as victim, way.browser() as thief:
        callback = way.callback(victim)
        assert thief.get(callback).headers["Location"] == "/login?error=late"
        way.callback(thief)
        assert thief.get(callback).headers["Location"] == "/login?error=provider"
        cookie = victim.cookies["fleetward-sign-in"]
        assert victim.get(callback).headers["Location"] == "/hosts"
        again = victim.get(callback, headers={"Cookie": f"fleetward-sign-in={cookie}"})
        assert again.headers["Location"] == "/login?error=provider"
        forged = victim.get(callback, headers={"Cookie": f"fleetward-sign-in={cookie[:-8]}AAAAAAA="})
        assert forged.headers["Location"] == "/login?error=late"
        assert way.callback(victim, "//evil.example/") and victim.get(way.callback(victim, "//evil.example/")).headers["Location"] == "/"


def test_a_provider_that_is_away_or_another_one_says_so(web_url: str) -> None:
    """The form again, with words; passwords work as ever. Without a provider there is no such way in."""
    with provider() as op:
        gone = op.settings()
    with running(web_url, provider=gone) as site, site.client(None, headers=PAGE) as browser:
        assert browser.get("/login/provider").headers["Location"] == "/login?error=away"
        assert "does not answer" in browser.get("/login?error=away").text
    with running(web_url) as site, site.client(None) as browser:
        assert browser.get("/login/provider").status_code == 404
        assert browser.get("/login/provider/callback?code=x").status_code == 404


@pytest.mark.parametrize("where", ["issuer", "token_endpoint", "jwks_uri"])
def test_a_provider_leads_the_server_to_no_private_address(web_url: str, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by where it stands nor by what it says of itself; the log says what to do."""
    with provider() as op:
        settings = op.settings(**({"networks": ()} if where == "issuer" else {}))
        if where != "issuer":
            op.described = {where: f"http://127.0.0.2:{urlsplit(op.issuer).port}/{where}"}
        with running(web_url, provider=settings) as site:
            way = Way(site, op)
            with way.browser() as browser:
                asked = "/login/provider" if where == "issuer" else way.callback(browser)
                assert browser.get(asked).headers["Location"] == "/login?error=away"
    reasons = [str(vars(record).get("reason")) for record in caplog.records]
    assert any("is not a public address: allow its network by FLEETWARD_OIDC_NETWORKS" in reason for reason in reasons), reasons


def test_a_provider_that_would_have_secrets_sent_in_the_clear_is_not_used(way: Way) -> None:
    """What it says of itself has to be https, as where it is said."""
    way.op.described = {"token_endpoint": "http://id.example/token"}
    with way.browser() as browser:
        assert browser.get("/login/provider").headers["Location"] == "/login?error=away"


def _environment(**given: str) -> dict[str, str]:
    usual = {"issuer": "https://id.example", "client_id": "c", "client_secret": "s", "roles": "fleet-admins=admin, cn=ops,dc=x=viewer"}
    return {f"FLEETWARD_OIDC_{name.upper()}": value for name, value in (usual | given).items() if value}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"issuer": "http://id.example"}, "FLEETWARD_OIDC_ISSUER: must be an https"),
        ({"client_secret": ""}, "FLEETWARD_OIDC_CLIENT_SECRET is missing"),
        ({"roles": "ops=root"}, "FLEETWARD_OIDC_ROLES: must be VALUE=ROLE"),
        ({"roles": "ops"}, "FLEETWARD_OIDC_ROLES: must be VALUE=ROLE"),
        ({"first_scope": "presence = online"}, "FLEETWARD_OIDC_FIRST_SCOPE: must be a filter of hosts: presence"),
        ({"networks": "10.1.2.3/24"}, "FLEETWARD_OIDC_NETWORKS: must be addresses or networks .* host bits"),
        ({"issuer": "https://10.1.2.3"}, "FLEETWARD_OIDC_ISSUER: 10.1.2.3 is not a public address"),
        ({"issuer": "http://localhost:8080", "networks": "10.0.0.0/8"}, "FLEETWARD_OIDC_ISSUER: 127.0.0.1 is not a public address"),
    ],
)
def test_wrong_settings_name_the_variable(given: dict[str, str], words: str) -> None:
    """At the start, not at the first sign-in."""
    with pytest.raises(ValueError, match=words):
        Provider.read(_environment(**(given | ({} if "roles" in given else {"roles": "ops=viewer"}))))


def test_the_mapping_of_roles() -> None:
    """The highest that applies; a claim inside another; a star for everybody; nothing set is no provider."""
    assert Provider.read({}) is None
    found = Provider.read(_environment(roles="ops=operator, boss = admin, *=viewer", role_claim="realm_access.roles"))
    assert found is not None
    assert found.role_of({"realm_access": {"roles": ["ops", "boss"]}}) == "admin"
    assert found.role_of({"realm_access": {"roles": ["ops"]}}) == "operator"
    assert found.role_of({}) == "viewer"


def test_who_comes_for_the_first_time_gets_the_first_scope() -> None:
    """But for administrators, who with one would administer nothing."""
    found = Provider.read(_environment(roles="boss=admin, *=viewer", first_scope="labels.line = 4"))
    assert found is not None
    claims = {"sub": "42", "preferred_username": "ann"}
    assert [found.known(claims | {"groups": group}).scope for group in ("ops", "boss")] == ["labels.line = 4", ""]


def test_a_private_provider_is_allowed_by_name_of_its_network() -> None:
    """By address or network, beside the internet."""
    for issuer, allowed in (("https://10.1.2.3", "10.1.2.0/24, fd00::/8"), ("http://localhost:8080", "127.0.0.1")):
        found = Provider.read(_environment(issuer=issuer, networks=allowed, roles="ops=viewer"))
        assert found is not None and found.networks

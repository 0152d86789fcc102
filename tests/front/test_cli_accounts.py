"""`fleetward user`, `session` and `api-token`, against a server that runs."""

import json

import httpx

from tests.front.conftest import Api, Fleet
from tests.front.test_cli import ok


def test_a_user_from_first_to_last(fleet: Fleet, api: Api) -> None:
    """Made with a password alone on standard output, changed, signed out, reset, deleted; each mistake has its exit code."""
    made = fleet("user", "create", "ann", "--role", "operator", "--title", "Ann Example")
    password = ok(made).strip()
    assert len(password.split()) == 1 and password not in made.stderr
    form = {"username": "ann", "password": password}
    assert httpx.post(f"{api.url}/login", json=form, trust_env=False, timeout=60).status_code == 200
    [mine] = json.loads(ok(fleet("session", "list", "--user", "ann", "-o", "json")))["items"]
    assert mine["address"] == "127.0.0.1"
    assert ok(fleet("session", "end", mine["id"])) == f"session/{mine['id']} ended\n"
    assert fleet("session", "end", mine["id"]).exit_code == 3
    assert ok(fleet("user", "role", "ann", "viewer")) == "user/ann is viewer now\n"
    assert ok(fleet("user", "scope", "ann", "labels.line = nowhere")) == "user/ann holds for labels.line = nowhere now\n"
    assert ok(fleet("user", "scope", "ann", "")) == "user/ann holds for all hosts now\n"
    assert "changes by itself" in fleet("user", "scope", "ann", "presence = online").stderr
    assert ok(fleet("user", "disable", "ann")) == "user/ann disabled\n"
    assert ok(fleet("user", "enable", "ann")) == "user/ann enabled\n"
    assert ok(fleet("user", "sign-out", "ann")) == "user/ann signed out of 0 sessions\n"
    assert ok(fleet("user", "reset-second-factor", "ann")) == "user/ann has no second factor now\n"
    assert ok(fleet("user", "reset-password", "ann")).strip() != password
    head, *rows = ok(fleet("user", "list")).splitlines()
    assert head.split()[:3] == ["NAME", "ROLE", "SCOPE"]
    assert {row.split()[0] for row in rows} == {"admin", "ann"}
    assert fleet("user", "create", "ann").exit_code == 4
    assert fleet("user", "role", "admin", "viewer").exit_code == 4
    assert ok(fleet("user", "delete", "ann")) == "user/ann deleted\n"
    assert fleet("user", "delete", "ann").exit_code == 3


def test_an_api_token_from_first_to_last(fleet: Fleet) -> None:
    """The token alone on standard output, good for its role, listed without it, revoked at once; `token` stays the devices'."""
    made = fleet("api-token", "create", "ci", "--role", "operator", "--ttl", "30d")
    token = ok(made).strip()
    assert token not in made.stderr
    ok(fleet("create", "region", "by-token", "--token", token))
    listed = ok(fleet("api-token", "list", "-o", "json"))
    assert token not in listed
    assert {each["name"] for each in json.loads(listed)["items"]} >= {"ci"}
    assert "never" not in ok(fleet("api-token", "create", "endless", "--forever"))
    narrow = fleet("api-token", "create", "narrow", "--scope", "labels.line = nowhere")
    assert "to hosts that match labels.line = nowhere" in narrow.stderr
    assert json.loads(ok(fleet("get", "hosts", "-o", "json", "--token", ok(narrow).strip())))["items"] == []
    assert fleet("api-token", "create", "both", "--forever", "--ttl", "1d").exit_code == 2
    assert fleet("api-token", "create", "late", "--ttl", "0s").exit_code == 2
    assert ok(fleet("api-token", "revoke", "ci")) == "api-token/ci revoked\n"
    assert fleet("get", "regions", "--token", token).exit_code == 2
    assert ok(fleet("api-token", "revoke", "endless"))

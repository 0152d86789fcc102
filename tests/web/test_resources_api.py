"""The resource routes as a client sees them, over a real socket and a real database."""

from typing import Any

import httpx
import pytest

from tests.web.site_under_test import Site, until


def made(client: httpx.Client, collection: str, **body: Any) -> dict[str, Any]:
    """A resource that was just created."""
    answer = client.post(f"/api/v1/{collection}", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_resource_is_created_read_changed_and_deleted(client: httpx.Client) -> None:
    """The life of a region: 201 with its place and ETag, found by id and by name, patched, gone with 204, then 404."""
    answer = client.post("/api/v1/regions", json={"name": "north", "title": "North", "labels": {"a": "1"}})
    region = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1/regions/{region['id']}"
    assert answer.headers["ETag"] == f'"{region["version"]}"'
    assert client.get("/api/v1/regions/north").json() == client.get(f"/api/v1/regions/{region['id']}").json() == region
    changed = client.patch("/api/v1/regions/north", json={"labels": {"a": None, "b": "2"}})
    assert changed.status_code == 200
    assert changed.json()["labels"] == {"b": "2"}
    assert changed.json()["version"] > region["version"]
    assert client.delete("/api/v1/regions/north").status_code == 204
    gone = client.get("/api/v1/regions/north")
    assert (gone.status_code, gone.headers["Content-Type"]) == (404, "application/problem+json")


def test_a_list_pages_selects_and_counts(client: httpx.Client) -> None:
    """Pages hang together by their tokens, `fields` selects members, `count` gives the total, and each page has its position."""
    for number in range(5):
        made(client, "sites", name=f"site-{number}", labels={"n": str(number)})
    seen, token = [], ""
    while True:
        page = client.get(
            "/api/v1/sites", params={"page_size": 2, "order_by": "name desc", "fields": "name,labels", "count": "true", "page_token": token}
        ).json()
        assert page["total"] == 5
        assert page["position"] >= 0
        seen += page["items"]
        token = page["next_page_token"]
        if token is None:
            break
    assert seen == [{"name": f"site-{n}", "labels": {"n": str(n)}} for n in (4, 3, 2, 1, 0)]
    kinds = client.get("/api/v1/sites", params={"fields": "kind", "page_size": 1}).json()["items"]
    assert kinds == [{"kind": "site"}]
    only = client.get("/api/v1/sites", params={"filter": 'labels.n = "3" OR name = "site-4"', "order_by": "name"}).json()["items"]
    assert [item["name"] for item in only] == ["site-3", "site-4"]


@pytest.mark.parametrize("form", ['"{}"', "{}"])
def test_if_match_lets_one_of_two_writers_win(client: httpx.Client, form: str) -> None:
    """The one who read an older version gets 412 and changes nothing; `*` asks for no version."""
    region = made(client, "regions", name="north")
    stale = {"If-Match": form.format(region["version"])}
    assert client.patch("/api/v1/regions/north", json={"title": "first"}, headers=stale).status_code == 200
    lost = client.patch("/api/v1/regions/north", json={"title": "second"}, headers=stale)
    assert lost.status_code == 412
    assert client.delete("/api/v1/regions/north", headers=stale).status_code == 412
    assert client.get("/api/v1/regions/north").json()["title"] == "first"
    assert client.patch("/api/v1/regions/north", json={"title": "third"}, headers={"If-Match": "*"}).status_code == 200


def test_null_takes_a_desired_state_back_to_the_first(client: httpx.Client) -> None:
    """A host always wants some state: RFC 7396's null means what it was before anybody said anything."""
    made(client, "hosts", name="press", desired_state="onboarded")
    assert client.patch("/api/v1/hosts/press", json={"desired_state": None}).json()["desired_state"] == "registered"


def test_a_taken_host_name_gets_a_number_however_long_it_is(client: httpx.Client) -> None:
    """Also where the name has no room for one; deleting and moving on leaves nobody without a name."""
    for name in ("press", "p" * 253):
        given = [made(client, "hosts", name=name)["name"] for _ in range(3)]
        assert given == [name, f"{name[:245]}-2", f"{name[:245]}-3"]


def test_dry_run_answers_and_writes_nothing(client: httpx.Client) -> None:
    """Create, patch, delete and retry each say what would be, and leave everything as it is."""
    made(client, "configs", name="motd", selector="", files=[])
    before = client.get("/api/v1/configs", params={"count": "true"}).json()
    dry = {"dry_run": "true"}
    created = client.post("/api/v1/configs", params=dry, json={"name": "other", "selector": ""})
    assert (created.status_code, created.json()["name"]) == (200, "other")
    assert client.patch("/api/v1/configs/motd", params=dry, json={"priority": 7}).json()["priority"] == 7
    assert client.post("/api/v1/configs/motd:retry", params=dry).status_code == 200
    assert client.delete("/api/v1/configs/motd", params=dry).status_code in (202, 204)
    refused = client.post("/api/v1/configs", params=dry, json={"name": "motd", "selector": ""})
    assert refused.status_code == 409
    after = client.get("/api/v1/configs", params={"count": "true"}).json()
    assert after["items"] == before["items"]


def test_deleting_what_is_used_names_the_users(client: httpx.Client) -> None:
    """A region with a site answers 409 and the site's name."""
    made(client, "regions", name="north")
    made(client, "sites", name="plant", region="north")
    refused = client.delete("/api/v1/regions/north")
    assert refused.status_code == 409
    assert "plant" in refused.json()["detail"]


def test_a_mixed_resource_is_deleted_in_two_phases(client: httpx.Client) -> None:
    """A host answers 202 with `deleted_at` until its manager has confirmed; `force` answers 204 at once."""
    host = made(client, "hosts", name="press")
    waiting = client.delete("/api/v1/hosts/press")
    assert waiting.status_code == 202
    assert waiting.json()["deleted_at"] is not None
    assert waiting.json()["desired_state"] == "deleted"
    assert client.delete(f"/api/v1/hosts/{host['id']}", params={"force": "true"}).status_code == 204
    assert client.get(f"/api/v1/hosts/{host['id']}").status_code == 404


def test_an_enrollment_token_is_shown_once(client: httpx.Client) -> None:
    """The answer to its creation has the secret, of at least 128 bits; nothing later has it or its hash."""
    answer = made(client, "enrollment-tokens", name="line-4", uses=3, approve=True)
    assert len(answer["token"]) >= 22
    shown = client.get("/api/v1/enrollment-tokens/line-4").json()
    assert "token" not in shown
    assert "token_hash" not in shown
    assert shown["uses"] == 3
    assert made(client, "enrollment-tokens", name="line-5")["token"] != answer["token"]


def test_the_history_of_a_resource_is_there_also_after_it_is_gone(client: httpx.Client) -> None:
    """Newest first, with actor, paths and old values; by its id also once it is deleted; in pages."""
    region = made(client, "regions", name="north")
    client.patch("/api/v1/regions/north", json={"title": "North"})
    client.delete("/api/v1/regions/north")

    def three() -> list[dict[str, Any]]:
        answer = client.get(f"/api/v1/regions/{region['id']}/changes")
        return answer.json()["items"] if answer.status_code == 200 and len(answer.json()["items"]) == 3 else []

    items = until(three)
    assert [item["op"] for item in items] == ["deleted", "updated", "created"]
    assert items[1]["changed"] == ["title"]
    assert items[1]["before"] == {"title": ""}
    assert items[1]["actor"] == {"type": "token", "name": "admin", "address": "127.0.0.1"}
    first = client.get(f"/api/v1/regions/{region['id']}/changes", params={"limit": 2}).json()
    rest = client.get(f"/api/v1/regions/{region['id']}/changes", params={"limit": 2, "before": first["next"]}).json()
    assert first["items"] + rest["items"] == items
    assert rest["next"] is None
    assert client.get("/api/v1/regions/reg-00000000000000000000000000/changes").status_code == 404


def test_a_new_kind_needs_no_route_of_its_own(client: httpx.Client) -> None:
    """Each kind that `/kinds` tells of has its list, and says how it is shown."""
    kinds = client.get("/api/v1/kinds").json()["items"]
    assert {"region", "site", "host", "component", "config", "host-config", "command"} <= {kind["kind"] for kind in kinds}
    for kind in kinds:
        assert client.get(f"/api/v1/{kind['collection']}").status_code == 200
        names = {field["name"] for field in kind["fields"]}
        assert {column.split(".")[0] for column in kind["columns"] + kind["wide_columns"]} <= names


def test_viewers_read_operators_write_and_strangers_get_nothing(site: Site) -> None:
    """401 without a token or with a wrong one, 403 where the role does not suffice."""
    with site.client("viewer") as viewer, site.client("operator") as operator, site.client(None) as stranger, site.client("wrong") as wrong:
        assert viewer.get("/api/v1/regions").status_code == 200
        assert viewer.post("/api/v1/regions", json={"name": "north"}).status_code == 403
        assert operator.post("/api/v1/regions", json={"name": "north"}).status_code == 201
        assert viewer.delete("/api/v1/regions/north").status_code == 403
        for nobody in (stranger, wrong):
            refused = nobody.get("/api/v1/regions")
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "command", ["systemctl reload motd", "true", '"quoted"', "5", {"command": ["run-parts", "/etc/x"], "timeout_s": 5}]
)
def test_a_command_is_kept_as_it_was_written(client: httpx.Client, command: Any) -> None:
    """Text that happens to be JSON stays text, on the way in, out, and through a change."""
    config = made(client, "configs", name="motd", selector="", on_change=command)
    assert config["on_change"] == client.get("/api/v1/configs/motd").json()["on_change"]
    again = client.patch("/api/v1/configs/motd", json={"on_change": command, "priority": 3}).json()
    assert again["on_change"] == config["on_change"]
    assert again["on_change"] == command

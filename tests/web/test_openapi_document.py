"""The OpenAPI document: valid, complete against the routes that there are, and true of what the API really answers."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from inventory.kinds import KINDS
from tests.web.site_under_test import Site
from web.app import create_app
from web.openapi import document
from web.schemas import type_name
from web.settings import Settings

METHODS = {"get", "post", "patch", "delete", "put"}


def test_it_is_valid_openapi() -> None:
    """By the specification's own schema."""
    assert list(OpenAPIV31SpecValidator(document()).iter_errors()) == []


def test_operation_ids_are_unique() -> None:
    """Generated clients name their functions by them."""
    ids = [operation["operationId"] for item in document()["paths"].values() for method, operation in item.items() if method in METHODS]
    assert len(ids) == len(set(ids)) > 60


def _routes() -> set[tuple[str, str]]:
    found = set()
    for rule in create_app(Settings(database="postgresql:///unused")).url_map.iter_rules():
        if not rule.rule.startswith("/api/") and rule.endpoint.split(".")[0] not in ("operations", "signin"):
            continue
        path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
        found |= {(path, method.lower()) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return found


def test_it_has_every_route_and_no_other() -> None:
    """Verbs are spelt out; all else is one to one."""
    described = {(path, method) for path, item in document()["paths"].items() for method in item if method in METHODS}
    verbs = {(f"/api/v1/{kind.collection}/{{ref}}:{verb}", "post") for kind in KINDS for verb in kind.verbs}
    assert verbs <= described
    assert described - verbs == {(path, method) for path, method in _routes() if "{verb}" not in path}


def _validator(name: str) -> Any:
    spec = document()
    registry: Any = Registry().with_resource("urn:fleetward:api", Resource.from_contents(spec, default_specification=DRAFT202012))
    return Draft202012Validator({"$ref": f"urn:fleetward:api#/components/schemas/{name}"}, registry=registry)


def test_what_the_api_answers_fits_its_schemas(client: httpx.Client) -> None:
    """Created resources, lists, problems, kinds, changes and the one who asks."""
    bodies: dict[str, dict[str, Any]] = {
        "region": {"name": "north"},
        "site": {"name": "plant", "region": "north", "latitude": 52.5, "longitude": 13.4},
        "host": {"name": "press", "site": "plant", "labels": {"line": "4"}},
        "config": {"name": "motd", "selector": "", "files": [{"path": "/etc/motd", "content": "hi"}], "on_change": "systemctl reload x"},
        "enrollment-token": {"name": "line-4"},
    }
    for kind in KINDS:
        name, at = type_name(kind), f"/api/v1/{kind.collection}"
        if kind.name in bodies:
            assert _errors(f"{name}Create", bodies[kind.name]) == []
            made = client.post(at, json=bodies[kind.name])
            assert made.status_code == 201, made.text
            assert _errors(f"{name}Issued" if kind.name == "enrollment-token" else name, made.json()) == []
            assert _errors(name, client.get(f"{at}/{made.json()['id']}").json()) == []
        assert _errors(f"{name}Page", client.get(at, params={"count": "true"}).json()) == []
    assert _errors("Problem", client.get("/api/v1/hosts/nobody").json()) == []
    assert _errors("Problem", client.get("/api/v1/hosts", params={"filter": "name ="}).json()) == []
    assert _errors("ChangePage", client.get("/api/v1/events").json()) == []
    assert _errors("KindPage", client.get("/api/v1/kinds").json()) == []
    assert _errors("Identity", client.get("/api/v1/whoami").json()) == []
    assert _errors("CertificatePage", client.get("/api/v1/certificates").json()) == []
    assert client.post("/api/v1/users", json={"name": "ann"}).status_code == 201
    tried = client.post("/api/v1/users/ann:reset-password", params={"dry_run": "true"}).json()
    assert _errors("User", tried) == [] and "password" not in tried
    assert {"$ref": "#/components/schemas/User"} in _schema("/api/v1/users/{ref}:reset-password", "200")["anyOf"]


def _schema(path: str, status: str) -> Any:
    return document()["paths"][path]["post"]["responses"][status]["content"]["application/json"]["schema"]


def test_whoever_has_no_session_may_sign_out(site: Site) -> None:
    """As the document says."""
    assert document()["paths"]["/logout"]["post"]["security"] == []
    with site.client(None) as stranger:
        assert stranger.post("/logout").status_code == 204


def _errors(name: str, value: Any) -> list[str]:
    return [f"{name}{error.json_path}: {error.message}" for error in _validator(name).iter_errors(value)]


def test_it_is_served_to_everybody(client: httpx.Client) -> None:
    """The document over HTTP is the one that was generated."""
    del client.headers["Authorization"]
    answer = client.get("/api/v1/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == document()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_docs_name_each_collection(kind: Any) -> None:
    """docs/api.md has a row for every kind."""
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    assert f"| `{kind.name}` | `/api/v1/{kind.collection}` |" in text

"""A hundred requests that are wrong: each gets the contract's error, naming the field, parameter or column, and nothing is written."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.web.site_under_test import Site, running

R = "/api/v1/regions"
S = "/api/v1/sites"
H = "/api/v1/hosts"
C = "/api/v1/configs"
E = "/api/v1/enrollment-tokens"
BIG = "x" * (1024 * 1024)


@dataclass(frozen=True)
class Wrong:
    """A request and what it must get. where: a pointer that `errors` must name, and at `column` in the filter. recorded: rows of the audit
    alone that it leaves."""

    method: str
    path: str
    status: int
    where: str | None = None
    json: Any = None
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    column: int | None = None
    role: str | None = "admin"
    recorded: int = 0


def bad_filter(text: str, column: int, collection: str = H) -> Wrong:
    return Wrong("GET", f"{collection}?filter={quote(text)}", 400, "filter", column=column)


JSON = {"Content-Type": "application/json"}

TABLE: dict[str, Wrong] = {
    # Places and methods.
    "no such path": Wrong("GET", "/api/v1/nothing", 404),
    "no such root path": Wrong("GET", "/nothing", 404),
    "a trailing slash": Wrong("GET", f"{R}/", 404),
    "a doubled slash": Wrong("GET", "/api/v1//regions", 404),
    "PUT is not taken": Wrong("PUT", f"{R}/north", 405, json={}),
    "DELETE of a collection": Wrong("DELETE", R, 405),
    "POST to a resource": Wrong("POST", f"{R}/north", 405, json={}),
    "no such verb": Wrong("POST", f"{C}/motd:explode", 404, json={}),
    "a verb that this kind lacks": Wrong("POST", f"{R}/north:retry", 404, json={}),
    "GET of a verb": Wrong("GET", f"{C}/motd:retry", 404),
    "a method that there is not": Wrong("BREW", R, 405),
    # References.
    "no such name": Wrong("GET", f"{R}/south", 404),
    "no such id": Wrong("GET", f"{R}/reg-01kb2v8m2c6x1s9q4k7w0t5b8n", 404),
    "an upper-case name": Wrong("GET", f"{R}/North", 404),
    "a NUL in the name": Wrong("GET", f"{R}/no%00rth", 404),
    "a name that is not UTF-8": Wrong("GET", f"{R}/%ff%fe", 404),
    "a very long name": Wrong("GET", f"{R}/{'n' * 5000}", 404),
    "a path that climbs": Wrong("GET", f"{R}/..%2f..%2fetc", 404),
    "a user's name that is too long": Wrong("GET", f"/api/v1/users/{'n' * 254}", 404),
    "a user's name longer than an id": Wrong("PATCH", f"/api/v1/users/{'n' * 65}", 404, json={"title": "x"}),
    "an API token's name that is too long": Wrong("DELETE", f"/api/v1/api-tokens/{'n' * 5000}", 404),
    "a NUL in an integration's name": Wrong("DELETE", "/api/v1/integrations/no%00ne", 404),
    "a NUL in a certificate's serial": Wrong("POST", "/api/v1/certificates/%00:revoke", 404),
    "PATCH of nothing": Wrong("PATCH", f"{R}/south", 404, json={"title": "x"}),
    "DELETE of nothing": Wrong("DELETE", f"{R}/south", 404),
    "explain of nothing": Wrong("GET", f"{H}/nobody/explain", 404),
    "changes of nothing": Wrong("GET", f"{H}/nobody/changes", 404),
    "retry of nothing": Wrong("POST", f"{C}/nothing:retry", 404),
    # Query parameters.
    "an unknown parameter": Wrong("GET", f"{R}?colour=red", 400, "colour"),
    "a misspelt parameter": Wrong("GET", f"{R}?page-size=5", 400, "page-size"),
    "an unknown parameter on one resource": Wrong("GET", f"{R}/north?filter=x", 400, "filter"),
    "an unknown parameter on POST": Wrong("POST", f"{R}?force=true", 400, "force", json={"name": "a"}),
    "an unknown parameter on whoami": Wrong("GET", "/api/v1/whoami?x=1", 400, "x"),
    "page_size of none": Wrong("GET", f"{R}?page_size=0", 400, "page_size"),
    "page_size too large": Wrong("GET", f"{R}?page_size=1001", 400, "page_size"),
    "page_size negative": Wrong("GET", f"{R}?page_size=-1", 400, "page_size"),
    "page_size no number": Wrong("GET", f"{R}?page_size=ten", 400, "page_size"),
    "page_size enormous": Wrong("GET", f"{R}?page_size={'9' * 400}", 400, "page_size"),
    "page_size twice": Wrong("GET", f"{R}?page_size=1&page_size=2", 400, "page_size"),
    "page_size in other digits": Wrong("GET", f"{R}?page_size=%D9%A3", 400, "page_size"),
    "page_token of nobody": Wrong("GET", f"{R}?page_token=abc", 400, "page_token"),
    "page_token of noise": Wrong("GET", f"{R}?page_token=%F0%9F%92%A9", 400, "page_token"),
    "count is neither": Wrong("GET", f"{R}?count=yes", 400, "count"),
    "fields unknown": Wrong("GET", f"{R}?fields=name,colour", 400, "fields"),
    "fields hidden": Wrong("GET", f"{E}?fields=token_hash", 400, "fields"),
    "fields empty": Wrong("GET", f"{R}?fields=,", 400, "fields"),
    "order_by unknown": Wrong("GET", f"{R}?order_by=colour", 400, "order_by"),
    "order_by nonsense": Wrong("GET", f"{R}?order_by=name%20sideways", 400, "order_by"),
    "dry_run is neither": Wrong("POST", f"{R}?dry_run=1", 400, "dry_run", json={"name": "a"}),
    "force is neither": Wrong("DELETE", f"{R}/north?force=1", 400, "force"),
    "a query that is not UTF-8": Wrong("GET", f"{R}?filter=%ff", 400, "?"),
    "a query with a NUL": Wrong("GET", f"{R}?filter=%00", 400, "?"),
    "a query too long": Wrong("GET", f"{R}?filter={'x' * 9000}", 400, "?"),
    "limit too large": Wrong("GET", "/api/v1/events?limit=1001", 400, "limit"),
    "after negative": Wrong("GET", "/api/v1/events?after=-1", 400, "after"),
    "after no number": Wrong("GET", "/api/v1/events/stream?after=now", 400, "after"),
    "after beyond 64 bits": Wrong("GET", f"/api/v1/events?after={2**64}", 400, "after"),
    "after ahead of the log": Wrong("GET", "/api/v1/events?after=999999999", 410),
    "a stream ahead of the log": Wrong("GET", "/api/v1/events/stream?after=999999999", 410),
    "events of no kind": Wrong("GET", "/api/v1/events?kind=dragon", 400, "kind"),
    "events of what is not published": Wrong("GET", "/api/v1/events/stream?kind=enrollment-token", 400, "kind"),
    "Last-Event-ID no number": Wrong("GET", "/api/v1/events/stream", 400, "Last-Event-ID", headers={"Last-Event-ID": "abc"}),
    # Filters, with the column.
    "filter stops short": bad_filter("name =", 7),
    "filter with a stray parenthesis": bad_filter("(name = press", 14),
    "filter on an unknown field": bad_filter("colour = red", 1),
    "filter on an unknown field further on": bad_filter('name = "a" AND colour = "red"', 16),
    "filter with a wrong operator": bad_filter("name == press", 7),
    "filter compares a number with text": bad_filter("cpu_cores > many", 13),
    "filter with a bad time": bad_filter('created_at > "yesterday"', 14),
    "filter on what has no members": bad_filter("name.first = x", 1),
    "filter with an open string": bad_filter('name = "press', 8),
    # Bodies.
    "no body": Wrong("POST", R, 400, raw=b"", headers=JSON),
    "no body and no type": Wrong("POST", R, 415, raw=b""),
    "a form": Wrong("POST", R, 415, raw=b"name=north", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    "text": Wrong("POST", R, 415, raw=b"{}", headers={"Content-Type": "text/plain"}),
    "a merge patch as POST": Wrong("POST", R, 415, raw=b"{}", headers={"Content-Type": "application/merge-patch+json"}),
    "a JSON patch as PATCH": Wrong("PATCH", f"{R}/north", 415, raw=b"[]", headers={"Content-Type": "application/json-patch+json"}),
    "another charset": Wrong("POST", R, 415, raw=b"{}", headers={"Content-Type": "application/json; charset=latin-1"}),
    "compressed": Wrong("POST", R, 415, raw=b"\x1f\x8b", headers={**JSON, "Content-Encoding": "gzip"}),
    "not JSON": Wrong("POST", R, 400, raw=b"name: north", headers=JSON),
    "cut JSON": Wrong("POST", R, 400, raw=b'{"name": "nor', headers=JSON),
    "two documents": Wrong("POST", R, 400, raw=b'{"name": "a"} {"name": "b"}', headers=JSON),
    "NaN": Wrong("POST", S, 400, raw=b'{"name": "a", "latitude": NaN}', headers=JSON),
    "not UTF-8": Wrong("POST", R, 400, raw=b'{"name": "a", "title": "\xff"}', headers=JSON),
    "a lone surrogate": Wrong("POST", R, 400, raw=b'{"name": "a", "title": "\\ud800"}', headers=JSON),
    "a NUL": Wrong("POST", R, 422, "/title", raw=b'{"name": "a", "title": "\\u0000"}', headers=JSON),
    "a NUL in a label": Wrong("POST", R, 422, "/labels/a", raw=b'{"name": "a", "labels": {"a": "\\u0000"}}', headers=JSON),
    "a number beyond everything": Wrong("POST", S, 400, raw=b'{"name": "a", "latitude": 1e999}', headers=JSON),
    "a number beyond 64 bits": Wrong("POST", C, 422, "/priority", json={"name": "a", "selector": "", "priority": 2**64 - 1}),
    "nested for ever": Wrong("POST", R, 400, raw=b'{"a":' * 5000 + b"1" + b"}" * 5000, headers=JSON),
    "nested deeply": Wrong("POST", R, 422, raw=b'{"a":' * 50 + b"1" + b"}" * 50, headers=JSON),
    "an array": Wrong("POST", R, 422, "", json=[]),
    "a string": Wrong("PATCH", f"{R}/north", 422, "", json="north"),
    "null": Wrong("PATCH", f"{R}/north", 422, "", raw=b"null", headers=JSON),
    "more than a mebibyte": Wrong("POST", R, 413, json={"name": "a", "title": BIG}),
    "a body for a verb": Wrong("POST", f"{C}/motd:retry", 422, "/now", json={"now": True}),
    # Fields.
    "an unknown field": Wrong("POST", R, 422, "/colour", json={"name": "a", "colour": "red"}),
    "an unknown field on PATCH": Wrong("PATCH", f"{R}/north", 422, "/colour", json={"colour": "red"}),
    "a hidden field": Wrong("POST", E, 422, "/token_hash", json={"name": "a", "token_hash": "0" * 64}),
    "another kind": Wrong("POST", R, 422, "/kind", json={"kind": "site", "name": "a"}),
    "a required field absent": Wrong("POST", C, 422, "/selector", json={"name": "a"}),
    "a name that is no name": Wrong("POST", R, 422, "/name", json={"name": "North Pole"}),
    "a name too long": Wrong("POST", R, 422, "/name", json={"name": "a" * 254}),
    "a name ending in a newline": Wrong("POST", R, 422, "/name", json={"name": "a\n"}),
    "a name that is a number": Wrong("POST", R, 422, "/name", json={"name": 5}),
    "a name of null": Wrong("PATCH", f"{R}/north", 422, "/name", json={"name": None}),
    "a title too long": Wrong("POST", R, 422, "/title", json={"name": "a", "title": "x" * 257}),
    "labels that are a list": Wrong("POST", R, 422, "/labels", json={"name": "a", "labels": ["x"]}),
    "a label that is a number": Wrong("POST", R, 422, "/labels/a", json={"name": "a", "labels": {"a": 1}}),
    "a label key with a space": Wrong("POST", R, 422, "/labels", json={"name": "a", "labels": {"a b": "1"}}),
    "a time before there were any": Wrong("POST", E, 422, "/expires_at", json={"name": "a", "expires_at": "0001-01-01T00:00:00Z"}),
    "a latitude off the earth": Wrong("POST", S, 422, "/latitude", json={"name": "a", "latitude": 91}),
    "a latitude as text": Wrong("POST", S, 422, "/latitude", json={"name": "a", "latitude": "52"}),
    "a time zone of nowhere": Wrong("POST", S, 422, "/timezone", json={"name": "a", "timezone": "Mars/Olympus"}),
    "a region that is not there": Wrong("POST", S, 422, "/region", json={"name": "a", "region": "atlantis"}),
    "a region that is a number": Wrong("POST", S, 422, "/region", json={"name": "a", "region": 5}),
    "a region in a circle": Wrong("PATCH", f"{R}/north", 422, "/parent", json={"parent": "north"}),
    "a priority out of bounds": Wrong("POST", C, 422, "/priority", json={"name": "a", "selector": "", "priority": 1001}),
    "a priority that is true": Wrong("POST", C, 422, "/priority", json={"name": "a", "selector": "", "priority": True}),
    "a selector that does not parse": Wrong("POST", C, 422, "/selector", json={"name": "a", "selector": "labels.line ="}),
    "a selector on what flaps": Wrong("POST", C, 422, "/selector", json={"name": "a", "selector": 'presence = "online"'}),
    "files that are an object": Wrong("POST", C, 422, "/files", json={"name": "a", "selector": "", "files": {}}),
    "a file without a path": Wrong("POST", C, 422, "/files/0/path", json={"name": "a", "selector": "", "files": [{"content": ""}]}),
    "a relative path": Wrong(
        "POST", C, 422, "/files/0/path", json={"name": "a", "selector": "", "files": [{"path": "etc/x", "content": ""}]}
    ),
    "a file with neither": Wrong("POST", C, 422, "/files/0", json={"name": "a", "selector": "", "files": [{"path": "/etc/x"}]}),
    "a mode that is none": Wrong(
        "POST", C, 422, "/files/0/mode", json={"name": "a", "selector": "", "files": [{"path": "/x", "content": "", "mode": "rw"}]}
    ),
    "an unknown member of a file": Wrong(
        "POST", C, 422, "/files/0/colour", json={"name": "a", "selector": "", "files": [{"path": "/etc/x", "content": "", "colour": "red"}]}
    ),
    "uses of none": Wrong("POST", E, 422, "/uses", json={"name": "a", "uses": 0}),
    "a time without an offset": Wrong("POST", E, 422, "/expires_at", json={"name": "a", "expires_at": "2030-01-01T00:00:00"}),
    "a time before all times": Wrong("POST", E, 422, "/expires_at", json={"expires_at": "0001-01-01T00:00:00+23:00"}),
    "a time after all times": Wrong("POST", E, 422, "/expires_at", json={"expires_at": "9999-12-31T23:59:59-23:00"}),
    "a day that there is not": Wrong("POST", E, 422, "/expires_at", json={"expires_at": "2030-02-30T00:00:00Z"}),
    "a week date": Wrong("POST", E, 422, "/expires_at", json={"expires_at": "2030-W01-1T00:00:00Z"}),
    "a state of what has none": Wrong("PATCH", f"{R}/north", 403, "/desired_state", json={"desired_state": "gone"}),
    "a time that is none": Wrong("POST", E, 422, "/expires_at", json={"name": "a", "expires_at": "soon"}),
    "a desired state that there is not": Wrong("POST", H, 422, "/desired_state", json={"name": "a", "desired_state": "happy"}),
    # Other owners.
    "the device's field": Wrong("PATCH", f"{H}/press", 403, "/serial", json={"serial": "x"}),
    "Inventory's field": Wrong("PATCH", f"{H}/press", 403, "/presence", json={"presence": "online"}),
    "a manager's field": Wrong("PATCH", f"{H}/press", 403, "/current_state", json={"current_state": "onboarded"}),
    "the version": Wrong("PATCH", f"{R}/north", 403, "/version", json={"version": 999}),
    "the id": Wrong("POST", R, 403, "/id", json={"name": "a", "id": "reg-1"}),
    "a kind that managers make": Wrong("POST", "/api/v1/commands", 403, json={"name": "a"}),
    "a kind that devices make": Wrong("POST", "/api/v1/components", 403, json={"name": "a"}),
    # Preconditions and keys.
    "If-Match of words": Wrong("PATCH", f"{R}/north", 400, "If-Match", json={"title": "x"}, headers={"If-Match": "latest"}),
    "If-Match of two": Wrong("PATCH", f"{R}/north", 400, "If-Match", json={"title": "x"}, headers={"If-Match": '"1", "2"'}),
    "If-Match weak": Wrong("PATCH", f"{R}/north", 412, json={"title": "x"}, headers={"If-Match": 'W/"1"'}),
    "If-Match of another's": Wrong("DELETE", f"{R}/north", 412, headers={"If-Match": '"abc"'}),
    "If-Match stale on a verb": Wrong("POST", f"{H}/press:retry", 412, headers={"If-Match": '"999999"'}),
    "If-Match stale": Wrong("PATCH", f"{R}/north", 412, json={"title": "x"}, headers={"If-Match": '"999999"'}),
    "If-Match stale on DELETE": Wrong("DELETE", f"{R}/north", 412, headers={"If-Match": "1000000"}),
    "an Idempotency-Key with spaces": Wrong("POST", R, 400, "Idempotency-Key", json={"name": "a"}, headers={"Idempotency-Key": "a b"}),
    "an Idempotency-Key too long": Wrong("POST", R, 400, "Idempotency-Key", json={"name": "a"}, headers={"Idempotency-Key": "k" * 256}),
    "a taken name": Wrong("POST", R, 409, "/name", json={"name": "north"}),
    # Who asks.
    "nobody": Wrong("GET", R, 401, role=None),
    "an unknown token": Wrong("GET", R, 401, role="nobody-s"),
    "another scheme": Wrong("GET", R, 401, role=None, headers={"Authorization": "Basic YWRtaW46YWRtaW4="}),
    "a viewer who writes": Wrong("POST", R, 403, json={"name": "a"}, role="viewer"),
    "a stranger's stream": Wrong("GET", "/api/v1/events/stream", 401, role=None),
    # Sign-in and enrollment.
    "sign-in without a password": Wrong("POST", "/login", 422, "/password", json={"username": "admin"}, role=None),
    "sign-in with a number": Wrong("POST", "/login", 422, "/username", json={"username": 5, "password": "x"}, role=None),
    "sign-in with a name longer than any": Wrong(
        "POST", "/login", 401, json={"username": "n" * 300, "password": "x"}, role=None, recorded=1
    ),
    "sign-in with a wrong password": Wrong("POST", "/login", 401, json={"username": "admin", "password": "x"}, role=None, recorded=1),
    "GET of logout": Wrong("GET", "/logout", 405),
    "enroll with nothing": Wrong("POST", "/api/v1/enroll", 422, "/token", json={}, role=None),
    "enroll with a bad request": Wrong(
        "POST", "/api/v1/enroll", 422, "/csr", json={"token": "x", "csr": "not a CSR", "evidence": {}}, role=None
    ),
    "enroll without evidence": Wrong("POST", "/api/v1/enroll", 422, "/evidence", json={"token": "x", "csr": "x"}, role=None),
    "enroll with evidence that is none": Wrong(
        "POST", "/api/v1/enroll", 422, "/evidence/macs/0", json={"token": "x", "csr": "x", "evidence": {"macs": ["?"]}}, role=None
    ),
    "a sheet that is JSON": Wrong("POST", f"{H}:preregister", 415, json={}),
    "a sheet without a heading": Wrong("POST", f"{H}:preregister", 422, "/heading", raw=b"", headers={"Content-Type": "text/csv"}),
    "enroll with a list": Wrong("POST", "/api/v1/enroll", 422, "", json=[], role=None),
}


@pytest.fixture(scope="module")
def stands(databases: Any, peopled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, httpx.Client]]:
    """A site with a region, a host and a config, for all rows of the table: none of them may change it."""
    name = databases.create(peopled)
    secrets = tmp_path_factory.mktemp("secrets")
    with running(databases.url(name), secrets=secrets) as site, site.client(None) as client:
        with site.client() as admin:
            for collection, body in (("regions", {}), ("hosts", {}), ("configs", {"selector": ""})):
                names = {"regions": "north", "hosts": "press", "configs": "motd"}
                assert admin.post(f"/api/v1/{collection}", json={"name": names[collection], **body}).status_code == 201
        yield site, client
    databases.drop(name)


def written(client: httpx.Client) -> int:
    """How many changes have ever been committed."""
    text = client.get("/metrics").text
    position, waiting = (
        re.search(rf"^{name} (\d+)$", text, re.MULTILINE) for name in ("fleetward_change_position", "fleetward_changes_waiting")
    )
    assert position is not None
    assert waiting is not None
    return int(position[1]) + int(waiting[1])


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_request_is_refused_with_its_place_and_writes_nothing(stands: tuple[Site, httpx.Client], name: str) -> None:
    """Status, problem document, place, and no change committed but what the audit records of it."""
    _, client = stands
    wrong = TABLE[name]
    before = written(client)
    headers = ({} if wrong.role is None else {"Authorization": f"Bearer {wrong.role}"}) | wrong.headers
    if wrong.raw is not None:
        answer = client.request(wrong.method, wrong.path, content=wrong.raw, headers=headers)
    else:
        answer = client.request(wrong.method, wrong.path, json=wrong.json, headers=headers)
    assert answer.status_code == wrong.status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == wrong.status
    assert body["title"]
    assert body["detail"]
    assert "Traceback" not in answer.text
    if wrong.where is not None:
        assert wrong.where in [error["pointer"] for error in body["errors"]], body
    if wrong.column is not None:
        assert body["column"] == wrong.column, body
    assert written(client) == before + wrong.recorded

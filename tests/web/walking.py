"""A walk through every operation of the OpenAPI document, as every role, without a scope and within one, at things inside and outside.

Each operation is classified by how it is answered; one that is not makes the walk fail before it begins. Writes are asked with `dry_run`,
which goes through all checks and undoes the rest, so that each request finds the same ground; where an operation has no dry run it is asked
for something that there is not. The walk collects what should not have been: a 2xx for somebody who may not, anything but 404 for what lies
outside, a word of the other side in an answer, and refusals of what is allowed.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from typing import Any, cast

from quart import Quart
from quart.testing import QuartClient

from inventory.accounts import digest
from inventory.db import Database
from inventory.ids import new_id
from inventory.kind import USER, Kind
from inventory.kinds import BY_COLLECTION
from inventory.tables import ApiToken
from tests.two_sides import OUTSIDE, SCOPE, Sides
from tests.waiting import patience
from web.openapi import document
from web.services import of

ROLES = ("viewer", "operator", "admin")
SCOPES = ("", SCOPE)
METHODS = ("get", "post", "patch", "delete")
NOBODY = "nobody-01"

ADMINISTRATORS = frozenset(
    {
        *(
            "listAudit",
            "exportAudit",
            "getAuditHead",
            "listIntegrations",
            "createIntegration",
            "patchIntegration",
            "deleteIntegration",
            "listCertificates",
        ),
        *("revokeCertificate", "listUsers", "createUser", "getUser", "deleteUser", "patchUser", "resetUserPassword"),
        *("resetUserSecondFactor", "signOutUser", "listApiTokens", "createApiToken", "getApiToken", "deleteApiToken"),
        *("listSessions", "endSession"),
    }
)
"""For whoever administers, without a scope. (Sessions are also for people with one of their own, which no token is.)"""
PEOPLE = frozenset(
    {
        *("getAccount", "changePassword", "beginSecondFactor", "confirmSecondFactor", "removeSecondFactor", "renewRecoveryCodes"),
        "endOtherSessions",
    }
)
"""About the one who has signed in, and so for no token."""
EVERYBODY = frozenset({"listKinds", "whoami", "getOpenApi", "live", "ready", "listEvents", "streamEvents"})
"""For whoever is known; some for strangers too."""
WHOLE = frozenset({"metrics"})
"""For whoever reads, without a scope."""
BATCHES = frozenset({"preregisterHosts"})
DEVICES = frozenset({"enroll", "renew", "signIn", "signOut"})
"""Who asks is no matter: what counts is in the body."""


@dataclass(frozen=True)
class Asker:
    """A bearer token, named by its role and whether it has a scope."""

    role: str
    scope: str

    @property
    def token(self) -> str:
        return f"{self.role}{'-scoped' if self.scope else ''}"

    @property
    def writes(self) -> bool:
        return self.role != "viewer"

    @property
    def administers(self) -> bool:
        return self.role == "admin" and not self.scope


ASKERS = tuple(Asker(role, scope) for role, scope in product(ROLES, SCOPES))


@dataclass(frozen=True)
class Request:
    """One request of the walk. wanted: `ok` (2xx), `403`, `404`, `4xx` (refused, whichever way), `known` (anything but 401 and 403)."""

    operation: str
    method: str
    path: str
    wanted: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One operation of the document; `kind` where it is one of a kind's own."""

    id: str
    method: str
    path: str
    kind: Kind | None


def operations() -> list[Operation]:
    """All of them."""
    found = []
    for path, item in document()["paths"].items():
        for method in METHODS:
            if method in item:
                collection = re.match(r"/api/v1/([a-z-]+)(/|$)", path)
                kind = BY_COLLECTION.get(collection[1]) if collection else None
                found.append(Operation(item[method]["operationId"], method, path, kind))
    return found


def unclassified() -> list[str]:
    """Operations that the walk does not know what to expect of."""
    known = ADMINISTRATORS | PEOPLE | EVERYBODY | WHOLE | BATCHES | DEVICES
    return [each.id for each in operations() if each.kind is None and each.id not in known]


def requests(asker: Asker, sides: Sides) -> Iterator[Request]:
    """The whole walk of one."""
    for operation in operations():
        if operation.kind is not None:
            yield from _of_kind(operation, operation.kind, asker, sides)
        else:
            yield from _of_none(operation, asker, sides)


def _of_none(operation: Operation, asker: Asker, sides: Sides) -> Iterator[Request]:
    path = re.sub(r"\{\w+\}", NOBODY, operation.path)
    body: Any = {} if operation.method in ("post", "patch") else None
    if operation.id in ADMINISTRATORS:
        yield Request(operation.id, operation.method, path, "known" if asker.administers else "403", body)
    elif operation.id in PEOPLE:
        yield Request(operation.id, operation.method, path, "403", body)
    elif operation.id in WHOLE:
        yield Request(operation.id, operation.method, path, "403" if asker.scope else "ok")
    elif operation.id in BATCHES:
        yield from _batches(operation, asker)
    elif operation.id == "listEvents":
        for query in ("", "?after=0&limit=1000", f"?after=0&limit=1000&id={sides.outside.host}", "?kind=component"):
            yield Request(operation.id, "get", path + query, "ok")
    elif operation.id in EVERYBODY and operation.id != "streamEvents":
        yield Request(operation.id, "get", path, "ok")


def _batches(operation: Operation, asker: Asker) -> Iterator[Request]:
    """A sheet of machines to come, within the scope, outside of it, and one that is known outside."""

    def sheet(serial: str, side: str, wanted: str) -> Request:
        text = f"serial,labels\r\n{serial},side={side}\r\nSN-000{serial},side=inside\r\n"
        return Request(operation.id, "post", f"{operation.path}?dry_run=true", wanted, text, {"Content-Type": "text/csv"})

    outside = "403" if not asker.writes else "4xx" if asker.scope else "ok"
    yield sheet("SN-41", "inside", "ok" if asker.writes else "403")
    yield sheet("SN-42", OUTSIDE, outside)
    yield sheet(f"{OUTSIDE}-serial", "inside", outside)


def _of_kind(operation: Operation, kind: Kind, asker: Asker, sides: Sides) -> Iterator[Request]:
    if "{ref}" not in operation.path:
        if operation.method == "get":
            for query in ("?count=true&page_size=1000", "?order_by=name desc", f'?filter=NOT name = "x" OR id = "{sides.outside.host}"'):
                yield Request(operation.id, "get", operation.path + query, "ok")
        else:
            yield from _making(operation, kind, asker)
        return
    ids = [sides.of_none[kind.name]] if not kind.has_host else [sides.inside.ids[kind.name], sides.outside.ids[kind.name]]
    for id, is_outside in zip(ids, (False, True), strict=False):
        yield _at_one(operation, kind, asker, id, is_outside)


def _making(operation: Operation, kind: Kind, asker: Asker) -> Iterator[Request]:
    def make(wanted: str, **more: Any) -> Request:
        body = {"name": "made", **more} | ({"selector": "labels.side:*"} if kind.name == "config" else {})
        return Request(operation.id, "post", f"{operation.path}?dry_run=true", wanted, body)

    may = asker.writes and USER in kind.creators and (kind.has_host or not asker.scope)
    yield make("ok" if may else "403", labels={"side": "inside"})
    if kind.name == "host":
        yield make("ok" if asker.writes and not asker.scope else "403", labels={"side": OUTSIDE})


def _at_one(operation: Operation, kind: Kind, asker: Asker, id: str, is_outside: bool) -> Request:
    path, reads = operation.path.replace("{ref}", id), operation.method == "get"
    if not reads and (not asker.writes or (asker.scope and not kind.has_host)):
        wanted = "403"
    elif is_outside and asker.scope:
        wanted = "404"
    else:
        wanted = "ok"
    body = {"title": "Another"} if operation.method == "patch" else None
    query = {"get": "", "delete": "?dry_run=true&force=true"}.get(operation.method, "?dry_run=true")
    if kind.name == "config" and operation.method == "delete":
        query = "?dry_run=true"
    if kind.name in ("site", "region") and operation.method == "delete" and wanted == "ok":
        wanted = "known"  # it is used, which is a 409
    return Request(operation.id, operation.method, path + query, wanted, body)


# --- walking ------------------------------------------------------------------------------------------------------------------------


async def let_in(db: Database) -> None:
    """The bearer tokens of all askers."""
    now = datetime.now(UTC)
    async with db.transaction() as tx:
        for asker in ASKERS:
            values = {"name": asker.token, "role": asker.role, "scope": asker.scope, "token_hash": digest(asker.token), "created_at": now}
            await ApiToken.create(id=new_id("apit"), using_db=tx.client, **values)


def as_who(asker: Asker) -> dict[str, str]:
    return {"Authorization": f"Bearer {asker.token}"}


async def walk(client: QuartClient, asker: Asker, sides: Sides) -> list[str]:
    """What should not have been, in words."""
    breaches = []
    for request in requests(asker, sides):
        body: dict[str, Any] = {} if request.body is None else {"data": request.body}
        headers = as_who(asker) | request.headers
        if isinstance(request.body, dict):
            body, headers = {"data": json.dumps(request.body)}, headers | {"Content-Type": "application/json"}
        answer = await client.open(request.path, method=request.method.upper(), headers=headers, **body)
        text = await answer.get_data(as_text=True)
        where = f"{asker.token}: {request.operation} {request.path}"
        if not _fits(answer.status_code, request.wanted):
            breaches.append(f"{where}: {answer.status_code}, not {request.wanted}: {text[:200]}")
        elif asker.scope and (words := _leaked(text, request, sides)):
            breaches.append(f"{where}: tells of {words}")
    return breaches


def _fits(status: int, wanted: str) -> bool:
    match wanted:
        case "ok":
            return 200 <= status < 300
        case "4xx":
            return 400 <= status < 500
        case "known":
            return status not in (401, 403, 500)
    return status == int(wanted)


def _leaked(text: str, request: Request, sides: Sides) -> list[str]:
    """Words of the other side that the request did not bring itself."""
    asked = request.path + str(request.body)
    return [
        word
        for word in (f"{OUTSIDE}-press", f"{OUTSIDE}-disk", f"{OUTSIDE} says", f"{OUTSIDE} is", *sides.of_outside)
        if word in text and word not in asked
    ]


@asynccontextmanager
async def serving(app: Quart) -> AsyncIterator[QuartClient]:
    """A client of an app that lives in this process, and follows the change log."""
    async with app.test_app() as living:
        async with patience(20):
            await of(app).hub.following.wait()
        yield cast(QuartClient, living.test_client())

"""The OpenAPI 3.1 document, made from the registry of kinds and the routes' own parameter lists. Pure.

Made here rather than by decorators on routes: the routes of resources are one set for all kinds, and their schemas are data, not classes
(docs/adr has the decision). A test holds it against the routes that there are, both ways. Source: OpenAPI Specification 3.1.0.
"""

from typing import Any

from inventory.kind import USER, Kind
from inventory.kinds import KINDS
from web.api.issued import ISSUED
from web.api.parameters import AUDIT, AUDIT_EXPORT, CERTIFICATES, DELETE, EVENTS, HISTORY, LIST, STREAM, WRITE
from web.bodies import PATCH_TYPES
from web.openapi_accounts import ACCOUNT_SCHEMAS, account_paths
from web.openapi_parts import IF_MATCH as _IF_MATCH
from web.openapi_parts import JSON, PROBLEMS, Operation
from web.openapi_parts import KEY as _KEY
from web.openapi_parts import REF as _REF
from web.openapi_parts import content as _content
from web.openapi_parts import given as _given
from web.openapi_parts import header as _header
from web.openapi_parts import open_to_all as _open
from web.openapi_parts import operation as _operation
from web.openapi_parts import query as _query
from web.schemas import GENERAL, kind_schemas, reference, type_name

VERSION = "1.0.0"


def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Operation]] = {}
    schemas = GENERAL | ACCOUNT_SCHEMAS
    for kind in KINDS:
        schemas |= kind_schemas(kind)
        paths |= _kind_paths(kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fleetward",
            "version": VERSION,
            "summary": "A fleet of edge machines, kept in the state that was asked for.",
            "description": "Within v1 things are only added.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"session": []}],
        "tags": [
            *({"name": kind.collection, "description": kind.doc} for kind in KINDS),
            *({"name": name} for name in ("events", "audit", "meta", "access", "accounts", "operations")),
        ],
        "paths": paths | _event_paths() | _audit_paths() | _meta_paths() | _access_paths() | account_paths() | _operations_paths(),
        "components": {
            "schemas": schemas,
            "responses": {str(status): _problem(words) for status, words in PROBLEMS.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "fleetward-session",
                    "description": "From POST /login; `__Host-fleetward-session` over HTTPS. Unsafe methods also need X-CSRF-Token.",
                },
            },
        },
    }


def _problem(words: str) -> dict[str, Any]:
    return {"description": words, "content": {"application/problem+json": {"schema": reference("Problem")}}}


def _kind_paths(kind: Kind) -> dict[str, dict[str, Operation]]:
    name, tag, at = type_name(kind), kind.collection, f"/api/v1/{kind.collection}"
    many = "".join(part.capitalize() for part in kind.collection.split("-"))
    history = _operation(
        f"list{name}Changes",
        tag,
        f"The history of a {kind.name}, newest first.",
        {"200": _given("Changes.", reference("ChangePage"))},
        404,
        parameters=_query(HISTORY),
    )
    why = _operation(f"explain{name}", tag, f"Why a {kind.name} is not as asked.", {"200": _given("Why.", reference("Explanation"))}, 404)
    paths: dict[str, dict[str, Any]] = {
        at: {"get": _list(kind, f"list{many}"), "post": _create(kind, f"create{name}")},
        f"{at}/{{ref}}": {
            "parameters": [_REF],
            "get": _operation(f"get{name}", tag, f"One {kind.name}.", {"200": _given("It.", reference(name), etag=True)}, 404),
            "patch": _patch(kind, f"patch{name}"),
            "delete": _delete(kind, f"delete{name}"),
        },
        f"{at}/{{ref}}/explain": {"parameters": [_REF], "get": why},
        f"{at}/{{ref}}/changes": {"parameters": [_REF], "get": history},
    }
    for verb in kind.verbs:
        paths[f"{at}/{{ref}}:{verb}"] = {"parameters": [_REF], "post": _verb(kind, verb)}
    return paths


def _list(kind: Kind, id: str) -> Operation:
    page = {"200": _given("A page, and the position of its snapshot.", reference(f"{type_name(kind)}Page"))}
    return _operation(id, kind.collection, f"List {kind.collection}.", page, parameters=_query(LIST))


def _create(kind: Kind, id: str) -> Operation:
    name = type_name(kind)
    made = reference(f"{name}Issued" if kind.name in ISSUED else name)
    answers = {"201": _given("Made.", made, etag=True), "200": _given("With dry_run: what it would be.", reference(name))}
    by = "" if USER in kind.creators else f" It is made by {' or '.join(sorted(kind.creators))}; a user is refused (403)."
    return _operation(
        id, kind.collection, f"Make a {kind.name}.", answers, 409, 413, 415, 422,
        description=kind.doc + by,
        parameters=[*_query(WRITE), _KEY],
        requestBody={"required": True, **_content(reference(f"{name}Create"))},
    )  # fmt: skip


def _patch(kind: Kind, id: str) -> Operation:
    body = reference(f"{type_name(kind)}Patch")
    return _operation(
        id, kind.collection, f"Change a {kind.name} (RFC 7396).", {"200": _given("As it is then.", reference(type_name(kind)), etag=True)},
        404, 409, 412, 413, 415, 422,
        parameters=[*_query(WRITE), _IF_MATCH],
        requestBody={"required": True, "content": {type: {"schema": body} for type in PATCH_TYPES}},
    )  # fmt: skip


def _delete(kind: Kind, id: str) -> Operation:
    answers = {
        "204": {"description": "It is gone."},
        "202": _given("It goes when its manager has confirmed; `deleted_at` is set.", reference(type_name(kind)), etag=True),
    }
    return _operation(id, kind.collection, f"Delete a {kind.name}.", answers, 404, 409, 412, parameters=[*_query(DELETE), _IF_MATCH])


def _verb(kind: Kind, verb: str) -> Operation:
    done = {"200": _given("As it is then.", reference(type_name(kind)), etag=True)}
    return _operation(
        f"{verb}{type_name(kind)}", kind.collection, f"{verb.capitalize()} what has halted.", done, 404, 409, 412, 413, 415, 422,
        parameters=[*_query(WRITE), _IF_MATCH, _KEY],
    )  # fmt: skip


def _event_paths() -> dict[str, dict[str, Operation]]:
    listed = {"200": _given("Changes, oldest first.", reference("ChangePage"))}
    streamed = {"200": _given("Server-sent events: `change`, `cut`, `gone`.", {"type": "string"}, "text/event-stream")}
    last = _header("Last-Event-ID", "The position of the last event seen; wins over `after`.")
    return {
        "/api/v1/events": {"get": _operation("listEvents", "events", "What changed.", listed, 410, parameters=_query(EVENTS))},
        "/api/v1/events/stream": {
            "get": _operation("streamEvents", "events", "What changes, live.", streamed, 410, parameters=[*_query(STREAM), last])
        },
    }


def _audit_paths() -> dict[str, dict[str, Operation]]:
    listed = {"200": _given("Entries, newest first.", reference("AuditPage"))}
    exported = {"200": _given("An entry a line, oldest first.", {"type": "string"}, "application/x-ndjson")}
    signed = {"200": _given("The head.", reference("ChainHead"))}
    return {
        "/api/v1/audit": {"get": _operation("listAudit", "audit", "Who did what, and from where.", listed, parameters=_query(AUDIT))},
        "/api/v1/audit/export": {
            "get": _operation("exportAudit", "audit", "All of the audit, as JSON lines.", exported, parameters=_query(AUDIT_EXPORT))
        },
        "/api/v1/audit/head": {"get": _operation("getAuditHead", "audit", "How far the change log goes, signed.", signed, 404)},
    }


def _meta_paths() -> dict[str, dict[str, Operation]]:
    kinds = {"200": _given("The kinds.", reference("KindPage"))}
    who = {"200": _given("The one whose token or session it is.", reference("Identity"))}
    this = {"200": _given("This document.", {"type": "object"})}
    return {
        "/api/v1/kinds": {"get": _operation("listKinds", "meta", "The kinds, their fields and how they are shown.", kinds)},
        "/api/v1/whoami": {"get": _operation("whoami", "meta", "Who is asking.", who)},
        "/api/v1/openapi.json": {"get": _open(_operation("getOpenApi", "meta", "The API itself.", this))},
    }


def _access_paths() -> dict[str, dict[str, Any]]:
    credentials = {type: {"schema": reference("Credentials")} for type in (JSON, "application/x-www-form-urlencoded")}
    signed_in = {
        "200": _given("Signed in; sets the session cookie.", reference("Identity")),
        "303": {"description": "A browser is sent on."},
    }
    login = _operation(
        "signIn", "access", "Sign in.", signed_in, 413, 415, 422, 429, requestBody={"required": True, "content": credentials}
    )
    enrolled = {
        "200": _given("The identity.", reference("EnrollAnswer")),
        "202": _given("It waits for approval; `Retry-After` says when to ask again.", reference("EnrollWaiting")),
    }
    enroll = _operation(
        "enroll", "access", "A device gets its identity.", enrolled, 413, 415, 422,
        requestBody={"required": True, **_content(reference("EnrollRequest"))},
    )  # fmt: skip
    readmitted = {"200": _given("What it would have been sent over MQTT.", reference("RenewAnswer"))}
    renew = _operation(
        "renew", "access", "A device that the broker refuses gets another certificate.", readmitted, 413, 415, 422,
        requestBody={"required": True, **_content(reference("RenewRequest"))},
    )  # fmt: skip
    signed_out = {"204": {"description": "Signed out, or was so before."}, "303": {"description": "A browser is sent to sign in."}}
    logout = _operation("signOut", "access", "End the session.", signed_out)
    for open_to_all in (login, logout, enroll, renew):
        open_to_all["security"] = []
    return {
        "/login": {"post": login},
        "/logout": {"post": logout},
        "/api/v1/enroll": {"post": enroll},
        "/api/v1/renew": {"post": renew},
        "/api/v1/hosts:preregister": {"post": _preregister()},
        "/api/v1/integrations": _integrations(),
        "/api/v1/integrations/{name}": {
            "parameters": [{**_REF, "name": "name", "description": "Its name."}],
            "patch": _operation(
                "patchIntegration",
                "access",
                "Change which hosts a program is about (RFC 7396). With a first scope, and without any, its certificate is replaced.",
                {"200": _given("As it is then; with dry_run, as it would be.", reference("Integration"))},
                404,
                413,
                415,
                422,
                parameters=_query(WRITE),
                requestBody={"required": True, "content": {type: {"schema": reference("IntegrationPatch")} for type in PATCH_TYPES}},
            ),
            "delete": _operation("deleteIntegration", "access", "Take its certificate back.", {"204": {"description": "It is out."}}, 404),
        },
        "/api/v1/certificates": {
            "get": _operation(
                "listCertificates",
                "access",
                "The certificates that have not ended, and which of them are taken back.",
                {"200": _given("A page.", reference("CertificatePage"))},
                parameters=_query(CERTIFICATES),
            )
        },
        "/api/v1/certificates/{ref}:revoke": {
            "parameters": [{**_REF, "description": "A serial number, or a name (a service's, a host's) for all that it has."}],
            "post": _operation(
                "revokeCertificate",
                "access",
                "Take a certificate back: its connection ends within seconds.",
                {"200": _given("What is revoked.", reference("CertificatePage"))},
                404,
                409,
            ),
        },
    }


def _preregister() -> Operation:
    sheet = {"type": "string", "description": "CSV with a heading: serial, uuid, name, title, site, labels."}
    return _operation(
        "preregisterHosts", "hosts", "Write down machines that are to come.",
        {"200": _given("Hosts that were made, and those that were there already.", reference("Preregistered"))}, 413, 415, 422,
        parameters=_query(WRITE), requestBody={"required": True, **_content(sheet, "text/csv")},
    )  # fmt: skip


def _integrations() -> dict[str, Operation]:
    listed = {"200": _given("They.", reference("IntegrationPage"))}
    made = {
        "201": _given("Made, or made already with this key.", reference("IntegrationAnswer")),
        "200": _given("With dry_run: what would be let in.", reference("IntegrationChecked")),
    }
    body = {"required": True, **_content(reference("IntegrationRequest"))}
    summary = "Let another program in, with a certificate of its own."
    return {
        "get": _operation("listIntegrations", "access", "The programs that have a certificate.", listed),
        "post": _operation(
            "createIntegration", "access", summary, made, 409, 413, 415, 422, parameters=[*_query(WRITE), _KEY], requestBody=body
        ),
    }


def _operations_paths() -> dict[str, dict[str, Operation]]:
    def told(id: str, summary: str, type: str = "text/plain") -> dict[str, Operation]:
        return {"get": _open(_operation(id, "operations", summary, {"200": _given("So it is.", {"type": "string"}, type)}))}

    ready = _open(_operation("ready", "operations", "Whether it can serve.", {"200": _given("It can.", {"type": "object"})}))
    ready["responses"]["503"] = _given("It can't; each check says why.", {"type": "object"})
    return {
        "/livez": told("live", "Whether the process answers."),
        "/readyz": {"get": ready},
        "/metrics": told("metrics", "Prometheus metrics; from elsewhere than this machine, with a token."),
    }

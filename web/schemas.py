"""JSON Schemas of resources, made from `Kind`: what the API shows, what creates, what patches. Pure.

pydantic makes the schema of each field's type; owner, choices, nullability and documentation come from the field. Called by the OpenAPI
document and by `GET /api/v1/kinds`. Source: JSON Schema 2020-12, which OpenAPI 3.1 takes as it is.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from inventory.kind import USER, Field, Kind, Scalar
from web.api.issued import ISSUED

Schema = dict[str, Any]

COMPONENTS = "#/components/schemas/{model}"
_LOCAL = "#/$defs/{model}"


def reference(name: str) -> Schema:
    return {"$ref": COMPONENTS.format(model=name)}


def type_name(kind: Kind) -> str:
    """`host-config` as `HostConfig`."""
    return "".join(part.capitalize() for part in kind.name.split("-"))


def field_schema(field: Field, template: str = _LOCAL) -> Schema:
    """The schema of a member's value, with its definitions in `$defs` where it has any."""
    schema = TypeAdapter(field.annotation).json_schema(ref_template=template)
    if field.choices:
        schema = {"type": "string", "enum": list(field.choices)}
    if field.scalar is Scalar.INTEGER and "format" not in schema:
        schema["format"] = "int64"
    return schema


def _member(field: Field, definitions: dict[str, Schema], *, read: bool) -> Schema:
    schema = field_schema(field, COMPONENTS)
    definitions.update(schema.pop("$defs", {}))
    if field.nullable and field.scalar is not Scalar.LABELS:
        schema = {"anyOf": [schema, {"type": "null"}]}
    elif "$ref" in schema:
        schema = {"allOf": [schema]}
    if field.default is not None and not callable(field.default) and not read:
        schema["default"] = field.default
    if field.owner != USER:
        schema["readOnly"] = True
    return {**schema, "description": field.doc + (_takes(field))}


def _takes(field: Field) -> str:
    if field.reference is None or field.owner != USER:
        return ""
    return f" Input takes the id or name of a {field.reference.kind}."


def _object(fields: Iterable[Field], definitions: dict[str, Schema], required: list[str], doc: str, *, read: bool = False) -> Schema:
    properties = {field.name: _member(field, definitions, read=read) for field in fields}
    schema: Schema = {"type": "object", "description": doc, "properties": properties}
    return {**schema, "required": required} if required else schema


def kind_schemas(kind: Kind) -> dict[str, Schema]:
    """The component schemas of one kind, and those that they refer to."""
    name = type_name(kind)
    found: dict[str, Schema] = {}
    shown = [field for field in kind.fields if not field.hidden]
    written = [field for field in shown if field.owner == USER]
    always = ["kind", *(field.name for field in shown if not field.single_only)]
    resource = _object(shown, found, always, kind.doc, read=True)
    resource["properties"]["kind"] = {"const": kind.name}
    create = _object(written, found, [field.name for field in written if field.required], f"What makes a {kind.name}.")
    create["properties"]["kind"] = {"const": kind.name}
    patch = _object([field for field in written if not field.immutable], found, [], f"RFC 7396: what to change of a {kind.name}.")
    patch["properties"] = {member: _nullable(schema) for member, schema in patch["properties"].items()}
    for schema in (create, patch):
        schema["additionalProperties"] = False
    part = {key: value for key, value in resource.items() if key != "required"}
    page = {"items": {"type": "array", "items": {"anyOf": [reference(name), reference(f"{name}Part")]}}, **PAGE_MEMBERS}
    found |= {
        name: resource,
        f"{name}Part": {**part, "description": f"The members of a {kind.name} that `fields` asked for.", "minProperties": 1},
        f"{name}Create": create,
        f"{name}Patch": patch,
        f"{name}Page": {"type": "object", "properties": page, "required": ["items", "next_page_token", "position"]},
    }
    if kind.name in ISSUED:
        issued = ISSUED[kind.name]
        secret = {
            "type": "object",
            "properties": {issued.member: {"type": "string", "description": issued.doc}},
            "required": [issued.member],
        }
        found[f"{name}Issued"] = {"allOf": [reference(name), secret]}
    return found


def _nullable(schema: Schema) -> Schema:
    """In a merge patch null means: as it was before anybody said anything."""
    kept = {key: value for key, value in schema.items() if key not in ("default", "description", "anyOf")}
    inner = schema.get("anyOf") or [kept, {"type": "null"}]
    return {"anyOf": inner, "description": schema["description"]}


PAGE_MEMBERS: dict[str, Schema] = {
    "next_page_token": {"type": ["string", "null"], "description": "For the next page; null on the last."},
    "position": {"type": "integer", "format": "int64", "description": "Where to watch from, so that nothing is missed after this list."},
    "total": {"type": "integer", "format": "int64", "description": "How many there are; with count=true."},
}

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer", "format": "int64"}
_TIME: Schema = {"type": "string", "format": "date-time"}


def _plain(doc: str, required: str, **properties: Schema) -> Schema:
    return {"type": "object", "description": doc, "properties": properties, "required": required.split()}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_SCOPE: Schema = {"type": "string", "maxLength": 8192, "description": "The filter of hosts that it is about; empty: all."}
_CERTIFICATE = _plain(
    "A certificate that was issued and has not ended.",
    "serial name class host issued_at expires_at revoked",
    serial={"type": "string", "description": "In hex."},
    name={"type": "string", "description": "Whose it is: its common name."},
    **{"class": {"type": "string", "enum": ["device", "service", "integration", "integration-scoped"]}},
    host={"type": ["string", "null"], "description": "Of a device, its host; null once that is gone."},
    issued_at=_TIME,
    expires_at=_TIME,
    revoked={
        "type": ["string", "null"],
        "enum": ["revoked", "superseded", "untrusted", "deleted", None],
        "description": "Why it is taken back: somebody said so, its machine enrolled anew, or what its host is.",
    },
)
_LINE = _plain("A host, and the line that names its machine.", "line id name", line=_NUMBER, id=_TEXT, name=_TEXT)

GENERAL: dict[str, Schema] = {
    "Problem": _plain(
        "RFC 9457. `errors` names each wrong member by its JSON pointer, or a query parameter or header by its name.",
        "type title status detail errors",
        type=_TEXT,
        title=_TEXT,
        status={"type": "integer"},
        detail=_TEXT,
        errors=_array(_plain("One thing wrong.", "pointer detail", pointer=_TEXT, detail=_TEXT)),
        column={"type": "integer", "description": "Where in the filter it went wrong, from 1."},
    ),
    "Change": _plain(
        "A committed write, as MQTT and the event stream tell it.",
        "position kind id op version generation changed resource host actor at",
        position=_NUMBER,
        kind=_TEXT,
        id=_TEXT,
        op={"type": "string", "enum": ["created", "updated", "deleted"]},
        version=_NUMBER,
        generation=_NUMBER,
        changed=_array(_TEXT),
        resource={"type": ["object", "null"]},
        before={"type": ["object", "null"]},
        host={"type": ["string", "null"]},
        actor=_plain("Who did it.", "type name", type=_TEXT, name=_TEXT, address=_TEXT),
        at=_TIME,
        scope={
            "type": "string",
            "enum": ["entered", "left"],
            "description": "Nothing was created or deleted: by somebody's change the host came into your scope, or left it, with this.",
        },
    ),
    "ChangePage": _plain(
        "Changes and where to go on.", "items next", items=_array(reference("Change")), next={"type": ["integer", "null"]}
    ),
    "AuditEntry": _plain(
        "A row of the change log: who did what, from where, and what it was before. Secrets are left out.",
        "position at actor kind id op changed before after host version hash",
        position=_NUMBER,
        at=_TIME,
        actor=_plain("Who did it.", "type", type=_TEXT, name=_TEXT, address=_TEXT),
        kind=_TEXT,
        id=_TEXT,
        op=_TEXT,
        changed=_array(_TEXT),
        before={"type": ["object", "null"], "description": "The old values of what changed; all of what is gone."},
        after={"type": ["object", "null"], "description": "The new values of what changed; all of what was made."},
        host={"type": ["string", "null"]},
        version=_NUMBER,
        hash={"type": "string", "description": "The row's place in the hash chain: SHA-256, hex."},
    ),
    "AuditPage": _plain(
        "Entries, and the `before` of the next page. A page may be short, even empty, and still have one.",
        "items next",
        items=_array(reference("AuditEntry")),
        next={"type": ["integer", "null"]},
    ),
    "ChainHead": _plain(
        "The last position at a time and the hash of its row, signed with the installation's audit key (Ed25519).",
        "v position hash at key signature",
        v={"const": 1},
        position=_NUMBER,
        hash=_TEXT,
        at=_TIME,
        key={"type": "string", "description": "The public key, base64."},
        signature={"type": "string", "description": "Base64."},
    ),
    "Explanation": _plain(
        "Why a resource is not as it was asked for.",
        "summary causes",
        summary=_TEXT,
        causes=_array(
            _plain(
                "One reason.",
                "reason message",
                reason=_TEXT,
                message=_TEXT,
                since={"type": ["string", "null"]},
                next_attempt_at={"type": ["string", "null"]},
            )
        ),
    ),
    "KindPage": _plain(
        "What there is.",
        "items",
        items=_array(_plain("A kind.", "kind collection fields", kind=_TEXT, collection=_TEXT, fields=_array({"type": "object"}))),
    ),
    "Identity": _plain(
        "Who is asking. `type`: user or token. `must_change_password`: nothing else is answered before.",
        "name role",
        type=_TEXT,
        name=_TEXT,
        role=_TEXT,
        scope={"type": "string", "description": "The filter of hosts that the role holds for; absent: all."},
        csrf_token=_TEXT,
        must_change_password={"type": "boolean"},
    ),
    "Credentials": _plain(
        "Who signs in. `code`: of the second factor, or a recovery code, where there is one.",
        "username password",
        username=_TEXT,
        password={"type": "string", "format": "password"},
        code=_TEXT,
        next=_TEXT,
    ),
    "EnrollRequest": _plain(
        "A device's first request.",
        "token csr evidence",
        token=_TEXT,
        csr={"type": "string", "description": "PKCS #10, PEM."},
        evidence={
            "type": ["object", "null"],
            "description": "What it says of itself; null for what it does not know. Shown to whoever approves it.",
            "properties": {
                "serial": {"type": ["string", "null"]},
                "uuid": {"type": ["string", "null"]},
                "macs": {"type": ["array", "null"], "items": _TEXT},
                "hostname": {"type": ["string", "null"]},
            },
        },
        agent_version=_TEXT,
    ),
    "EnrollAnswer": _plain(
        "Its identity.",
        "device prefix certificate ca command_root channel_key broker",
        device=_TEXT,
        prefix=_TEXT,
        certificate=_TEXT,
        ca=_TEXT,
        command_root=_TEXT,
        command_roots={**_array(_TEXT), "description": "All that are trusted, the one that delegates first."},
        keys={"type": "integer", "description": "The generation of that list."},
        channel_key=_TEXT,
        broker=_plain("Where to connect.", "host port", host=_TEXT, port={"type": "integer"}),
    ),
    "RenewRequest": _plain(
        "A device's request for another certificate.",
        "device request",
        device=_TEXT,
        request={"type": "string", "description": "The payload of up/csr, with its MAC."},
    ),
    "RenewAnswer": _plain(
        "What a device is sent over MQTT.",
        "answer keys",
        answer={"type": "string", "description": "The payload of down/certificate, with its MAC."},
        keys={"type": "string", "description": "The payload of down/keys."},
    ),
    "EnrollWaiting": _plain(
        "It waits for approval, and asks again with the same token and key.",
        "request retry_after",
        request={"type": "string", "description": "The host that is to be approved."},
        retry_after={"type": "integer", "description": "Seconds."},
    ),
    "Preregistered": _plain(
        "What became of a sheet.",
        "created known notes",
        created=_array(_LINE),
        known=_array(_LINE),
        notes=_array(_plain("What of a line counts for nothing.", "line detail", line=_NUMBER, detail=_TEXT)),
    ),
    "IntegrationRequest": _plain(
        "A program to let in.",
        "name csr",
        name=_TEXT,
        write={"type": "string", "enum": ["none", "signed", "unsigned"], "default": "none"},
        scope=_SCOPE,
        csr={"type": "string", "description": "PKCS #10, PEM; its key is the program's."},
    ),
    "IntegrationAnswer": _plain(
        "Its certificate.",
        "name write scope certificate ca broker",
        name=_TEXT,
        write=_TEXT,
        scope=_TEXT,
        certificate=_TEXT,
        ca=_TEXT,
        broker=_plain("Where to connect.", "host port", host=_TEXT, port={"type": "integer"}),
    ),
    "IntegrationChecked": _plain("A program that could be let in.", "name write scope", name=_TEXT, write=_TEXT, scope=_TEXT),
    "Integration": _plain(
        "A program on the broker, with what is known of its certificate.",
        "kind name write scope created_at serial expires_at",
        kind={"const": "integration"},
        name=_TEXT,
        write={
            "type": "string",
            "enum": ["none", "signed", "unsigned"],
            "description": "Whether it may publish intents. Unsigned ones whoever runs the broker can forge.",
        },
        scope=_SCOPE,
        created_at=_TIME,
        serial=_TEXT,
        expires_at=_TIME,
    ),
    "IntegrationPatch": _plain("What to change of a program.", "", scope=_SCOPE),
    "IntegrationPage": _plain("The programs.", "items", items=_array(reference("Integration"))),
    "CertificatePage": _plain("Certificates.", "items", items=_array(_CERTIFICATE), next_page_token=PAGE_MEMBERS["next_page_token"]),
}

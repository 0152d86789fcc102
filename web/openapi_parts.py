"""What the OpenAPI document is put together of: operations, their answers, parameters and bodies. Pure; `web.openapi` and
`web.openapi_accounts` make paths of them."""

from typing import Any

from web.params import Parameter
from web.schemas import Schema

Operation = dict[str, Any]

JSON = "application/json"

PROBLEMS = {
    400: "The request can't be understood.",
    401: "Nobody has signed in.",
    403: "The role does not suffice, or the field belongs to somebody else.",
    404: "There is no such resource.",
    408: "The body did not come in time.",
    409: "The resource's state, or what refers to it, does not allow this.",
    410: "The position is below the floor of the change log, or ahead of it.",
    412: "Somebody else wrote in between.",
    413: "The body is longer than 1 MiB.",
    415: "The body is of another type.",
    422: "A field is unknown, ill-typed or not allowed; or the idempotency key was used for something else.",
    429: "Too many requests of one client wait, or too many sign-ins have failed; `Retry-After` says when to come again.",
    503: "The database can't be reached just now; nothing was written.",
}


def operation(id: str, tag: str, summary: str, answers: dict[str, Any], *problems: int, **more: Any) -> Operation:
    read = {408} if 413 in problems else set()  # what reads a body
    described = sorted({400, 401, 403, 429, 503, *problems, *read})
    responses = answers | {str(status): {"$ref": f"#/components/responses/{status}"} for status in described}
    return {"operationId": id, "tags": [tag], "summary": summary, "responses": responses, **more}


def open_to_all(operation: Operation) -> Operation:
    """Without signing in."""
    for status in ("401", "403"):
        operation["responses"].pop(status, None)
    return {**operation, "security": []}


def content(schema: Schema, type: str = JSON) -> dict[str, Any]:
    return {"content": {type: {"schema": schema}}}


def given(words: str, schema: Schema, type: str = JSON, *, etag: bool = False) -> dict[str, Any]:
    headers = {"ETag": {"description": "The version.", "schema": {"type": "string"}}} if etag else {}
    return {"description": words, **content(schema, type), **({"headers": headers} if headers else {})}


def query(parameters: tuple[Parameter, ...]) -> list[dict[str, Any]]:
    return [_parameter(parameter) for parameter in parameters]


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: Schema = {"type": "array", "items": parameter.schema} if parameter.repeatable else parameter.schema
    return {"name": parameter.name, "in": "query", "description": parameter.doc, "schema": schema}


def header(name: str, words: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": words, "schema": {"type": "string"}}


REF = {"name": "ref", "in": "path", "required": True, "description": "Id or name.", "schema": {"type": "string"}}
IF_MATCH = header("If-Match", 'The version that it must still have, such as `"4711"`, or `*`.')
KEY = header("Idempotency-Key", "Sent again within 24 h, the same request gets the same answer and is done once.")

"""The API about itself: its kinds, its OpenAPI document, and who is asking."""

from functools import cache
from typing import Any

from quart import Blueprint, Response, request

from inventory.kinds import KINDS
from web import json, params
from web.api.answers import answer
from web.api.describe import describe
from web.identity import require
from web.openapi import document

blueprint = Blueprint("meta", __name__, url_prefix="/api/v1")


@blueprint.get("/kinds")
async def list_kinds() -> Response:
    """What there is, and how it is shown: forms, tables and the command line derive from it."""
    await require()
    params.parse(request.query_string, ())
    return Response(_kinds(), content_type="application/json")


@blueprint.get("/whoami")
async def whoami() -> Response:
    """Who is asking; for a browser's session, with the token that its unsafe requests must bring."""
    identity = await require(one_time=True)
    params.parse(request.query_string, ())
    body: dict[str, Any] = {"type": identity.account.type, "name": identity.name, "role": identity.role}
    if identity.account.scope:
        body["scope"] = identity.account.scope
    if identity.one_time:
        body["must_change_password"] = True
    return answer(body if identity.csrf is None else {**body, "csrf_token": identity.csrf})


@blueprint.get("/openapi.json")
async def openapi() -> Response:
    """For everybody: it says nothing about this installation."""
    params.parse(request.query_string, ())
    return Response(_document(), content_type="application/json")


@cache
def _kinds() -> bytes:
    """Made once: the schemas of all fields take pydantic a third of a second."""
    return json.encode({"items": [describe(kind) for kind in KINDS]})


@cache
def _document() -> bytes:
    return json.encode(document())

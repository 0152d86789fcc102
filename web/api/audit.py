"""The audit over HTTP, for administrators: pages of it, all of it as JSON lines, and the signed head of the change log.

It is the change log with everything in it, also what is never published: sign-ins, accounts, tokens. An export goes up to where the log
ends when it begins, and takes the same memory for any length. Source: docs/adr/0018-audit.md.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from quart import Blueprint, Response, request

from inventory import heads, trail
from inventory.db import Database
from inventory.errors import NotFound, Unavailable
from inventory.trail import Wanted
from web import json, params
from web.api.answers import answer
from web.api.parameters import AUDIT, AUDIT_EXPORT
from web.identity import require_administrator
from web.services import services

blueprint = Blueprint("audit", __name__, url_prefix="/api/v1/audit")
blueprint.before_request(require_administrator)


def wanted(query: Mapping[str, Any]) -> Wanted:
    """What the parameters ask for."""
    return Wanted(
        types=trail.types_of(query["type"]),
        actor=query["actor"],
        address=query["address"],
        kinds=tuple(query["kind"]),
        ops=tuple(query["op"]),
        id=query["id"],
        path=query["path"],
        since=query["since"],
        until=query["until"],
    )


@blueprint.get("")
async def list_audit() -> Response:
    query = params.parse(request.query_string, AUDIT)
    found = await trail.page(services().db, wanted(query), before=query["before"], limit=query["limit"])
    return answer({"items": found.items, "next": found.next})


@blueprint.get("/export")
async def export_audit() -> Response:
    query = params.parse(request.query_string, AUDIT_EXPORT)
    response = Response(_lines(services().db, wanted(query), query["after"]), content_type="application/x-ndjson")
    response.headers["Content-Disposition"] = 'attachment; filename="audit.jsonl"'
    response.timeout = None
    return response


async def _lines(db: Database, asked: Wanted, after: int) -> AsyncIterator[bytes]:
    """A line an entry. A database that goes away ends it with a line that says so, since the status has been sent."""
    try:
        async for portion in trail.everything(db, asked, after=after):
            yield b"".join(json.encode(item) + b"\n" for item in portion)
    except Unavailable as error:
        yield json.encode({"error": error.detail}) + b"\n"


@blueprint.get("/head")
async def audit_head() -> Response:
    """How far the log went a few seconds ago, signed: kept elsewhere, it shows a tail that was cut."""
    params.parse(request.query_string, ())
    head = await heads.newest_of(services().db)
    if head is None:
        raise NotFound("no head is signed yet: Inventory signs one within seconds of the first change")
    return answer(head.to_json())

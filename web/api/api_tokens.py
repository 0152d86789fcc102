"""API tokens over the API, for administrators: made, shown once, listed with their last use, revoked."""

from datetime import UTC, datetime

from quart import Blueprint, Response, request

from inventory import api_tokens
from web import params
from web.api.answers import answer
from web.api.writing import TOKEN, dry_run, issue, written
from web.bodies import read_object
from web.identity import current_actor, require_administrator
from web.services import services

blueprint = Blueprint("api_tokens", __name__, url_prefix="/api/v1/api-tokens")
blueprint.before_request(require_administrator)


@blueprint.get("")
async def list_tokens() -> Response:
    params.parse(request.query_string, ())
    return answer({"items": await api_tokens.list_all(services().db)})


@blueprint.post("")
async def create_token() -> Response:
    body, actor, now = await read_object(), current_actor(), datetime.now(UTC)
    return await issue(TOKEN, body, lambda tx, hashed: api_tokens.create(tx, actor, body, hashed, now), 201)


@blueprint.get("/<ref>")
async def get_token(ref: str) -> Response:
    params.parse(request.query_string, ())
    return answer(await api_tokens.get(services().db, ref))


@blueprint.delete("/<ref>")
async def delete_token(ref: str) -> Response:
    actor, now = current_actor(), datetime.now(UTC)
    await written(lambda tx: api_tokens.delete(tx, actor, ref, now), dry_run=dry_run())
    return Response(status=204)

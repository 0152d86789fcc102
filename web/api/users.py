"""Users over the API, for administrators: made with a one-time password, changed, reset, signed out, deleted."""

from datetime import UTC, datetime

from quart import Blueprint, Response, request

from inventory import second_factor, sessions, users
from inventory.db import Tx
from inventory.resource import Resource
from web import params
from web.api.answers import answer
from web.api.writing import PASSWORD, dry_run, issue, no_members, written
from web.bodies import PATCH_TYPES, read_object
from web.identity import current_actor, require_administrator
from web.services import services

blueprint = Blueprint("users", __name__, url_prefix="/api/v1/users")
blueprint.before_request(require_administrator)


@blueprint.get("")
async def list_users() -> Response:
    params.parse(request.query_string, ())
    return answer({"items": await users.list_all(services().db)})


@blueprint.post("")
async def create_user() -> Response:
    body, actor, now = await read_object(), current_actor(), datetime.now(UTC)
    return await issue(PASSWORD, body, lambda tx, hashed: users.create(tx, actor, body, hashed, now), 201)


@blueprint.get("/<ref>")
async def get_user(ref: str) -> Response:
    params.parse(request.query_string, ())
    return answer(await users.get(services().db, ref))


@blueprint.patch("/<ref>")
async def patch_user(ref: str) -> Response:
    only_asked, actor, now = dry_run(), current_actor(), datetime.now(UTC)
    body = await read_object(PATCH_TYPES)
    return answer(await written(lambda tx: users.change(tx, actor, ref, body, now), dry_run=only_asked))


@blueprint.delete("/<ref>")
async def delete_user(ref: str) -> Response:
    actor, now = current_actor(), datetime.now(UTC)
    await written(lambda tx: users.delete(tx, actor, ref, now), dry_run=dry_run())
    return Response(status=204)


@blueprint.post("/<ref>:reset-password")
async def reset_password(ref: str) -> Response:
    await no_members()
    actor, now = current_actor(), datetime.now(UTC)
    return await issue(PASSWORD, {}, lambda tx, hashed: users.reset_password(tx, actor, ref, hashed, now), 200)


@blueprint.post("/<ref>:reset-second-factor")
async def reset_second_factor(ref: str) -> Response:
    await no_members()
    actor, now = current_actor(), datetime.now(UTC)

    async def act(tx: Tx) -> Resource:
        return users.full_view(await second_factor.remove(tx, actor, ref, now))

    return answer(await written(act, dry_run=dry_run()))


@blueprint.post("/<ref>:sign-out")
async def sign_out(ref: str) -> Response:
    await no_members()
    actor, now = current_actor(), datetime.now(UTC)

    async def act(tx: Tx) -> int:
        return await sessions.end_all(tx, actor, (await users.locked(tx, ref)).id, now)

    return answer({"ended": await written(act, dry_run=dry_run())})

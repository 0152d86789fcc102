"""Browsers' sessions over the API: everybody sees and ends their own, administrators all."""

from datetime import UTC, datetime

from quart import Blueprint, Response, request

from inventory import sessions, users
from inventory.access import Action, allowed
from web import params
from web.api.answers import answer
from web.api.parameters import SESSIONS
from web.api.writing import dry_run, written
from web.identity import Identity, current_actor, require, require_person
from web.services import services

blueprint = Blueprint("sessions", __name__, url_prefix="/api/v1/sessions")


async def _whose() -> tuple[Identity, str | None]:
    """Who asks, and the id of the user whose sessions these are about; None: everybody's. Raises Forbidden."""
    identity = await require(Action.READ)
    if allowed(identity.role, Action.ADMINISTER, identity.account.scope):
        return identity, None
    return identity, (await require_person()).account.id


@blueprint.get("")
async def list_sessions() -> Response:
    asked = params.parse(request.query_string, SESSIONS)
    wanted: str | None = asked["user"]
    identity, whose = await _whose()
    here, size = services(), asked["page_size"]
    if whose is None and wanted is not None:
        whose = (await users.get(here.db, wanted))["id"]
    elif wanted not in (None, whose, identity.account.name):
        return answer({"items": [], "next_page_token": None})
    found = await sessions.list_sessions(
        here.db, whose, datetime.now(UTC), here.settings.session_idle, before=asked["page_token"], limit=size
    )
    more = found[-1]["id"] if len(found) == size else None
    return answer({"items": [each | {"current": each["id"] == identity.session} for each in found], "next_page_token": more})


@blueprint.delete("/<id>")
async def end_session(id: str) -> Response:
    _, whose = await _whose()
    actor, now = current_actor(), datetime.now(UTC)
    await written(lambda tx: sessions.end_one(tx, actor, id, now, of=whose), dry_run=dry_run())
    return Response(status=204)

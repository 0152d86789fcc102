"""The events page: the change log as people read it, newest first, by kind, live."""

from quart import Blueprint, Response, request

from web.hub import PUBLISHED
from web.pages.frame import page, person
from web.pages.narration import newest

blueprint = Blueprint("events_page", __name__)

SHOWN = 60


@blueprint.get("/events")
async def show() -> Response:
    await person()
    chosen = [kind for kind in request.args.getlist("kind") if kind in PUBLISHED]
    before = request.args.get("before", "")
    lines, older = await newest(SHOWN, kinds=chosen or PUBLISHED, before=int(before) if before.isdigit() else None)
    return await page("events.html", "Events", lines=lines, older=older, kinds=sorted(PUBLISHED), chosen=chosen, live=not before)

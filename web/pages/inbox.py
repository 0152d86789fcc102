"""Notifications: what people were told, and marking it read."""

from quart import Blueprint, Response, request

from inventory import overview
from inventory.access import Action
from inventory.errors import NotFound
from inventory.kinds.notification import NOTIFICATION, SEVERITIES
from inventory.resource import time_text
from web.identity import current_actor, view
from web.pages.frame import done, page, person
from web.pages.listing import SIZES, asked, listed, quoted
from web.services import services

blueprint = Blueprint("inbox", __name__)

READ_AT_ONCE = 500


@blueprint.get("/notifications")
async def show() -> Response:
    await person()
    terms = [] if request.args.get("show") == "all" else ["read_at = null"]
    severities = [each for each in request.args.getlist("severity") if each in SEVERITIES]
    if severities:
        terms.append("(" + " OR ".join(f"severity = {quoted(each)}" for each in severities) + ")")
    found = await listed(NOTIFICATION, asked("created_at desc"), " AND ".join(terms))
    hosts = await view().read_many("host", {each["host"] for each in found.page.items if each["host"]})
    return await page("inbox.html", "Notifications", listed=found, hosts=hosts, severities=SEVERITIES, chosen=severities, sizes=SIZES)


@blueprint.post("/notifications/read")
async def read() -> Response:
    """Those of the form's `id`s, or, with `all`, everything up to now."""
    await person(Action.WRITE)
    form, here = await request.form, services()
    ids = await overview.unread_ids(view(), READ_AT_ONCE) if form.get("all") else form.getlist("id")
    for id in ids:
        try:
            await here.store.patch("notification", id, {"read_at": time_text(here.store.clock())}, current_actor())
        except NotFound:
            # Somebody deleted it meanwhile: it bothers nobody any more.
            continue
    return done("/notifications", "read", **({"show": "all"} if form.get("show") == "all" else {}))

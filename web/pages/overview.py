"""The overview: how the fleet is, what changed lately, what needs somebody, and which versions are out there."""

import asyncio

from quart import Blueprint, Response

from inventory import overview
from inventory.store import ListQuery
from web.hub import PUBLISHED
from web.identity import view
from web.pages.frame import page, person
from web.pages.narration import newest
from web.pages.remembered import remembered
from web.pages.story import gathered, without_parts

blueprint = Blueprint("overview", __name__)

TOLD_KINDS = PUBLISHED - {"notification", "command"}
"""Notifications have their own place, and commands are told by what they bring about."""
NEEDS_SHOWN = 8
READ, TOLD = 200, 14
"""Changes that are read, and lines that are told of them."""


@blueprint.get("/")
async def show() -> Response:
    await person()
    fleet, versions, (lines, _), halted, waiting, unread = await asyncio.gather(
        remembered("fleet", lambda: overview.fleet(view())),
        remembered("versions", lambda: overview.versions(view())),
        newest(READ, kinds=TOLD_KINDS),
        view().list("host-config", ListQuery("status.halted = true", "updated_at desc", NEEDS_SHOWN)),
        view().list("host", ListQuery('desired_state = "registered"', "created_at desc", NEEDS_SHOWN)),
        view().list("notification", ListQuery('read_at = null AND NOT severity = "info"', "created_at desc", NEEDS_SHOWN)),
    )
    hosts = await view().read_many("host", {each["host"] for each in halted.items})
    configs = await view().read_many("config", {each["config"] for each in halted.items})
    return await page(
        "overview.html",
        "Overview",
        fleet=fleet,
        versions=versions,
        groups=gathered((line for line in without_parts(lines) if line.verb != "reported"), TOLD),
        halted=halted.items,
        waiting=waiting.items,
        alerts=unread.items,
        hosts=hosts,
        configs=configs,
    )

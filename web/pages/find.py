"""What Ctrl-K finds: places to go to, and hosts, configs, sites and regions by a part of their name."""

import asyncio
from dataclasses import dataclass

from quart import Blueprint, Response, render_template, request

from inventory.store import ListQuery
from web.identity import view
from web.pages.frame import person
from web.pages.listing import quoted
from web.pages.story import ICONS

blueprint = Blueprint("find", __name__)


@dataclass(frozen=True, slots=True)
class Found:
    title: str
    note: str
    icon: str
    link: str


PLACES = (
    Found("Overview", "g o", "layout-dashboard", "/"),
    Found("Hosts", "g h", "server", "/hosts"),
    Found("Configs", "g c", "file-cog", "/configs"),
    Found("Places", "g p", "map-pin", "/places"),
    Found("Events", "g e", "activity", "/events"),
    Found("Audit", "", "shield-check", "/audit"),
    Found("Notifications", "g n", "bell", "/notifications"),
    Found("Enroll a device", "g a", "plus", "/enroll"),
    Found("Users and access", "g u", "shield-check", "/access"),
    Found("Programs: tokens, integrations, certificates", "", "key-round", "/access/programs"),
    Found("Your account", "", "key-round", "/account"),
    Found("New config", "", "plus", "/configs/new"),
    Found("Hosts that are offline", "", "unplug", "/hosts?presence=offline"),
    Found("Host-configs", "", "file-cog", "/tables/host-configs"),
    Found("Commands", "", "terminal", "/tables/commands"),
    Found("Components", "", "circuit-board", "/tables/components"),
)

SEARCHED = (("host", 8), ("config", 4), ("site", 4), ("region", 2))
MOST = 200
"""Characters of what is looked for."""


@blueprint.get("/find")
async def find() -> Response:
    await person()
    text = request.args.get("q", "").strip()[:MOST]
    places = [place for place in PLACES if text.lower() in place.title.lower()]
    found = await asyncio.gather(*(_named(kind, text, limit) for kind, limit in SEARCHED)) if text else []
    items = [each for group in found for each in group]
    body = await render_template("found.html", items=items + places[: len(PLACES) if not text else 5], text=text)
    return Response(body, content_type="text/html; charset=utf-8")


async def _named(kind: str, text: str, limit: int) -> list[Found]:
    page = await view().list(kind, ListQuery(quoted(text), "name", limit))
    where = {"host": "hosts", "config": "configs", "site": "sites", "region": "regions"}[kind]
    return [Found(each["title"] or each["name"], f"{kind} {each['name']}", ICONS[kind], f"/{where}/{each['id']}") for each in page.items]

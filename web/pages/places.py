"""Places: the tree of regions and sites with the health of what stands there, and making, moving and labelling them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quart import Blueprint, Response, request

from inventory import overview
from inventory.access import Action
from inventory.errors import Invalid, NotFound
from inventory.resource import Resource
from inventory.store import ListQuery
from web.identity import current_actor, view
from web.pages import copies
from web.pages.frame import done, fields, page, person
from web.pages.host import REFUSALS, load
from web.pages.labels import read_labels, written_labels
from web.pages.listing import quoted
from web.pages.narration import newest
from web.pages.remembered import remembered
from web.services import services

blueprint = Blueprint("places", __name__)

COUNTS = ("hosts", "online", "stale", "offline", "halted")
MOST = 1000
"""Places that the tree shows; an organisation with more finds them by filter."""
COLLECTIONS = {"regions": "region", "sites": "site"}
ABOVE = {"region": "parent", "site": "region"}
NUMBERS = ("latitude", "longitude")


@dataclass(slots=True)
class Node:
    """A place with its own counts and those of everything below rolled up into `counts`."""

    place: Resource
    children: list["Node"] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))


def tree(regions: list[Resource], sites: list[Resource], health: Mapping[str | None, Mapping[str, Any]]) -> list[Node]:
    """The roots: regions without a parent, then sites without a region. Pure; a parent that is not there makes a root."""
    nodes = {place["id"]: Node(place) for place in [*regions, *sites]}
    for site in sites:
        nodes[site["id"]].counts.update({name: health.get(site["id"], {}).get(name, 0) for name in COUNTS})
    roots: list[Node] = []
    for id, node in nodes.items():
        above = nodes.get(node.place[ABOVE[node.place["kind"]]] or "")
        (above.children if above is not None and id != above.place["id"] else roots).append(node)
    for root in roots:
        _roll_up(root)
    return roots


def _roll_up(node: Node) -> None:
    for child in node.children:
        _roll_up(child)
        for name in COUNTS:
            node.counts[name] += child.counts[name]


@blueprint.get("/places")
async def show_all() -> Response:
    await person()
    return await _tree_page()


async def _tree_page(*, status: int = 200, **more: Any) -> Response:
    regions, sites = await _places()
    health = await remembered("sites", lambda: overview.health_of_sites(view()))
    shared: dict[str, Any] = {"refusal": "", "typed": {}, "adding": request.args.get("add", "")}
    nowhere = health.get(None, dict.fromkeys(COUNTS, 0))
    nodes = tree(regions, sites, health)
    return await page("places.html", "Places", status=status, nodes=nodes, regions=regions, nowhere=nowhere, **(shared | more))


async def _places() -> tuple[list[Resource], list[Resource]]:
    regions = await view().list("region", ListQuery(order_by="name", page_size=MOST))
    sites = await view().list("site", ListQuery(order_by="name", page_size=MOST))
    return regions.items, sites.items


@blueprint.post("/places")
async def create() -> Response:
    await person(Action.WRITE)
    form = await fields()
    kind = form.get("kind", "")
    try:
        if kind not in ABOVE:
            raise Invalid("a place is a region or a site")
        await services().store.create(kind, {"name": form.get("name", "").strip(), **_values(kind, form)}, current_actor())
    except REFUSALS as error:
        return await _tree_page(status=error.status, refusal=error.detail, typed=form, adding=kind)
    return done("/places", "created")


@blueprint.get("/<any(regions, sites):collection>/<ref>")
async def show(collection: str, ref: str) -> Response:
    await person()
    return await _page(await load(COLLECTIONS[collection], ref))


async def _page(place: Resource, *, status: int = 200, refusal: str = "", typed: Mapping[str, str] | None = None) -> Response:
    regions, sites = await _places()
    health = await remembered("sites", lambda: overview.health_of_sites(view()))
    mine = next((node for node in _walk(tree(regions, sites, health)) if node.place["id"] == place["id"]), Node(place))
    below = [node.place["id"] for node in _walk([mine]) if node.place["kind"] == "site"]
    lines, _ = await newest(12, ids=[place["id"]])
    return await page(
        "place.html",
        str(place["title"] or place["name"]),
        status=status,
        place=place,
        node=mine,
        above=_above(place, regions),
        regions=[region for region in regions if region["id"] not in {node.place["id"] for node in _walk([mine])}],
        sites_below=below,
        hosts=await _hosts(place),
        labels_text=written_labels(place["labels"]),
        lines=lines,
        copies=copies.of(place, request.host_url.rstrip("/")),
        refusal=refusal,
        typed=typed or {},
    )


async def _hosts(place: Resource) -> list[Resource]:
    if place["kind"] != "site":
        return []
    return (await view().list("host", ListQuery(f"site = {quoted(place['id'])}", "name", 100))).items


def _walk(nodes: list[Node]) -> list[Node]:
    return [each for node in nodes for each in (node, *_walk(node.children))]


def _above(place: Resource, regions: list[Resource]) -> list[Resource]:
    """From the root down to what the place lies in."""
    by_id, chain = {region["id"]: region for region in regions}, list[Resource]()
    at = by_id.get(place[ABOVE[place["kind"]]] or "")
    while at is not None and at not in chain:
        chain.insert(0, at)
        at = by_id.get(at["parent"] or "")
    return chain


@blueprint.post("/<any(regions, sites):collection>/<ref>")
async def act(collection: str, ref: str) -> Response:
    await person(Action.WRITE)
    kind = COLLECTIONS[collection]
    form, place = await fields(), await load(kind, ref)
    store, actor = services().store, current_actor()
    try:
        match form.get("do"):
            case "save":
                gone = dict.fromkeys(place["labels"])
                values = _values(kind, form)
                await store.patch(kind, place["id"], {**values, "labels": {**gone, **values["labels"]}}, actor)
                return done(f"/{collection}/{place['id']}", "saved")
            case "delete":
                await store.delete(kind, place["id"], actor)
                return done("/places", "deleted")
        raise NotFound("there is no such button; reload the page")
    except REFUSALS as error:
        return await _page(place, status=error.status, refusal=error.detail, typed=form)


def _values(kind: str, form: Mapping[str, str]) -> dict[str, Any]:
    """Raises Invalid for a number that is none."""
    values: dict[str, Any] = {ABOVE[kind]: form.get("above") or None, "labels": read_labels(form.get("labels", ""))}
    values["title"] = form.get("title", "").strip()
    if kind == "region":
        return values
    values |= {name: form[name].strip() for name in ("timezone", "address") if name in form}
    if not values.get("timezone"):
        values["timezone"] = "UTC"
    for name in NUMBERS:
        text = form.get(name, "").strip().replace(",", ".")
        try:
            values[name] = float(text) if text else None
        except ValueError:
            raise Invalid(f"{name}: must be degrees, such as 52.52") from None
    return values

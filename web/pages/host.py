"""One host: what it is, what is wanted of it and why it is not so, its hardware, its story; and what a person can do about it."""

import asyncio
import re
from typing import Any

from quart import Blueprint, Response, request

from inventory import overview
from inventory.access import Action
from inventory.errors import Conflict, Forbidden, Invalid, NotFound, PreconditionFailed
from inventory.facts import missing_commands
from inventory.kind import NAME
from inventory.kinds.component import TYPES
from inventory.resource import Resource
from inventory.store import ListQuery
from web.identity import current_actor, view
from web.pages import copies
from web.pages.frame import done, page, person
from web.pages.labels import read_labels, written_labels
from web.pages.listing import quoted
from web.pages.narration import newest
from web.pages.reasons import reasons
from web.services import services

blueprint = Blueprint("host", __name__)

TABS = ("summary", "hardware", "activity", "commands", "raw")
MOST_COMPONENTS = 1000
MOST_CONFIGS = 200
STORY = 50

REFUSALS = (Invalid, Conflict, Forbidden, PreconditionFailed)
"""What a person can put right, shown where they asked."""


async def load(kind: str, ref: str) -> Resource:
    """Raises NotFound, also for what can be no id and no name."""
    if not re.fullmatch(NAME, ref):
        raise NotFound(f"there is no {kind} {ref[:64]!r}")
    return await view().get(kind, ref)


@blueprint.get("/hosts/<ref>")
async def show(ref: str) -> Response:
    await person()
    return await _page(await load("host", ref))


async def _page(host: Resource, *, status: int = 200, **more: Any) -> Response:
    tab = request.args.get("tab", "summary")
    tab = tab if tab in TABS else "summary"
    shared = {"host": host, "tab": tab, "tabs": TABS, "refusal": "", "typed": {}} | more
    sites = (await view().list("site", ListQuery(order_by="name", page_size=500))).items
    data = await _TABS[tab](host)
    return await page(
        "host.html",
        str(host["title"] or host["name"]),
        status=status,
        sites={site["id"]: site for site in sites},
        labels_text=written_labels(host["labels"]),
        **(shared | data),
    )


async def _summary(host: Resource) -> dict[str, Any]:
    here = services()
    mine = f"host = {quoted(host['id'])}"
    placed, why, (lines, _), components = await asyncio.gather(
        view().list("host-config", ListQuery(mine, "created_at", MOST_CONFIGS)),
        reasons("host", host),
        _story(host, 8, None),
        overview.count_by(view(), "component", f"{mine} AND present = true", "type", here.store.clock()),
    )
    unsettled = [each for each in placed.items if (each["status"] or {}).get("indicator") != "idle"]
    causes = await asyncio.gather(*(reasons("host-config", each) for each in unsettled[:20]))
    missing, missing_since = missing_commands((host.get("facts") or {}).get("agent"))
    return {
        "placed": placed.items,
        "configs": await view().read_many("config", {each["config"] for each in placed.items}),
        "why": why,
        "halted": sum(bool((each["status"] or {}).get("halted")) for each in placed.items),
        "why_not": {each["id"]: cause for each, cause in zip(unsettled, causes, strict=False)},
        "lines": lines,
        "components": dict(components),
        "missing": missing,
        "missing_since": missing_since,
    }


async def _hardware(host: Resource) -> dict[str, Any]:
    found = await view().list("component", ListQuery(f"host = {quoted(host['id'])}", "type, key", MOST_COMPONENTS))
    by_type = {type_: [each for each in found.items if each["type"] == type_] for type_ in TYPES}
    order = sorted(by_type, key=lambda type_: (type_ in ("pci", "usb"), TYPES.index(type_)))
    return {"by_type": {type_: by_type[type_] for type_ in order if by_type[type_]}, "total": len(found.items)}


async def _activity(host: Resource) -> dict[str, Any]:
    before = request.args.get("before", "")
    lines, older = await _story(host, STORY, int(before) if before.isdigit() else None)
    return {"lines": lines, "older": older}


async def _commands(host: Resource) -> dict[str, Any]:
    found = await view().list("command", ListQuery(f"host = {quoted(host['id'])}", "created_at desc", 100))
    return {"commands": found.items}


async def _raw(host: Resource) -> dict[str, Any]:
    return {"copies": copies.of(host, request.host_url.rstrip("/")), "facts": host.get("facts") or {}}


_TABS = {"summary": _summary, "hardware": _hardware, "activity": _activity, "commands": _commands, "raw": _raw}


async def _story(host: Resource, limit: int, before: int | None) -> Any:
    ids = await overview.things_of_host(view(), host["id"])
    return await newest(limit, ids=ids, before=before)


# --- what a person does ---------------------------------------------------------------------------------------------------------------


@blueprint.post("/hosts/<ref>")
async def act(ref: str) -> Response:
    """One of the buttons. What can't be done is said on the page itself, with what was typed."""
    await person(Action.WRITE)
    form, host = await request.form, await load("host", ref)
    try:
        return await _do(host, str(form.get("do", "")), {name: str(value) for name, value in form.items()})
    except REFUSALS as error:
        return await _page(host, status=error.status, refusal=error.detail, typed=dict(form))


async def _do(host: Resource, what: str, form: dict[str, str]) -> Response:
    store, actor, here = services().store, current_actor(), f"/hosts/{host['id']}"
    match what:
        case "approve":
            await store.patch("host", host["id"], {"desired_state": "onboarded"}, actor)
            return done(here, "approved")
        case "distrust":
            await store.patch("host", host["id"], {"desired_state": "untrusted"}, actor)
            return done(here, "refused")
        case "move":
            await store.patch("host", host["id"], {"site": form.get("site") or None}, actor)
            return done(here, "moved")
        case "label":
            wanted = read_labels(form.get("labels", ""))
            gone = {key: None for key in host["labels"] if key not in wanted}
            await store.patch("host", host["id"], {"labels": {**gone, **wanted}, "title": form.get("title", "").strip()}, actor)
            return done(here, "labelled")
        case "retry":
            kind, id = ("host-config", form["id"]) if form.get("id") else ("host", host["id"])
            await store.retry(kind, id, actor)
            return done(here, "retried")
        case "delete":
            if form.get("confirm", "").strip() != host["name"]:
                raise Invalid(f"type the host's name, {host['name']}, to delete it")
            await store.delete("host", host["id"], actor)
            return done("/hosts", "deleting")
    raise Invalid("there is no such button; reload the page")

"""Configs: the list, one with the hosts it is on, and the form that makes and edits them, which shows the difference before it saves."""

import asyncio
from typing import Any

from quart import Blueprint, Response, render_template, request

from inventory import overview
from inventory.access import Action
from inventory.errors import Conflict, Forbidden, Invalid, InventoryError, PreconditionFailed, Problem
from inventory.kinds.config import CONFIG
from inventory.resource import Resource
from inventory.store import ListQuery
from web.identity import current_actor, view
from web.pages import config_form, copies
from web.pages.config_form import Inputs
from web.pages.differences import compare
from web.pages.frame import done, fields, page, person
from web.pages.host import REFUSALS, load
from web.pages.labels import read_labels
from web.pages.listing import SIZES, asked, listed, quoted
from web.pages.narration import newest
from web.pages.reasons import reasons
from web.pages.selection import Moved, moved, select
from web.services import services

blueprint = Blueprint("configs", __name__)

PLACED_SHOWN = 100
STORY = 12


@blueprint.get("/configs")
async def show_all() -> Response:
    await person()
    found = await listed(CONFIG, asked("name"))
    work = await overview.work_of_configs(view(), [each["id"] for each in found.page.items])
    return await page("configs.html", "Configs", listed=found, work=work, sizes=SIZES)


@blueprint.get("/configs/preview")
async def preview() -> Response:
    """The hosts of a selector, as a fragment beside its input."""
    await person()
    text = await render_template("selection.html", selection=await select(request.args.get("selector", "").strip()))
    return Response(text, content_type="text/html; charset=utf-8")


@blueprint.get("/configs/<ref>")
async def show(ref: str) -> Response:
    await person()
    return await _page(await load("config", ref))


async def _page(config: Resource, *, status: int = 200, refusal: str = "") -> Response:
    mine = f"config = {quoted(config['id'])}"
    work, placed, (lines, _) = await asyncio.gather(
        overview.work_of_configs(view(), [config["id"]]),
        view().list("host-config", ListQuery(mine, "status.halted desc, status.indicator, updated_at desc", PLACED_SHOWN)),
        newest(STORY, ids=[config["id"]]),
    )
    unsettled = [each for each in placed.items if (each["status"] or {}).get("indicator") != "idle"][:20]
    causes = await asyncio.gather(*(reasons("host-config", each) for each in unsettled))
    return await page(
        "config.html",
        str(config["title"] or config["name"]),
        status=status,
        config=config,
        work=work.get(config["id"], {"hosts": 0, "settled": 0, "halted": 0, "failing": 0}),
        placed=placed.items,
        why_not={each["id"]: cause for each, cause in zip(unsettled, causes, strict=True)},
        hosts=await view().read_many("host", {each["host"] for each in placed.items}),
        lines=lines,
        copies=copies.of(config, request.host_url.rstrip("/")),
        refusal=refusal,
        more=bool(placed.next_page_token),
    )


@blueprint.post("/configs/<ref>")
async def act(ref: str) -> Response:
    await person(Action.WRITE)
    form, config = await request.form, await load("config", ref)
    store, actor = services().store, current_actor()
    try:
        match form.get("do"):
            case "retry":
                await store.retry("config", config["id"], actor)
                return done(f"/configs/{config['id']}", "retried")
            case "delete":
                return await _delete(config, str(form.get("confirm", "")).strip())
        raise Invalid("there is no such button; reload the page")
    except REFUSALS as error:
        return await _page(config, status=error.status, refusal=error.detail)


async def _delete(config: Resource, typed: str) -> Response:
    """Whoever deletes says of how many hosts: the number that the page shows must still be right."""
    here = services()
    work = await overview.work_of_configs(view(), [config["id"]])
    hosts = work[config["id"]]["hosts"] if config["id"] in work else 0
    if typed != str(hosts):
        raise Invalid(f"it is on {hosts} hosts by now: type {hosts} to delete it from them")
    left = await here.store.delete("config", config["id"], current_actor())
    return done("/configs", "deleted" if left is None else "deleting")


# --- the form -------------------------------------------------------------------------------------------------------------------------


@blueprint.get("/configs/new")
async def new() -> Response:
    await person(Action.WRITE)
    return await _form(None, Inputs(selector=request.args.get("selector", "")))


@blueprint.get("/configs/<ref>/edit")
async def edit(ref: str) -> Response:
    await person(Action.WRITE)
    config = await load("config", ref)
    return await _form(config, config_form.of(config))


@blueprint.post("/configs/new")
async def submit_new() -> Response:
    await person(Action.WRITE)
    return await _submitted(None)


@blueprint.post("/configs/<ref>/edit")
async def submit_edit(ref: str) -> Response:
    await person(Action.WRITE)
    return await _submitted(await load("config", ref))


async def _submitted(before: Resource | None) -> Response:
    form = await fields()
    inputs, what = config_form.read(form), form.get("do", "review")
    if what == "add-file":
        return await _form(before, config_form.with_file(inputs))
    if what == "add-secret":
        return await _form(before, config_form.with_secret(inputs))
    if what.startswith("drop-secret-") and what[12:].isdigit():
        return await _form(before, config_form.without_secret(inputs, int(what[12:])))
    if what.startswith("drop-file-") and what[10:].isdigit():
        return await _form(before, config_form.without_file(inputs, int(what[10:])))
    if what == "back":
        return await _form(before, inputs)
    try:
        wanted = _wanted(inputs, before)
        made = await _write(wanted, before, inputs, dry_run=what != "save")
    except (Invalid, Forbidden, Conflict, PreconditionFailed) as error:
        return await _form(before, inputs, status=error.status, error=error)
    except InventoryError as error:
        # A selector that can't be understood is a bad request to the inventory; here it is one input among others.
        if error.status != 400:
            raise
        placed = Invalid(error.detail, errors=(Problem("/selector", error.detail),))
        return await _form(before, inputs, status=422, error=placed)
    if what == "save":
        return done(f"/configs/{made['id']}", "saved" if before else "created")
    return await _review(before, inputs, made)


def _wanted(inputs: Inputs, before: Resource | None) -> dict[str, Any]:
    """Raises Invalid with all that can't be read, each with its pointer."""
    labels: dict[str, str] = {}
    unreadable: list[Problem] = []
    try:
        labels = read_labels(inputs.labels)
    except Invalid as error:
        unreadable += error.errors
    wanted, problems = config_form.body(inputs, labels, before)
    unreadable += problems
    if unreadable:
        raise Invalid("; ".join(f"{each.pointer[1:]}: {each.detail}" for each in unreadable), errors=tuple(unreadable))
    return wanted


async def _write(wanted: dict[str, Any], before: Resource | None, inputs: Inputs, *, dry_run: bool) -> Resource:
    store, actor = services().store, current_actor()
    if before is None:
        return await store.create("config", wanted, actor, dry_run=dry_run)
    gone = {key: None for key in before["labels"] if key not in wanted["labels"]}
    patch = wanted | {"labels": {**gone, **wanted["labels"]}}
    version = int(inputs.version) if inputs.version.isdigit() else None
    return await store.patch("config", before["id"], patch, actor, if_match=version, dry_run=dry_run)


async def _review(before: Resource | None, inputs: Inputs, made: Resource) -> Response:
    shift = Moved((await select(made["selector"])).total, 0, ())
    if before is not None:
        shift = await moved(before["selector"], made["selector"])
    work = await overview.work_of_configs(view(), [before["id"]]) if before is not None else {}
    return await page(
        "config_review.html",
        f"Review {made['name']}",
        config=before,
        made=made,
        inputs=inputs,
        difference=compare(before or {}, made),
        moved=shift,
        selection=await select(made["selector"]),
        hosts=work[before["id"]]["hosts"] if before is not None and before["id"] in work else 0,
    )


async def _form(before: Resource | None, inputs: Inputs, *, status: int = 200, error: InventoryError | None = None) -> Response:
    problems = config_form.placed(error.errors, inputs) if error is not None else {}
    return await page(
        "config_form.html",
        f"Edit {before['title'] or before['name']}" if before else "New config",
        status=status,
        config=before,
        inputs=inputs,
        problems=problems,
        stale=isinstance(error, PreconditionFailed),
        current=before,
        refusal=error.detail if error is not None and (not problems or "" in problems) else "",
        selection=await select(inputs.selector.strip()),
    )

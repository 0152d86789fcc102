"""Enrolling: make a token, copy one command, see the device come in; who waits, with what they say of themselves; who is expected."""

import asyncio
import shlex
from datetime import timedelta
from typing import Any

from quart import Blueprint, Response, request

from inventory import overview, preregistration, tokens
from inventory.access import Action
from inventory.errors import Conflict, Invalid
from inventory.resource import Resource, time_text
from inventory.store import ListQuery
from web.delivery.routes import here as this_server
from web.delivery.wheels import NotPackable
from web.identity import current_actor, view
from web.pages.frame import done, fields, page, person
from web.pages.host import REFUSALS, load
from web.pages.labels import read_labels
from web.services import services

blueprint = Blueprint("enroll_page", __name__)

LIFETIMES = {"15 minutes": timedelta(minutes=15), "1 day": timedelta(days=1), "7 days": timedelta(days=7)}
MOST_USES = 1_000_000
SHOWN = 50
"""Of those who wait, and of those who are expected."""


@blueprint.get("/enroll")
@blueprint.get("/enroll/expected")
@blueprint.get("/enroll/waiting/<ref>")
async def show(ref: str = "") -> Response:
    """Also under the addresses of its forms, which show it with what they have to say: there it is read again when something changes."""
    await person()
    return await _page()


@blueprint.post("/enroll")
async def create() -> Response:
    """The token is shown in this answer and never again."""
    await person(Action.WRITE)
    form = await fields()
    here, secret = services(), tokens.random_secret()
    try:
        made = await here.store.create("enrollment-token", _body(form), current_actor(), extra={"token_hash": tokens.stored_hash(secret)})
    except REFUSALS as error:
        return await _page(status=error.status, refusal=error.detail, typed=form)
    return await _page(status=201, made=made, commands=commands(secret), typed=form)


def commands(secret: str) -> list[tuple[str, str, str]]:
    """What to run on a device, as root: where it is for, what to copy, a hint. Over HTTPS the server's key is pinned in it, and the CA by
    the script that comes, because no device knows either yet."""
    server, here, curl = this_server(), services(), "curl -fsSL"
    pinned = here.settings.tls and here.authority is not None
    if pinned and here.authority is not None:
        curl += f"k --pinnedpubkey {shlex.quote(here.authority.web_pin)}"
    script = f"{curl} {server.url}/install.sh | "
    ca = f" --ca-fingerprint {server.ca_fingerprint}" if pinned else ""
    agent = "/opt/fleetward-agent/bin/fleetward-agent run"
    return [
        ("Linux with systemd", f"{script}sudo sh -s -- --token {secret}", "says what it will do, installs the agent from here, starts it"),
        (
            "Linux without systemd, containers",
            f"{script}sh -s -- --token {secret} --no-service && {agent}",
            "as root; the agent stays in the foreground",
        ),
        (
            "The agent is there already",
            f"fleetward-agent enroll --server {server.url} --token {secret}{ca} && fleetward-agent run",
            "as root",
        ),
    ]


def _body(form: dict[str, str]) -> dict[str, object]:
    uses = form.get("uses", "1").strip()
    if not uses.isdigit() or not 1 <= int(uses) <= MOST_USES:
        raise Invalid(f"uses: must be a whole number from 1 to {MOST_USES}")
    lifetime = LIFETIMES.get(form.get("lifetime", ""), LIFETIMES["15 minutes"])
    body: dict[str, object] = {
        "uses": int(uses),
        "approve": form.get("approve") == "yes",
        "expires_at": time_text(services().store.clock() + lifetime),
        "given_labels": read_labels(form.get("labels", "")),
    }
    return {**body, "site": form["site"]} if form.get("site") else body


# --- the waiting room -----------------------------------------------------------------------------------------------------------------


@blueprint.post("/enroll/waiting/<ref>")
async def decide(ref: str) -> Response:
    """Let in, refuse or forget one that waits."""
    await person(Action.WRITE)
    form = await request.form
    try:
        return await _decide(await load("host", ref), str(form.get("do", "")), str(form.get("replaces", "")))
    except REFUSALS as error:
        return await _page(status=error.status, refusal=error.detail)


async def _decide(host: Resource, what: str, seen: str) -> Response:
    """`seen`: the host that it was shown to replace."""
    store, actor = services().store, current_actor()
    if not (host["enrollment"] or {}).get("waiting"):
        raise Conflict(f"{host['name']} waits no more")
    if what in ("approve", "approve-as-new") and seen != (host["replaces"] or ""):
        raise Conflict(f"what {host['name']} replaces has changed since you looked: look again")
    match what:
        case "approve":
            await store.patch("host", host["id"], {"desired_state": "onboarded"}, actor)
            return done("/enroll", "let-in")
        case "approve-as-new":
            await store.patch("host", host["id"], {"desired_state": "onboarded", "replaces": None}, actor)
            return done("/enroll", "let-in")
        case "reject":
            await store.patch("host", host["id"], {"desired_state": "untrusted"}, actor)
            return done("/enroll", "turned-away")
        case "forget":
            await store.delete("host", host["id"], actor)
            return done("/enroll", "deleting")
    raise Invalid("there is no such button; reload the page")


# --- machines that are to come ----------------------------------------------------------------------------------------------------------


@blueprint.post("/enroll/expected")
async def expect() -> Response:
    """A sheet, as a file or as text. What is wrong with it is said with its lines, and it is shown again as it was."""
    await person(Action.WRITE)
    text = ""
    try:
        text = await _sheet()
        registered = await preregistration.write(services().store, preregistration.read(text), current_actor())
    except REFUSALS as error:
        return await _page(status=error.status, sheet=text, sheet_refusal=error.detail)
    return await _page(status=201, registered=registered.body())


async def _sheet() -> str:
    """Raises Invalid."""
    files, form = await request.files, await request.form
    file = files.get("file")
    raw = file.read() if file is not None else b""
    try:
        return raw.decode() if raw else str(form.get("sheet", ""))
    except UnicodeDecodeError:
        raise Invalid("the file is not UTF-8: save it as CSV UTF-8") from None


async def _page(*, status: int = 200, **more: object) -> Response:
    sites, standing, waiting, expected = await asyncio.gather(
        view().list("site", ListQuery(order_by="name", page_size=500)),
        view().list("enrollment-token", ListQuery(order_by="created_at desc", page_size=25)),
        overview.waiting_ids(view(), SHOWN),
        overview.expected_ids(view(), SHOWN),
    )
    hosts = await view().read_many("host", [*waiting, *expected])
    replaced = await view().read_many("host", {each["replaces"] for each in hosts.values() if each["replaces"]})
    shown: dict[str, Any] = {
        "sites": sites.items,
        "tokens": standing.items,
        "waiting": [hosts[id] for id in waiting if id in hosts],
        "expected": [hosts[id] for id in expected if id in hosts],
        "replaced": replaced,
        "lifetimes": list(LIFETIMES),
        "columns": preregistration.COLUMNS,
        "platforms": _platforms(),
        "only_here": this_server().url.split("//")[1].rsplit(":", 1)[0] in ("localhost", "127.0.0.1", "[::1]"),
    }
    empty: dict[str, Any] = {"made": None, "commands": [], "registered": None, "sheet": "", "sheet_refusal": "", "refusal": "", "typed": {}}
    return await page("enroll.html", "Enroll a device", status=status, **(shown | empty | more))


def _platforms() -> list[str]:
    """What the agent that is handed out here runs on; nothing where none can be."""
    try:
        return services().shelf.platforms()
    except NotPackable:
        return []

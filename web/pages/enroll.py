"""Enrolling: make a token, copy one command, and see the device come in."""

from datetime import timedelta

from quart import Blueprint, Response, request

from inventory import tokens
from inventory.access import Action
from inventory.errors import Invalid
from inventory.resource import time_text
from inventory.store import ListQuery
from web.identity import current_actor
from web.pages.frame import page, person
from web.pages.host import REFUSALS
from web.pages.labels import read_labels
from web.services import services

blueprint = Blueprint("enroll_page", __name__)

LIFETIMES = {"15 minutes": timedelta(minutes=15), "1 day": timedelta(days=1), "7 days": timedelta(days=7)}
MOST_USES = 1_000_000


@blueprint.get("/enroll")
async def show() -> Response:
    await person()
    return await _page()


@blueprint.post("/enroll")
async def create() -> Response:
    """The token is shown in this answer and never again."""
    await person(Action.WRITE)
    form = {name: str(value) for name, value in (await request.form).items()}
    here, secret = services(), tokens.random_secret()
    try:
        made = await here.store.create("enrollment-token", _body(form), current_actor(), extra={"token_hash": tokens.stored_hash(secret)})
    except REFUSALS as error:
        return await _page(status=error.status, refusal=error.detail, typed=form)
    return await _page(status=201, made=made, command=command(secret), typed=form)


def command(secret: str) -> str:
    """What to run on the device, as root. Over HTTPS it pins this installation's CA, which no device knows yet."""
    here, pin = services(), ""
    if here.settings.tls and here.authority is not None:
        pin = " --ca-fingerprint " + here.authority.ca_fingerprint
    return f"fleetward-agent enroll --server {request.host_url.rstrip('/')} --token {secret}{pin} && fleetward-agent run"


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


async def _page(*, status: int = 200, **more: object) -> Response:
    store = services().store
    sites = (await store.list("site", ListQuery(order_by="name", page_size=500))).items
    standing = (await store.list("enrollment-token", ListQuery(order_by="created_at desc", page_size=25))).items
    waiting = (await store.list("host", ListQuery('desired_state = "registered"', "created_at desc", 25))).items
    shown: dict[str, object] = {
        "sites": sites,
        "tokens": standing,
        "waiting": waiting,
        "lifetimes": list(LIFETIMES),
        "refusal": "",
        "typed": {},
    }
    return await page("enroll.html", "Enroll a device", status=status, **(shown | {"made": None, "command": ""} | more))

"""One's own account: password, second factor, the browsers that are signed in. Does what `web.api.account` does, as pages."""

from typing import Any

import segno
from quart import Blueprint, Response, request

from inventory import second_factor, sessions
from inventory.errors import InventoryError, NotFound, TooManyRequests, Unavailable
from web import proving
from web.api import account as api
from web.api.writing import written
from web.identity import Identity, current_actor, require_person
from web.pages.access import open_sessions
from web.pages.frame import bare, done, page
from web.pages.host import REFUSALS
from web.services import services
from web.signin import CHANGE_PASSWORD, local_path, set_session_cookie

blueprint = Blueprint("account_page", __name__)

MODULE_PX = 4
"""CSS pixels of a dark square in the QR code."""


@blueprint.get(CHANGE_PASSWORD)
async def password_form() -> Response:
    identity = await require_person(one_time=True)
    return await _password_page(identity)


@blueprint.post(CHANGE_PASSWORD)
async def change_password() -> Response:
    """Also the first thing that somebody with a one-time password does, so it stands outside the frame."""
    identity = await require_person(one_time=True)
    form = await request.form
    if form.get("new_password", "") != form.get("repeated", ""):
        return await _password_page(identity, "The two new passwords are not the same.", status=422)
    try:
        opened = await api.set_password(identity, form.get("current_password", ""), form.get("new_password", ""))
    except InventoryError as error:
        return await _password_page(identity, _said(error), status=error.status)
    wanted = local_path(str(form.get("next") or "/account"))
    response = Response(status=303, headers={"Location": wanted}) if "?" in wanted else done(wanted, "password")
    assert opened is not None, "it was not only asked"
    set_session_cookie(response, opened)
    return response


def _said(error: InventoryError) -> str:
    """In the words of the form."""
    words = error.detail.replace("new_password: ", "The new password ").replace("current_password: ", "The password now ")
    return words[:1].upper() + words[1:] + "."


async def _password_page(identity: Identity, refusal: str = "", status: int = 200) -> Response:
    wanted = local_path(str((await request.form).get("next") or request.args.get("next") or "/account"))
    return await bare("password.html", "Change your password", status=status, identity=identity, refusal=refusal, next=wanted)


@blueprint.get("/account")
async def show() -> Response:
    return await _page(await require_person())


async def _page(identity: Identity, *, status: int = 200, **more: Any) -> Response:
    shown: dict[str, Any] = {
        "account": await api.own(identity),
        "sessions": await open_sessions(identity.account.id, identity.session),
        "codes": [],
        "secret": "",
        "qr": "",
        "refusal": "",
    }
    return await page("account.html", "Your account", status=status, **(shown | more))


@blueprint.post("/account/second-factor")
async def change_second_factor() -> Response:
    """One of the buttons. What is shown once is in the answer to it."""
    identity = await require_person()
    form = await request.form
    try:
        return await _second_factor(identity, str(form.get("do", "")), form.get("password", ""), form.get("code", ""))
    except (*REFUSALS, TooManyRequests, Unavailable) as error:
        secret = await _unconfirmed(identity) if form.get("do") == "confirm" else b""
        return await _page(identity, status=error.status, refusal=error.detail, **(_enrolling(secret, identity) if secret else {}))


async def _second_factor(identity: Identity, what: str, password: str, code: str) -> Response:
    if what == "confirm":
        return await _page(identity, codes=await api.confirm(identity, code))
    await proving.again(identity.account, password, "/password")
    match what:
        case "begin":
            return await _page(identity, **_enrolling(await api.begin(identity), identity))
        case "remove":
            actor, now = current_actor(), services().store.clock()
            await written(lambda tx: second_factor.remove(tx, actor, identity.account.id, now))
            return done("/account", "second-factor-removed")
        case "codes":
            return await _page(identity, codes=await api.renewed(identity))
    raise NotFound(f"there is nothing to do called {what[:64]!r}")


async def _unconfirmed(identity: Identity) -> bytes:
    """The secret that is on the screen, to be shown once more after a wrong first code."""
    async with services().db.transaction() as tx:
        return await second_factor.unconfirmed(tx, proving.sealing_key(), identity.account.id)


def _enrolling(secret: bytes, identity: Identity) -> dict[str, Any]:
    """The QR code as an image within the page: the content security policy takes those, and no styles."""
    code = segno.make(second_factor.key_uri(secret, identity.name), error="m")
    picture = code.svg_data_uri(scale=MODULE_PX, border=4, dark="#000", light="#fff", omitsize=False)
    text = second_factor.base32(secret)
    return {"qr": picture, "secret": " ".join(text[start : start + 4] for start in range(0, len(text), 4))}


@blueprint.post("/account/sessions")
async def end_sessions() -> Response:
    """The one of the form's `id`, or all others."""
    identity = await require_person()
    form, actor, now = await request.form, current_actor(), services().store.clock()
    whose, id = identity.account.id, str(form.get("id", ""))
    if id:
        await written(lambda tx: sessions.end_one(tx, actor, id, now, of=whose))
    else:
        await written(lambda tx: sessions.end_all(tx, actor, whose, now, but=identity.session or ""))
    return done("/account", "signed-out")

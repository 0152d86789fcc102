"""The sign-in page. `web.signin` takes what it posts and sends people back here where name or password is wrong."""

from typing import Any

from quart import Blueprint, Response, redirect, request
from quart.typing import ResponseReturnValue

from web.identity import identify
from web.pages.frame import bare
from web.problems import Unauthenticated
from web.services import services
from web.signin import local_path

blueprint = Blueprint("entry", __name__)

WHY = {
    "wrong": "The name or the password is wrong.",
    "code": "The code is wrong, or was used before.",
    "throttled": "Too many failed sign-ins from here. Wait a minute, then try again.",
    "ended": "This one-time password was not used in time. Ask an administrator for another one.",
    "late": "Too much time has gone by. Begin again.",
    "provider": "The identity provider's answer could not be believed. Try again; the server's log says why.",
    "no-role": "The identity provider lets you in, but gives you no role here. Ask an administrator.",
    "away": "The identity provider does not answer.",
}
"""By the word in the URL; texts of the URL itself are never shown."""


@blueprint.get("/login")
async def form() -> ResponseReturnValue:
    wanted = local_path(request.args.get("next", "/"))
    if await _known():
        return redirect(wanted, 303)
    provider = services().provider
    shown: dict[str, Any] = {"code": request.args.get("step") == "code", "provider": None if provider is None else provider.provider.title}
    return await bare("login.html", "Sign in", next=wanted, why=WHY.get(request.args.get("error", "")), **shown)


async def _known() -> bool:
    try:
        return await identify() is not None
    except Unauthenticated:
        return False


@blueprint.get("/favicon.ico")
async def favicon() -> Response:
    return Response(status=301, headers={"Location": "/static/icon.svg", "Cache-Control": "max-age=86400"})

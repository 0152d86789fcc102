"""The sign-in page. `web.signin` takes what it posts and sends people back here where name or password is wrong."""

from quart import Blueprint, Response, redirect, request
from quart.typing import ResponseReturnValue

from web.identity import identify
from web.pages.frame import bare
from web.problems import Unauthenticated
from web.signin import local_path

blueprint = Blueprint("entry", __name__)

WHY = {"wrong": "The name or the password is wrong.", "throttled": "Too many failed sign-ins from here. Wait a minute, then try again."}


@blueprint.get("/login")
async def form() -> ResponseReturnValue:
    wanted = local_path(request.args.get("next", "/"))
    if await _known():
        return redirect(wanted, 303)
    return await bare("login.html", "Sign in", next=wanted, why=WHY.get(request.args.get("error", "")))


async def _known() -> bool:
    try:
        return await identify() is not None
    except Unauthenticated:
        return False


@blueprint.get("/favicon.ico")
async def favicon() -> Response:
    return Response(status=301, headers={"Location": "/static/icon.svg", "Cache-Control": "max-age=86400"})

"""Which people may come in, for administrators: users and sessions. Does what `web.api.users` and `.sessions` do, as pages; programs are
`web.pages.programs`.

What a role holds for, its scope, stands beside the role; a preview says which hosts that is before it is saved.
"""

from typing import Any

from quart import Blueprint, Response, render_template, request

from inventory import passwords, second_factor, sessions, users
from inventory.access import ROLES
from inventory.db import Tx
from inventory.errors import NotFound
from inventory.resource import Resource
from web.api.writing import written
from web.browsers import browser_name
from web.identity import current_actor, require_administrator
from web.pages.frame import done, fields, page, person
from web.pages.host import REFUSALS
from web.pages.selection import select_scope
from web.services import services

blueprint = Blueprint("access_page", __name__, url_prefix="/access")
blueprint.before_request(require_administrator)

HERE = "/access"
MOST_SESSIONS = 1000
"""That are shown, the newest; who has more of them asks the command line."""


@blueprint.get("/preview")
async def preview() -> Response:
    """What a scope would see, as a fragment beside its input."""
    text = await render_template("selection.html", selection=await select_scope(request.args.get("scope", "").strip()))
    return Response(text, content_type="text/html; charset=utf-8")


# --- users ------------------------------------------------------------------------------------------------------------------------


@blueprint.get("")
async def show_users() -> Response:
    return await _users()


async def _users(*, status: int = 200, **more: Any) -> Response:
    found = await users.list_all(services().db)
    shown: dict[str, Any] = {"users": found, "roles": ROLES, "made": None, "refusal": "", "typed": {}, "tab": "users"}
    return await page("access_users.html", "Access", status=status, **(shown | more))


@blueprint.post("")
async def create_user() -> Response:
    """The one-time password is shown in this answer and never again."""
    form, actor, now = await fields(), current_actor(), services().store.clock()
    secret = passwords.random_password()
    hashed = await passwords.hashed(secret)
    body = {name: form.get(name, "").strip() for name in ("name", "title", "scope")} | {"role": form.get("role", "viewer")}
    try:
        made = await written(lambda tx: users.create(tx, actor, body, hashed, now))
    except REFUSALS as error:
        return await _users(status=error.status, refusal=error.detail, typed=form)
    return await _users(status=201, made=made | {"password": secret})


@blueprint.get("/users/<ref>")
async def show_user(ref: str) -> Response:
    return await _user(ref)


async def _user(ref: str, *, status: int = 200, **more: Any) -> Response:
    here = services()
    user = await users.get(here.db, ref)
    shown: dict[str, Any] = {"user": user, "roles": ROLES, "sessions": await open_sessions(user["id"], None), "password": "", "refusal": ""}
    return await page("access_user.html", user["title"] or user["name"], status=status, **(shown | more))


@blueprint.post("/users/<ref>")
async def change_user(ref: str) -> Response:
    """One of the buttons."""
    form = await fields()
    try:
        if form.get("do") == "reset-password":
            return await _reset_password(ref)
        return await _change(ref, form.get("do", ""), form)
    except REFUSALS as error:
        return await _user(ref, status=error.status, refusal=error.detail)


async def _reset_password(ref: str) -> Response:
    actor, now, secret = current_actor(), services().store.clock(), passwords.random_password()
    hashed = await passwords.hashed(secret)
    await written(lambda tx: users.reset_password(tx, actor, ref, hashed, now))
    return await _user(ref, password=secret)


async def _change(ref: str, what: str, form: dict[str, str]) -> Response:
    actor, now, here = current_actor(), services().store.clock(), f"{HERE}/users/{ref}"
    match what:
        case "save":
            patch = {name: form[name] for name in ("role", "scope") if name in form}
            await written(lambda tx: users.change(tx, actor, ref, patch | {"title": form.get("title", "").strip()}, now))
            return done(here, "saved")
        case "disable" | "enable":
            await written(lambda tx: users.change(tx, actor, ref, {"disabled": what == "disable"}, now))
            return done(here, f"{what}d")
        case "reset-second-factor":
            await written(lambda tx: second_factor.remove(tx, actor, ref, now))
            return done(here, "second-factor-removed")
        case "sign-out":
            await written(lambda tx: _sign_out(tx, ref))
            return done(here, "signed-out")
        case "delete":
            await written(lambda tx: users.delete(tx, actor, ref, now))
            return done(HERE, "deleted")
    raise NotFound(f"there is nothing to do called {what[:64]!r}")


async def _sign_out(tx: Tx, ref: str) -> int:
    return await sessions.end_all(tx, current_actor(), (await users.locked(tx, ref)).id, services().store.clock())


# --- sessions ---------------------------------------------------------------------------------------------------------------------


@blueprint.get("/sessions")
async def show_sessions() -> Response:
    identity = await person()
    return await page(
        "access_sessions.html", "Access", tab="sessions", sessions=await open_sessions(None, identity.session), most=MOST_SESSIONS
    )


@blueprint.post("/sessions")
async def end_session() -> Response:
    """The one of the form's `id`; back to its `user`, where it was ended from there."""
    form, actor, now = await fields(), current_actor(), services().store.clock()
    await written(lambda tx: sessions.end_one(tx, actor, form.get("id", ""), now))
    user = form.get("user", "")
    return done(f"{HERE}/users/{user}" if user.startswith("user-") else f"{HERE}/sessions", "signed-out")


async def open_sessions(user: str | None, current: str | None) -> list[Resource]:
    """Of one user, by id, or of all: the newest, the one used last first."""
    here = services()
    found = await sessions.list_sessions(here.db, user, here.store.clock(), here.settings.session_idle, limit=MOST_SESSIONS)
    told = [each | {"browser": browser_name(each["agent"]), "current": each["id"] == current} for each in found]
    return sorted(told, key=lambda each: each["seen_at"], reverse=True)

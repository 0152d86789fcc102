"""Signing in and out: `POST /login` with `username` and `password`, as a form or as JSON, and `POST /logout`.

Where the user has a second factor, a program sends its `code` along; a browser is asked for it in a second step, in which only the code is
sent, with a cookie that stands for the first. It makes and ends sessions; the page with the form is the pages' (`GET /login`), and the
identity provider's way in is `web.provider_sign_in`. Browsers are sent on (303), to `next` where it is a path of this site; everybody else
gets JSON. A sign-in that another site's page sent is refused by its `Sec-Fetch-Site` or `Origin`, since there is no session yet whose CSRF
token could tell.

Source: contract.md section 5; OWASP Authentication and Session Management Cheat Sheets; Fetch Metadata (W3C).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from quart import Blueprint, Response, request
from quart.typing import ResponseReturnValue

from inventory import sessions, users
from inventory.access import Action
from inventory.accounts import Account
from inventory.errors import Forbidden, Invalid, InventoryError, Problem, TooManyRequests
from inventory.passwords import LONGEST
from inventory.sessions import Browser, Opened
from web import json, proving
from web.bodies import read_object
from web.identity import begun_cookie_name, cookie_name, current_actor, identify, remote_address, require
from web.problems import Unauthenticated
from web.services import services

blueprint = Blueprint("signin", __name__)

CHANGE_PASSWORD = "/password"
"""The page to which somebody with a one-time password is sent."""


@dataclass(frozen=True, slots=True)
class Proven:
    """Who signs in and by what, as `sessions.open_session` has it. one_time: the password has to be changed first. since: when it became
    theirs; None where the identity provider vouches for them."""

    account: Account
    how: str
    one_time: bool = False
    since: datetime | None = None


@blueprint.post("/login")
async def login() -> ResponseReturnValue:
    _refuse_foreign()
    given = await _given()
    second = "code" in given and "username" not in given
    try:
        proven = await (_second_step(given) if second else _first_step(given))
    except proving.CodeNeeded as needed:
        if not wants_page():
            raise
        return await _ask_for_code(needed.account, given)
    except (Unauthenticated, TooManyRequests, Forbidden) as error:
        if not wants_page():
            raise
        return _back_to_form(error, given, second)
    return await welcome(proven, str(given.get("next", "")))


@blueprint.post("/logout")
async def logout() -> ResponseReturnValue:
    """Ends the session. Somebody who has none is as signed out as they asked to be."""
    if await identify() is not None:
        await require(Action.READ, one_time=True)
        cookie = request.cookies.get(cookie_name())
        if cookie:
            await sessions.close(services().db, current_actor(), cookie, datetime.now(UTC))
    response = Response(status=303, headers={"Location": "/login"}) if wants_page() else Response(status=204)
    response.delete_cookie(cookie_name(), path="/", secure=services().settings.tls, httponly=True, samesite="Lax")
    return response


async def _first_step(given: dict[str, Any]) -> Proven:
    """Raises CodeNeeded."""
    checked = await proving.password(_credential(given, "username"), _credential(given, "password"))
    how = "password"
    if checked.second_factor:
        if "code" not in given:
            raise proving.CodeNeeded(checked.account)
        how = await proving.code(checked.account, _credential(given, "code"))
    return Proven(checked.account, how, checked.one_time, checked.since)


async def _second_step(given: dict[str, Any]) -> Proven:
    here, now, cookie = services(), datetime.now(UTC), request.cookies.get(begun_cookie_name(), "")
    code = _credential(given, "code")
    whose = await sessions.begun(here.db, cookie, now)
    if whose is None:
        raise Unauthenticated("too much time has gone by: begin again with name and password")
    async with here.db.transaction() as tx:
        user = await users.locked(tx, whose)
    account = Account(user.id, user.name, user.role, "user", user.scope)
    how = await proving.code(account, code)
    if not await sessions.finish(here.db, cookie):
        raise Unauthenticated("this sign-in was ended meanwhile: begin again with name and password")
    if user.disabled_at is not None:
        await proving.refused(user.name, "disabled")
        raise Unauthenticated("the name or the password is wrong")
    return Proven(account, how, user.password_expires_at is not None, user.password_changed_at)


async def _ask_for_code(account: Account, given: dict[str, Any]) -> Response:
    secret = await sessions.begin(services().db, account.id, datetime.now(UTC))
    wanted = {"step": "code", "next": local_path(str(given.get("next", "")))}
    response = Response(status=303, headers={"Location": "/login?" + urlencode(wanted)})
    set_begun_cookie(response, secret)
    return response


def _refuse_foreign() -> None:
    """Another site's page must not sign a person in as somebody else. Clients that are no browsers send neither header."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("this sign-in came from another site's page")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise Forbidden("this sign-in came from another site's page")


async def _given() -> dict[str, Any]:
    if request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        return dict(await request.form)
    return await read_object()


def _credential(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value or len(value) > LONGEST or "\0" in value:
        words = "is required" if not value else f"must be text of at most {LONGEST} characters"
        raise Invalid(f"{name}: {words}", errors=(Problem(f"/{name}", words),))
    return value


async def welcome(proven: Proven, wanted: str) -> Response:
    """Open the session, and send a browser on. Raises Forbidden where what was proven holds no longer."""
    account, here, now = proven.account, services(), datetime.now(UTC)
    browser = Browser(remote_address(), request.headers.get("User-Agent", ""), request.cookies.get(cookie_name(), ""))
    longest = here.settings.session_longest
    opened = await sessions.open_session(here.db, account, browser, proven.how, now, longest, since=proven.since)
    proving.signed_in(account)
    if wants_page():
        where = f"{CHANGE_PASSWORD}?" + urlencode({"next": local_path(wanted)}) if proven.one_time else local_path(wanted)
        response = Response(status=303, headers={"Location": where})
    else:
        body = {"name": account.name, "role": account.role, "csrf_token": opened.csrf}
        response = Response(
            json.encode(body | ({"must_change_password": True} if proven.one_time else {})), content_type="application/json"
        )
    set_session_cookie(response, opened)
    response.delete_cookie(begun_cookie_name(), path="/", secure=here.settings.tls, httponly=True, samesite="Lax")
    return response


def set_session_cookie(response: Response, opened: Opened) -> None:
    settings = services().settings
    response.set_cookie(
        cookie_name(), opened.secret, max_age=settings.session_longest, path="/", secure=settings.tls, httponly=True, samesite="Lax"
    )


def set_begun_cookie(response: Response, secret: str) -> None:
    """Lax: the identity provider's redirect has to bring it along."""
    tls = services().settings.tls
    response.set_cookie(begun_cookie_name(), secret, max_age=sessions.BEGUN, path="/", secure=tls, httponly=True, samesite="Lax")


def _back_to_form(error: InventoryError, given: dict[str, Any], second: bool) -> Response:
    """The form again, with why in the URL; the pages give the words."""
    match error:
        case TooManyRequests():
            why = "throttled"
        case Forbidden():
            why = "ended"
        case Unauthenticated() if any(problem.pointer == "/code" for problem in error.errors):
            why = "code"
        case _:
            why = "late" if second else "wrong"
    query = {"error": why, "next": local_path(str(given.get("next", "")))}
    return Response(
        status=303, headers={"Location": "/login?" + urlencode({"step": "code", **query} if second and why != "late" else query)}
    )


def wants_page() -> bool:
    return "text/html" in request.headers.get("Accept", "")


def local_path(wanted: str) -> str:
    """The path to go on to: as wanted where it is one of this site, `/` otherwise (an open redirect serves phishing)."""
    parts = urlsplit(wanted)
    plain = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted and wanted.isprintable()
    return wanted if plain and not parts.scheme and not parts.netloc else "/"

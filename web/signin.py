"""Signing in and out: `POST /login` with `username` and `password`, as a form or as JSON, and `POST /logout`.

It makes and ends sessions; the page with the form is the pages' (`GET /login`). Browsers are sent on (303), to `next` where it is a
path of this site; everybody else gets JSON. A sign-in that another site's page sent is refused by its `Sec-Fetch-Site` or `Origin`,
since there is no session yet whose CSRF token could tell.

Source: contract.md section 5; OWASP Authentication and Session Management Cheat Sheets; Fetch Metadata (W3C).
"""

import logging
import math
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from quart import Blueprint, Response, request
from quart.typing import ResponseReturnValue

from inventory import accounts
from inventory.access import Action
from inventory.accounts import Account, Opened
from inventory.errors import Forbidden, Invalid, Problem, TooManyRequests
from inventory.metrics import METER, SIGN_INS_FAILED
from web import json
from web.bodies import read_object
from web.identity import cookie_name, identify, remote_address, require
from web.problems import Unauthenticated
from web.services import services

log = logging.getLogger(__name__)
blueprint = Blueprint("signin", __name__)

MAX_PASSWORD: int = 1024
"""Characters; argon2 hashes them all, so there is an end."""


@blueprint.post("/login")
async def login() -> ResponseReturnValue:
    _refuse_foreign()
    given = await _given()
    name, password = _credential(given, "username"), _credential(given, "password")
    try:
        account = await _checked(name, password)
    except (Unauthenticated, TooManyRequests) as error:
        if not _wants_page():
            raise
        return _back_to_form(error, given)
    opened = await accounts.open_session(services().db, account, remote_address(), datetime.now(UTC), services().settings.session_longest)
    log.info("signed in", extra={"user": account.name, "address": remote_address()})
    return _welcome(account, opened, str(given.get("next", "")))


@blueprint.post("/logout")
async def logout() -> ResponseReturnValue:
    """Ends the session. Somebody who has none is as signed out as they asked to be."""
    if await identify() is not None:
        await require(Action.READ)
        cookie = request.cookies.get(cookie_name())
        if cookie:
            await accounts.close_session(services().db, cookie)
    response = Response(status=303, headers={"Location": "/login"}) if _wants_page() else Response(status=204)
    response.delete_cookie(cookie_name(), path="/", secure=services().settings.tls, httponly=True, samesite="Lax")
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
    if not isinstance(value, str) or not value or len(value) > MAX_PASSWORD or "\0" in value:
        words = "is required" if not value else f"must be text of at most {MAX_PASSWORD} characters"
        raise Invalid(f"{name}: {words}", errors=(Problem(f"/{name}", words),))
    return value


async def _checked(name: str, password: str) -> Account:
    """Raises TooManyRequests before the password is looked at, Unauthenticated where it or the name is wrong."""
    here, address = services(), remote_address()
    wait = here.throttle.wait(address, name, time.monotonic())
    if wait > 0:
        raise TooManyRequests("too many failed sign-ins; wait a little", retry_after=math.ceil(wait))
    # Counted before the check, so that many at once do not all pass as the first.
    here.throttle.failed(address, name, time.monotonic())
    account = await accounts.check_password(here.db, name, password)
    if account is None:
        here.throttle.told(address, name, time.monotonic())
        METER.count(SIGN_INS_FAILED)
        log.warning("sign-in refused", extra={"user": name[:64], "address": address})
        raise Unauthenticated("the name or the password is wrong")
    here.throttle.succeeded(address, name)
    return account


def _welcome(account: Account, opened: Opened, wanted: str) -> Response:
    if _wants_page():
        response = Response(status=303, headers={"Location": local_path(wanted)})
    else:
        body = {"name": account.name, "role": account.role, "csrf_token": opened.csrf}
        response = Response(json.encode(body), content_type="application/json")
    settings = services().settings
    response.set_cookie(
        cookie_name(), opened.secret, max_age=settings.session_longest, path="/", secure=settings.tls, httponly=True, samesite="Lax"
    )
    return response


def _back_to_form(error: Unauthenticated | TooManyRequests, given: dict[str, Any]) -> Response:
    """The form again, with why in the URL; the pages give the words."""
    why = {"error": "throttled" if isinstance(error, TooManyRequests) else "wrong", "next": local_path(str(given.get("next", "")))}
    return Response(status=303, headers={"Location": "/login?" + urlencode(why)})


def _wants_page() -> bool:
    return "text/html" in request.headers.get("Accept", "")


def local_path(wanted: str) -> str:
    """The path to go on to: as wanted where it is one of this site, `/` otherwise (an open redirect serves phishing)."""
    parts = urlsplit(wanted)
    plain = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted and wanted.isprintable()
    return wanted if plain and not parts.scheme and not parts.netloc else "/"

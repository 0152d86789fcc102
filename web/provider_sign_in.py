"""The way in by an identity provider: `GET /login/provider` sends a browser there, `GET /login/provider/callback` is where it comes back.

What has to be remembered meanwhile (state, nonce, the verifier of PKCE) goes along in a sealed cookie, so that strangers who are sent away
by the thousand leave nothing here. An answer is worth something only in the browser that asked for it, and once: its code is taken once by
the provider, and its nonce is that browser's. For browsers only, and no part of the REST API.
"""

import base64
import binascii
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from quart import Blueprint, Response, request

from inventory import sealing, users
from inventory.accounts import Account
from inventory.errors import Forbidden, NotFound, TooManyRequests, Unavailable
from inventory.sessions import BEGUN
from web import json, proving
from web.identity import begun_cookie_name, remote_address
from web.providers import ProviderClient, Refused, Unwelcome
from web.services import services
from web.signin import Proven, local_path, set_begun_cookie, welcome

log = logging.getLogger(__name__)
PURPOSE = "sign-in by the provider"

blueprint = Blueprint("provider", __name__, url_prefix="/login/provider")


@blueprint.get("")
async def away() -> Response:
    client, wanted = _client(), local_path(request.args.get("next", "/"))
    try:
        sent = await client.begin(client.provider.redirect or request.host_url.rstrip("/") + "/login/provider/callback")
    except Unavailable as error:
        return _back("away", error.detail)
    remembered = {name: value for name, value in asdict(sent).items() if name != "url"}
    response = Response(status=303, headers={"Location": sent.url})
    set_begun_cookie(response, _sealed(remembered | {"next": wanted, "until": (datetime.now(UTC) + BEGUN).timestamp()}))
    return response


def _sealed(remembered: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(sealing.seal(services().key, PURPOSE, "", json.encode(remembered))).decode()


def _remembered(now: datetime) -> dict[str, Any] | None:
    """What this browser was sent away with, unless too much time has gone by."""
    try:
        sealed = base64.urlsafe_b64decode(request.cookies.get(begun_cookie_name(), ""))
        found = json.decode_object(sealing.unseal(services().key, PURPOSE, "", sealed))
    except (binascii.Error, ValueError, sealing.Unsealable):
        return None
    return found if found["until"] > now.timestamp() else None


@blueprint.get("/callback")
async def back() -> Response:
    client, now = _client(), datetime.now(UTC)
    sent = _remembered(now)
    if sent is None:
        return _back("late", "nobody was sent away with that cookie, or too long ago")
    try:
        await proving.patience()
        account = await _account(client, sent, now)
    except TooManyRequests as error:
        return _back("throttled", error.detail)
    except (Refused, Unwelcome) as error:
        return await _refused(error, client.provider.issuer)
    except Unavailable as error:
        return _back("away", error.detail)
    return await welcome(Proven(account, "provider"), str(sent["next"]))


async def _refused(error: Refused | Unwelcome, issuer: str) -> Response:
    why, subject = ("no-role", error.subject) if isinstance(error, Unwelcome) else ("provider", "")
    await proving.refused_elsewhere(why, error.detail, issuer, subject)
    return _to_form(why)


async def _account(client: ProviderClient, sent: dict[str, Any], now: datetime) -> Account:
    known = await client.finish(sent, dict(request.args))
    try:
        async with services().db.transaction() as tx:
            user = await users.from_provider(tx, known, remote_address(), now)
    except Forbidden as error:
        raise Unwelcome(error.detail, known.subject) from error
    return Account(user.id, user.name, user.role, "user", user.scope)


def _client() -> ProviderClient:
    client = services().provider
    if client is None:
        raise NotFound("this installation has no identity provider (docs/people.md)")
    return client


def _back(why: str, detail: str) -> Response:
    """Nobody has tried to sign in, or nobody can be asked: the log has the reason, the audit has nothing."""
    log.warning("sign-in by the provider did not come about", extra={"reason": detail, "address": remote_address()})
    return _to_form(why)


def _to_form(why: str) -> Response:
    """It has words for it."""
    return Response(status=303, headers={"Location": "/login?" + urlencode({"error": why})})

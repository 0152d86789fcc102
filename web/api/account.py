"""One's own account over the API: password, second factor, other sessions. For people with a session; an API token is nobody's account.

What a stolen session must not do asks for the password once more. Verbs are spelt `POST /api/v1/account:VERB`.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field
from quart import Blueprint, Response, request

from inventory import passwords, second_factor, sessions, users
from inventory.actor import Actor
from inventory.bodies import Body, read
from inventory.db import Tx
from inventory.errors import Invalid, Problem
from inventory.sessions import Browser, Opened
from web import params, proving
from web.api.answers import answer
from web.api.writing import dry_run, no_members, written
from web.bodies import read_object
from web.identity import Identity, cookie_name, current_actor, remote_address, require_person
from web.services import services
from web.signin import set_session_cookie

blueprint = Blueprint("account", __name__, url_prefix="/api/v1")

Text = Annotated[str, Field(min_length=1, max_length=passwords.LONGEST)]


class ChangePassword(Body):
    """The present password, and the one to come."""

    current_password: Text
    new_password: Text


class Confirm(Body):
    """A code that the app shows."""

    code: Text


class Again(Body):
    """The password once more."""

    password: Text


@blueprint.get("/account")
async def get_account() -> Response:
    identity = await require_person(one_time=True)
    params.parse(request.query_string, ())
    return answer(await own(identity))


async def own(identity: Identity) -> dict[str, Any]:
    """What somebody sees of themselves."""
    here = services()
    async with here.db.transaction() as tx:
        user = await users.locked(tx, identity.account.id)
        left = await second_factor.recovery_codes_left(tx, user.id)
    return users.full_view(user) | {"recovery_codes_left": left}


@blueprint.post("/account:change-password")
async def change_password() -> Response:
    identity = await require_person(one_time=True)
    only_asked, given = dry_run(), read(ChangePassword, await read_object())
    opened = await set_password(identity, given.current_password, given.new_password, only_asked=only_asked)
    response = answer(
        {"type": "user", "name": identity.name, "role": identity.role, "csrf_token": opened.csrf if opened else identity.csrf}
    )
    if opened is not None:
        set_session_cookie(response, opened)
    return response


async def set_password(identity: Identity, present: str, new: str, *, only_asked: bool = False) -> Opened | None:
    """Every other session ends, and this one goes on under a new secret, as whoever knew the old password may know it. Raises Invalid,
    TooManyRequests. None where it was only asked whether it could be done."""
    passwords.check_new(new, identity.name, "/new_password")
    await proving.again(identity.account, present, "/current_password")
    if passwords.normal(new) == passwords.normal(present):
        raise Invalid("new_password: is the present one", errors=(Problem("/new_password", "is the present one"),))
    if only_asked:
        return None
    actor, now, here = current_actor(), datetime.now(UTC), services()
    hashed = await passwords.hashed(new)
    await written(lambda tx: users.set_own_password(tx, actor, identity.account.id, hashed, identity.session or "", now))
    browser = Browser(remote_address(), request.headers.get("User-Agent", ""), request.cookies.get(cookie_name(), ""))
    longest = here.settings.session_longest
    return await sessions.open_session(here.db, identity.account, browser, "new password", now, longest, since=now)


@blueprint.post("/account:begin-second-factor")
async def begin_second_factor() -> Response:
    """Nothing is asked for at sign-in before it has been confirmed."""
    identity, only_asked = await require_person(), dry_run()
    await proving.again(identity.account, read(Again, await read_object()).password, "/password")
    secret = await begin(identity, only_asked=only_asked)
    return answer({"secret": second_factor.base32(secret), "uri": second_factor.key_uri(secret, identity.name)})


async def begin(identity: Identity, *, only_asked: bool = False) -> bytes:
    key = proving.sealing_key()
    return await written(lambda tx: second_factor.begin(tx, key, identity.account.id), dry_run=only_asked)


@blueprint.post("/account:confirm-second-factor")
async def confirm_second_factor() -> Response:
    identity, only_asked = await require_person(), dry_run()
    return answer({"recovery_codes": await confirm(identity, read(Confirm, await read_object()).code, only_asked=only_asked)})


async def confirm(identity: Identity, code: str, *, only_asked: bool = False) -> list[str]:
    key, actor, now = proving.sealing_key(), current_actor(), datetime.now(UTC)
    return await written(lambda tx: second_factor.confirm(tx, key, actor, identity.account.id, code, now), dry_run=only_asked)


@blueprint.post("/account:remove-second-factor")
async def remove_second_factor() -> Response:
    identity, only_asked, actor, now = await require_person(), dry_run(), current_actor(), datetime.now(UTC)
    await proving.again(identity.account, read(Again, await read_object()).password, "/password")
    await written(lambda tx: second_factor.remove(tx, actor, identity.account.id, now), dry_run=only_asked)
    return Response(status=204)


@blueprint.post("/account:renew-recovery-codes")
async def renew_recovery_codes() -> Response:
    identity, only_asked = await require_person(), dry_run()
    await proving.again(identity.account, read(Again, await read_object()).password, "/password")
    return answer({"recovery_codes": await renewed(identity, only_asked=only_asked)})


async def renewed(identity: Identity, *, only_asked: bool = False) -> list[str]:
    return await written(lambda tx: second_factor.renew_recovery_codes(tx, identity.account.id), dry_run=only_asked)


@blueprint.post("/account:end-other-sessions")
async def end_other_sessions() -> Response:
    identity, only_asked = await require_person(), dry_run()
    await no_members()
    return answer({"ended": await written(lambda tx: _end_others(tx, current_actor(), identity), dry_run=only_asked)})


async def _end_others(tx: Tx, actor: Actor, identity: Identity) -> int:
    return await sessions.end_all(tx, actor, identity.account.id, datetime.now(UTC), but=identity.session or "")

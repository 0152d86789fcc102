"""Who is asking: a bearer token, or a browser's session; and whether they may.

Routes and pages call `require` (raises 401 or 403) or `identify` (None for a stranger, so that a page can send them to sign in); after
either, `current_actor` is the one to hand to the store, and `view` what reads go through.

A request that changes something and was recognised by its cookie must bring the session's CSRF token, in the header `X-CSRF-Token` or the
form field `csrf_token`; a browser sends cookies for other sites' pages too, headers it does not. Tokens are looked up at each request,
so that revoking one works at once.

Source: contract.md section 5; OWASP CSRF Prevention Cheat Sheet (synchronizer token).
"""

import hmac
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from quart import g, request

from inventory import access, accounts
from inventory.access import Action
from inventory.accounts import Account
from inventory.actor import Actor
from inventory.errors import Forbidden
from inventory.seen import Seen
from inventory.view import View
from web.problems import PasswordToBeChanged, Unauthenticated
from web.services import services
from web.standing import Held

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who was recognised. `csrf` and `session`: the token and the id of a browser's session; None for a bearer token, which no browser
    sends by itself. `one_time`: signed in with a password that has to be changed first."""

    account: Account
    csrf: str | None = None
    session: str | None = None
    one_time: bool = False

    @property
    def name(self) -> str:
        return self.account.name

    @property
    def role(self) -> str:
        return self.account.role


def cookie_name() -> str:
    """The prefix makes browsers insist on Secure, and on no other host having set it; they refuse it over plain HTTP."""
    return ("__Host-" if services().settings.tls else "") + "fleetward-session"


def begun_cookie_name() -> str:
    """Of the cookie that stands for a sign-in's first step."""
    return ("__Host-" if services().settings.tls else "") + "fleetward-sign-in"


def remote_address() -> str:
    """Where the request came from, as an IP address: the socket's, as anybody can write anything into a header such as X-Forwarded-For.
    Empty where the server can't say."""
    client = request.scope.get("client")
    return str(client[0]) if client else ""


def is_local() -> bool:
    """Whether it came from this machine itself."""
    try:
        return ipaddress.ip_address(remote_address()).is_loopback
    except ValueError:
        return False


def bearer() -> str | None:
    """The token in the Authorization header. Raises Unauthenticated for a header of another kind."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Authorization: must be `Bearer TOKEN`")
    return token.strip()


def credential() -> str:
    """What the request brings to be recognised by, as it is; empty where it brings nothing."""
    return request.headers.get("Authorization") or request.cookies.get(cookie_name()) or ""


async def identify() -> Identity | None:
    """Who is asking, looked up once a request. Raises Unauthenticated for a token that is not known: it is not to pass for a session."""
    if "identity" not in g:
        g.identity = await _look_up()
        if g.identity is not None:
            services().recognised.add(credential())
    return cast(Identity | None, g.identity)


async def _look_up() -> Identity | None:
    here, now = services(), datetime.now(UTC)
    token = bearer()
    if token is not None:
        account = await accounts.find_token(here.db, token, now)
        if account is None:
            raise Unauthenticated("the token is not known, or has expired")
        return Identity(account)
    cookie = request.cookies.get(cookie_name())
    session = await accounts.find_session(here.db, cookie, now, here.settings.session_idle) if cookie else None
    return None if session is None else Identity(session.account, session.csrf, session.id, session.one_time)


async def require(action: Action | None = None, *, one_time: bool = False) -> Identity:
    """Somebody known, who may do `action` (by default, what the method means), and whose browser meant it. one_time: also who has a
    one-time password still to change.

    Raises Unauthenticated (401) or Forbidden (403)."""
    identity = await identify()
    if identity is None:
        raise Unauthenticated("sign in first: POST /login, or send Authorization: Bearer TOKEN")
    safe = request.method in SAFE_METHODS
    if not safe and identity.csrf is not None:
        await _check_csrf(identity.csrf)
    if identity.one_time and not one_time:
        raise PasswordToBeChanged("this password was for one sign-in: change it first (POST /api/v1/account:change-password)")
    wanted = action if action is not None else (Action.READ if safe else Action.WRITE)
    access.check(_actor(identity), wanted, f"{request.method} {request.path}")
    return identity


async def require_administrator() -> None:
    """For `before_request` of what is for administrators alone. Raises Unauthenticated or Forbidden."""
    await require(Action.ADMINISTER)


async def _check_csrf(expected: str) -> None:
    given = request.headers.get(CSRF_HEADER)
    if given is None and request.mimetype in _FORM_TYPES:
        given = (await request.form).get(CSRF_FIELD)
    if given is None or not hmac.compare_digest(given.encode(), expected.encode()):
        raise Forbidden(f"the CSRF token is missing or wrong: send the session's in {CSRF_HEADER}; /api/v1/whoami tells it")


async def require_person(action: Action = Action.READ, *, one_time: bool = False) -> Identity:
    """Likewise, with a session of their own: what is asked for concerns it. Raises Forbidden for a token."""
    identity = await require(action, one_time=one_time)
    if identity.session is None:
        raise Forbidden("this is about the person who has signed in, and an API token is nobody: sign in with POST /login")
    return identity


def held() -> Held:
    """What an answer that outlives its request stands on. Only after `require`."""
    identity = cast(Identity, g.identity)
    return Held(accounts.digest(bearer() or request.cookies.get(cookie_name(), "")), identity.role, identity.account.scope)


def current_actor() -> Actor:
    """The actor of this request, for the store. Only after `require` or `identify` has recognised somebody."""
    return _actor(_known())


def _known() -> Identity:
    identity = cast(Identity | None, g.get("identity"))
    if identity is None:
        raise Unauthenticated("sign in first")
    return identity


def _actor(identity: Identity) -> Actor:
    made = Actor.token if identity.account.type == "token" else Actor.user
    return made(identity.name, identity.role, remote_address(), identity.account.scope)


def view() -> View:
    """What this request may read: every read of resources in `web` comes from here. Only after `require` or `identify` has recognised
    somebody."""
    here = services()
    return View(here.db, _known().account.scope, here.store.clock)


def seen() -> Seen:
    """Likewise of the change log."""
    return Seen(services().db, _known().account.scope)


def csrf_token() -> str:
    """For forms and for `<meta name="csrf-token">`; a global of the templates. Empty where nobody has signed in."""
    identity = cast(Identity | None, g.get("identity"))
    return (identity.csrf if identity is not None else None) or ""

"""The programs that may come in, on one page, for administrators: API tokens, integrations, and the certificates of services.

Each can be taken back here, after one more look at what that does, and an integration be given another scope. The same as
`web.api.api_tokens`, `.integrations` and `.certificates`, as pages. An integration's key is made where it
stays, so that one is made by the command line alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from quart import Blueprint, Response

from inventory import accounts, api_tokens, integrations, revocation, telemetry
from inventory.access import ROLES
from inventory.errors import NotFound, Unavailable
from inventory.replica import certificate_name
from inventory.resource import time_text
from inventory.revocation import SERVICE
from web.api.integrations import NO_SECRETS, changed
from web.api.writing import written
from web.identity import current_actor, require_administrator
from web.pages.frame import done, fields, page
from web.pages.host import REFUSALS
from web.services import services

blueprint = Blueprint("programs", __name__, url_prefix="/access/programs")
blueprint.before_request(require_administrator)

HERE = "/access/programs"
LIFETIMES = {"30 days": timedelta(days=30), "90 days": timedelta(days=90), "1 year": timedelta(days=365), "no end": None}
MOST_SERVICES = 1000
"""Certificates of services that are shown: four roles, 8 replicas of each, renewed once a year."""


@blueprint.get("")
async def show() -> Response:
    return await _programs()


async def _programs(*, status: int = 200, **more: Any) -> Response:
    here = services()
    shown: dict[str, Any] = {
        "tokens": await api_tokens.list_all(here.db),
        "integrations": await integrations.list_all(here.db),
        "certificates": await _certificates(),
        "roles": ROLES,
        "lifetimes": list(LIFETIMES),
        "made": None,
        "refusal": "",
        "typed": {},
    }
    return await page("access_programs.html", "Access", status=status, tab="programs", **(shown | more))


@dataclass(frozen=True, slots=True)
class Shown:
    """A service's certificate. in_use: it is the one in the secrets directory; None: this process has none to look into. heard: when a
    process of that name last said something of itself; None: not within a minute, or it has no database (the broker)."""

    serial: str
    name: str
    issued_at: datetime
    expires_at: datetime
    why: str | None
    in_use: bool | None
    heard: datetime | None


async def _certificates() -> list[Shown]:
    """Of services: by name, the newest first."""
    here, now = services(), datetime.now(UTC)
    current: set[str] | None = None
    if here.authority is not None:
        await revocation.note_services(here.db, here.authority, now)
        current = {issued.serial for _, issued in here.authority.services_issued()}
    rows = await revocation.listed(here.db, now, "", MOST_SERVICES, SERVICE)
    processes = await telemetry.heard(here.db)
    heard = {certificate_name(f"svc-{role}", replica): now - timedelta(seconds=ago) for (role, replica), ago in processes.items()}
    found = [_shown(row, current, heard) for row in rows]
    return sorted(found, key=lambda each: (each.name, -each.issued_at.timestamp()))


def _shown(row: Mapping[str, Any], current: set[str] | None, heard: Mapping[str, datetime]) -> Shown:
    in_use = None if current is None else row["serial"] in current and row["why"] is None
    last = heard.get(row["name"]) if in_use else None
    return Shown(row["serial"], row["name"], row["issued_at"], row["expires_at"], row["why"], in_use, last)


@blueprint.post("/tokens")
async def create_token() -> Response:
    """The token is shown in this answer and never again."""
    form, actor, now = await fields(), current_actor(), services().store.clock()
    lifetime = LIFETIMES.get(form.get("lifetime", ""), api_tokens.LIFETIME)
    end = None if lifetime is None else time_text(now + lifetime)
    body = {name: form.get(name, "").strip() for name in ("name", "scope")} | {"role": form.get("role", "viewer"), "expires_at": end}
    secret = api_tokens.random_token()
    try:
        made = await written(lambda tx: api_tokens.create(tx, actor, body, accounts.digest(secret), now))
    except REFUSALS as error:
        return await _programs(status=error.status, refusal=error.detail, typed=form)
    return await _programs(status=201, made=made | {"token": secret})


@blueprint.get("/<any(tokens, integrations, certificates):what>/<ref>")
async def ask(what: str, ref: str) -> Response:
    """Before it is taken back: what that does."""
    return await _asked(what, ref)


async def _asked(what: str, ref: str, *, status: int = 200, refusal: str = "") -> Response:
    found = await _found(what, ref)
    name = found.name if isinstance(found, Shown) else found["name"]
    shown = {"what": what, "ref": ref, "found": found, "name": name, "refusal": refusal}
    return await page("access_taking_back.html", f"Revoke {name}", status=status, **shown)


async def _found(what: str, ref: str) -> Any:
    """Raises NotFound."""
    match what:
        case "tokens":
            return await api_tokens.get(services().db, ref)
        case "integrations":
            return await integrations.get(services().db, ref)
        case _:
            return _service(ref, await _certificates())


def _service(serial: str, found: Sequence[Shown]) -> Shown:
    """Raises NotFound."""
    for each in found:
        if each.serial == serial:
            return each
    raise NotFound(f"there is no certificate of a service {serial[:64]!r}")


@blueprint.get("/integrations/<ref>/scope")
async def show_scope(ref: str) -> Response:
    return await _scope(ref)


async def _scope(ref: str, *, status: int = 200, refusal: str = "", typed: str | None = None) -> Response:
    found = await integrations.get(services().db, ref)
    chosen = found["scope"] if typed is None else typed
    return await page("access_scope.html", f"Scope of {ref}", status=status, found=found, chosen=chosen, refusal=refusal)


@blueprint.post("/integrations/<ref>/scope")
async def set_scope(ref: str) -> Response:
    typed = (await fields()).get("scope", "").strip()
    try:
        before = await integrations.get(services().db, ref)
        after = await changed(ref, {"scope": typed})
    except REFUSALS as error:
        return await _scope(ref, status=error.status, refusal=error.detail, typed=typed)
    return done(HERE, "saved" if after["serial"] == before["serial"] else "certificate-replaced")


@blueprint.post("/<any(tokens, integrations, certificates):what>/<ref>")
async def take_back(what: str, ref: str) -> Response:
    here, actor, now = services(), current_actor(), services().store.clock()
    try:
        match what:
            case "tokens":
                await written(lambda tx: api_tokens.delete(tx, actor, ref, now))
                return done(HERE, "revoked")
            case "integrations":
                if here.settings.secrets is None:
                    raise Unavailable(NO_SECRETS)
                await integrations.delete(here.db, here.settings.secrets, ref, now, actor)
            case _:
                await revocation.revoke(here.db, (await _found(what, ref)).serial, now, actor)
    except REFUSALS as error:
        return await _asked(what, ref, status=error.status, refusal=error.detail)
    return done(HERE, "taken-back")

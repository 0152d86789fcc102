"""Other programs on the broker: `POST` makes a certificate for one, `GET` lists them, `PATCH` changes a scope, `DELETE` takes it back. For
administrators.

They are no resources (no versions, no events); the audit tells that one was made, changed or deleted.
"""

import logging
from datetime import UTC, datetime
from typing import Any

from quart import Blueprint, Response, request

from inventory import idempotency, integrations
from inventory.authority import Authority
from inventory.errors import Unavailable
from inventory.idempotency import Claim
from inventory.writer import Writer
from web import params
from web.api.answers import answer
from web.api.writing import dry_run, written
from web.bodies import PATCH_TYPES, read_object
from web.identity import current_actor, require_administrator
from web.services import Services, services

log = logging.getLogger(__name__)

NO_SECRETS = "this web process was given no secrets directory (FLEETWARD_SECRETS), so it can make and list no certificate"

blueprint = Blueprint("integrations", __name__, url_prefix="/api/v1/integrations")
blueprint.before_request(require_administrator)


@blueprint.get("")
async def list_integrations() -> Response:
    params.parse(request.query_string, ())
    return answer({"items": await integrations.list_all(services().db)})


@blueprint.post("")
async def create_integration() -> Response:
    """Making one is repeatable by itself (same name, same key); an idempotency key besides notices another body."""
    only_asked, here = dry_run(), services()
    if only_asked:
        return answer(await integrations.check(here.db, await read_object()))
    if here.authority is None:
        raise Unavailable(NO_SECRETS)
    key = params.idempotency_key(request.headers.get("Idempotency-Key"))
    body = await read_object()
    if key is None:
        return answer(await _create(here, here.authority, body), 201)
    authority = here.authority

    async def act(_: Writer) -> tuple[int, Any]:
        return 201, await _create(here, authority, body)

    claim = Claim.of(current_actor(), key, f"POST {request.path}", body, datetime.now(UTC))
    # One at a time: each holds two connections, and enough of them at once would wait for each other's second for ever.
    async with here.one_at_a_time:
        done = await idempotency.once(here.store, claim, act)
    return answer(done.body, done.status)


@blueprint.patch("/<name>")
async def patch_integration(name: str) -> Response:
    only_asked = dry_run()
    return answer(await changed(name, await read_object(PATCH_TYPES), dry_run=only_asked))


async def changed(name: str, patch: Any, *, dry_run: bool = False) -> dict[str, Any]:
    """As it is then. Raises NotFound, Invalid, Unavailable."""
    here, actor = services(), current_actor()
    authority, now = here.authority, here.store.clock()
    if authority is None:
        raise Unavailable(NO_SECRETS)
    found = await written(lambda tx: integrations.change(tx, here.db, authority, name, patch, now, actor), dry_run=dry_run)
    if not dry_run:
        await integrations.publish_list(here.db, authority.directory)
        log.warning("integration changed", extra={"integration": name, "user": actor.name})
    return found


@blueprint.delete("/<name>")
async def delete_integration(name: str) -> Response:
    params.parse(request.query_string, ())
    here = services()
    if here.settings.secrets is None:
        raise Unavailable(NO_SECRETS)
    await integrations.delete(here.db, here.settings.secrets, name, datetime.now(UTC), current_actor())
    log.warning("integration deleted", extra={"integration": name, "user": current_actor().name})
    return Response(status=204)


async def _create(here: Services, authority: Authority, body: dict[str, Any]) -> dict[str, Any]:
    asked_by = current_actor()
    return await integrations.create(here.db, authority, body, broker=here.settings.mqtt, now=datetime.now(UTC), by=asked_by)

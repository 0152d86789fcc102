"""The certificates that were issued: `GET` lists those that have not ended, `POST …:revoke` takes one back. For administrators.

They are no resources (no versions, no changes): a host's go with its state, and an integration's with the integration.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from quart import Blueprint, Response, request

from inventory import revocation
from inventory.resource import time_text
from web import params
from web.api.answers import answer
from web.api.parameters import CERTIFICATES
from web.identity import current_actor, require_administrator
from web.services import services

log = logging.getLogger(__name__)

blueprint = Blueprint("certificates", __name__, url_prefix="/api/v1/certificates")
blueprint.before_request(require_administrator)


@blueprint.get("")
async def list_certificates() -> Response:
    asked = params.parse(request.query_string, CERTIFICATES)
    now, size = datetime.now(UTC), asked["page_size"]
    await _note_services(now)
    found = await revocation.listed(services().db, now, asked["page_token"], size, asked["class"])
    more = found[-1]["serial"] if len(found) == size else None
    return answer({"items": [_shown(row) for row in found], "next_page_token": more})


@blueprint.post("/<ref>:revoke")
async def revoke_certificate(ref: str) -> Response:
    """`ref`: a serial number, or a name for all that it has."""
    params.parse(request.query_string, ())
    now = datetime.now(UTC)
    await _note_services(now)
    found = await revocation.revoke(services().db, ref, now, current_actor())
    log.warning("certificates revoked by a person", extra={"certificates": len(found), "user": current_actor().name})
    return answer({"items": [_shown(row) for row in found]})


async def _note_services(now: datetime) -> None:
    """`fleetward certificate create` issues without a database."""
    here = services()
    if here.authority is not None:
        await revocation.note_services(here.db, here.authority, now)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    times = {name: time_text(row[name]) for name in ("issued_at", "expires_at")}
    return {"serial": row["serial"], "name": row["name"], "class": row["unit"], "host": row["host"], **times, "revoked": row["why"]}

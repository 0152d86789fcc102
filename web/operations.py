"""What those who run the installation ask it: `/livez`, `/readyz`, `/metrics`.

Live means that this process answers; nothing else is looked at, or a database that is away would have the web restarted. Ready means
that it can serve: the database answers, its schema is the one of this release, changes get their positions soon, and the streams follow
them. The metrics are for the machine itself without a token, for others with one.

Source: contract.md section 5.
"""

import time
from datetime import UTC, datetime

from quart import Blueprint, Quart, Response, g, request

from inventory import access, metrics, schema, telemetry
from inventory.access import Action
from inventory.errors import Unavailable
from inventory.metrics import METER
from web import json
from web.identity import current_actor, is_local, require
from web.services import Services, services

blueprint = Blueprint("operations", __name__)


@blueprint.get("/livez")
async def livez() -> Response:
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@blueprint.get("/readyz")
async def readyz() -> Response:
    """200 or 503, and each check with its words."""
    checks = await _checks()
    failed = [name for name, words in checks.items() if words != "ok"]
    body = {"ready": not failed, "checks": checks}
    return Response(
        json.encode(body), 503 if failed else 200, content_type="application/json", headers={"Retry-After": "2"} if failed else {}
    )


async def _checks() -> dict[str, str]:
    here = services()
    try:
        behind = await schema.behind(here.db)
        if behind:
            return {"database": "ok", "migrations": f"{behind} to do: run `fleetward migrate`"}
        lag = (await telemetry.installation(here.db)).relay_lag_s
    except Unavailable as error:
        return {"database": error.detail}
    return {
        "database": "ok",
        "migrations": "ok",
        "relay": "ok" if lag < here.settings.relay_lag_limit_s else f"a change has waited {lag:.0f} s: is the inventory service running?",
        "stream": "ok" if here.hub.following.is_set() else "the change log is not being followed",
    }


@blueprint.get("/metrics")
async def scrape() -> Response:
    if not is_local():
        await require(Action.READ)
        access.check_whole(current_actor(), "the metrics")
    here = services()
    look(here)
    here_now = telemetry.process_name("web", here.settings.replica)
    try:
        own = (await telemetry.installation(here.db)).samples
        others = await telemetry.processes(here.db)
    except Unavailable:
        own, others = {metrics.DATABASE_UP.name: [((), 0.0)]}, {}
    own = {**own, **telemetry.certificates(here.settings.secrets, datetime.now(UTC))}
    text = metrics.render(own, others | {here_now: METER.samples()})
    return Response(text, content_type=metrics.CONTENT_TYPE)


def look(here: Services) -> None:
    """Gauges, at the moment that they are shown or published."""
    METER.set(metrics.FOLLOWERS, here.hub.followers)
    METER.set(metrics.CUT, here.hub.cut)
    METER.set(metrics.REQUESTS_WAITING, here.gate.waiting)
    METER.set(metrics.REQUESTS_REFUSED, here.gate.refused)


def count_requests(app: Quart) -> None:
    """Have every response of the app counted by its route."""

    async def begin() -> None:
        g.began = time.monotonic()

    async def end(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else "none"
        began: float | None = g.get("began")
        took = None if began is None else time.monotonic() - began
        METER.count(metrics.REQUESTS, route, request.method, str(response.status_code))
        if took is not None:
            METER.observe(metrics.REQUEST_SECONDS, took, route)
        return response

    app.before_request(begin)
    app.after_request(end)

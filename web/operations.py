"""What those who run the installation ask it: `/livez`, `/readyz`, `/metrics`.

Live means that this process answers; nothing else is looked at, or a database that is away would have the web restarted. Ready means
that it can serve: the database answers, its schema is the one of this release, changes get their positions soon, and the streams follow
them. The metrics are for the machine itself without a token, for others with one.

Source: contract.md section 5.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from quart import Blueprint, Quart, Response, g, request

from inventory import schema
from inventory.access import Action
from inventory.db import SQL, loads
from inventory.errors import Unavailable
from web import json, metrics
from web.identity import is_local, require
from web.services import services

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
        numbers = await _numbers()
    except Unavailable as error:
        return {"database": error.detail}
    lag = float(numbers["lag_s"] or 0.0)
    return {
        "database": "ok",
        "migrations": f"{behind} to do: run `fleetward migrate`" if behind else "ok",
        "relay": "ok" if lag < here.settings.relay_lag_limit_s else f"a change has waited {lag:.0f} s: is the inventory service running?",
        "stream": "ok" if here.hub.following.is_set() else "the change log is not being followed",
    }


async def _numbers() -> dict[str, Any]:
    async with services().db.acquire() as connection:
        row = await connection.fetchrow(SQL["inventory_gauges"], datetime.now(UTC))
    assert row is not None, "a SELECT without FROM has one row"
    return dict(row)


@blueprint.get("/metrics")
async def scrape() -> Response:
    if not is_local():
        await require(Action.READ)
    here = services()
    try:
        gauges = _gauges(await _numbers())
    except Unavailable:
        gauges = {}
    gauges["fleetward_database_up"] = ("Whether the database answers.", {(): float(bool(gauges))})
    gauges["fleetward_stream_followers"] = ("Open event streams.", {(): here.hub.followers})
    gauges["fleetward_stream_cut"] = ("Streams cut since the start because they read too slowly.", {(): here.hub.cut})
    return Response(metrics.render(here.metrics, gauges), content_type=metrics.CONTENT_TYPE)


def _gauges(numbers: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[metrics.Labels, float]]]:
    hosts: dict[str, int] = loads(numbers["hosts"]) or {}
    return {
        "fleetward_change_position": ("The last position of the change log.", {(): numbers["position"]}),
        "fleetward_changes_waiting": ("Committed changes without a position yet.", {(): numbers["waiting"]}),
        "fleetward_relay_lag_seconds": ("How long the oldest of them has waited.", {(): float(numbers["lag_s"] or 0.0)}),
        "fleetward_work_due": ("Keys due for reconciling.", {(): numbers["work_due"]}),
        "fleetward_work_halted": ("Keys halted until somebody steps in.", {(): numbers["work_halted"]}),
        "fleetward_poison_messages": ("Device messages set aside.", {(): numbers["poison"]}),
        "fleetward_hosts": ("Hosts by presence.", {(("presence", presence),): count for presence, count in sorted(hosts.items())}),
    }


def count_requests(app: Quart) -> None:
    """Have every response of the app counted by its route."""

    async def begin() -> None:
        g.began = time.monotonic()

    async def end(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else "none"
        began: float | None = g.get("began")
        took = None if began is None else time.monotonic() - began
        services().metrics.request(route, request.method, response.status_code, took)
        return response

    app.before_request(begin)
    app.after_request(end)

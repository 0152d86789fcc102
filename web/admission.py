"""Has every request of the app pass the gate (`web.gate`), once its body has arrived. Called by `web.app`."""

import asyncio

from quart import Quart, g, request
from werkzeug.exceptions import RequestTimeout

from web.bodies import MAX_BODY, ArrivingBody
from web.identity import credential, remote_address
from web.services import services

ARRIVE_S: float = 30.0
"""How long a body may take to arrive, in seconds."""
FREE = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths for those who watch over the process: they are to be answered most of all when there is too much to do."""


def register(app: Quart) -> None:
    """All requests but those of `FREE`."""

    async def enter() -> None:
        if request.path in FREE:
            return
        await _arrived()
        here = services()
        await here.gate.enter(here.recognised.client(credential(), remote_address()))
        g.in_gate = True

    async def leave(_: BaseException | None) -> None:
        if g.pop("in_gate", False):
            services().gate.leave()

    app.before_request(enter)
    app.teardown_request(leave)


async def _arrived() -> None:
    """Raises RequestTimeout (408). One that is too long is refused by whoever reads it, without being waited for."""
    body = request.body
    if isinstance(body, ArrivingBody) and (request.content_length or 0) <= MAX_BODY:
        try:
            async with asyncio.timeout(ARRIVE_S):
                await body.arrived()
        except TimeoutError:
            raise RequestTimeout from None

"""Has every request of the app pass the gate (`web.gate`): once its body has arrived, or before, to see whether a stranger sends it.

Called by `web.app`, after `web.bodies`.
"""

import asyncio

from quart import Quart, Response, g, request
from werkzeug.exceptions import RequestTimeout

from web.bodies import MAX_BODY, ArrivingBody
from web.identity import credential, identify, remote_address
from web.problems import Unauthenticated
from web.services import services

ARRIVE_S: float = 30.0
"""How long a body may take to arrive, in seconds."""
FREE = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths for those who watch over the process: they are to be answered most of all when there is too much to do."""
OPEN = frozenset({"/login", "/api/v1/enroll"})
"""Paths at which strangers say in the body who they are."""


def register(app: Quart) -> None:
    """All requests but those of `FREE`."""

    async def enter() -> None:
        if request.path in FREE:
            return
        if _may_be_a_stranger():
            await _take_slot()
            if await _is_a_stranger():
                return
            _give_slot()
        await _arrived()
        await _take_slot()

    async def answered(response: Response) -> Response:
        """Before the rest of a body that nobody wants is waited for (`web.bodies`)."""
        _give_slot()
        return response

    async def leave(_: BaseException | None) -> None:
        _give_slot()

    app.before_request(enter)
    app.after_request(answered)
    app.teardown_request(leave)


def _may_be_a_stranger() -> bool:
    """Whether to look who is asking before the body has arrived: a stranger is refused without it."""
    body = request.body
    late = isinstance(body, ArrivingBody) and not body.complete
    return late and request.path not in OPEN and credential() not in services().recognised


async def _is_a_stranger() -> bool:
    """Whoever serves the request says so to them, where it matters."""
    try:
        return await identify() is None
    except Unauthenticated:
        return True


async def _take_slot() -> None:
    here = services()
    await here.gate.enter(here.recognised.client(credential(), remote_address()))
    g.in_gate = True


def _give_slot() -> None:
    if g.pop("in_gate", False):
        services().gate.leave()


async def _arrived() -> None:
    """Raises RequestTimeout (408). One that is too long is refused by whoever reads it, without being waited for."""
    body = request.body
    if isinstance(body, ArrivingBody) and (request.content_length or 0) <= MAX_BODY:
        try:
            async with asyncio.timeout(ARRIVE_S):
                await body.arrived()
        except TimeoutError:
            raise RequestTimeout from None

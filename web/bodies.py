"""Request bodies read exactly: right type, right size, one JSON object. Called by every route that takes a body.

Quart enforces the size (`MAX_CONTENT_LENGTH`, answered 413); what the object may hold is `web.json`'s and the inventory's business.

A request may be refused before its body was looked at, or has arrived at all. HTTP/1.1 can then not use the connection again, and a client
that is still sending may lose the answer to the reset; so what is left is taken in first (`register`), for a while.
Source: RFC 9112 section 9.6.
"""

import asyncio
from typing import Any

from quart import Quart, Request, Response, request
from quart.wrappers.request import Body

from inventory.errors import BadRequest
from web import json
from web.problems import TooLarge, UnsupportedMediaType

MAX_BODY: int = 1024 * 1024
"""Bytes. A config holds at most 128 KiB of contents; JSON's escapes can make six of one."""

JSON_TYPES = ("application/json",)
PATCH_TYPES = ("application/merge-patch+json", "application/json")


DRAIN_S: float = 5.0
"""How long the rest of a body that nobody wants is waited for, in seconds; after that the connection is closed."""


class ArrivingBody(Body):
    """A body that can be waited for without being taken, also when it is too long to be taken."""

    @property
    def complete(self) -> bool:
        return self._complete.is_set()

    async def arrived(self) -> None:
        await self._complete.wait()


class ArrivingRequest(Request):
    body_class = ArrivingBody
    body: ArrivingBody


def register(app: Quart) -> None:
    """Have no response of `app` sent before its request's body has arrived, or say that the connection ends with it."""
    app.request_class = ArrivingRequest

    async def arrive(response: Response) -> Response:
        body = request.body
        if isinstance(body, ArrivingBody):
            try:
                async with asyncio.timeout(DRAIN_S):
                    await body.arrived()
            except TimeoutError:
                if request.http_version == "1.1":
                    response.headers["Connection"] = "close"
        return response

    app.after_request(arrive)


async def read_object(types: tuple[str, ...] = JSON_TYPES, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The body's JSON object. may_be_empty: no body at all means an empty object.

    Raises UnsupportedMediaType (415), TooLarge (413), BadRequest (400) or Invalid (422)."""
    raw = await _read()
    if may_be_empty and not raw:
        return {}
    _check_type(types)
    return json.decode_object(raw)


async def read_text(types: tuple[str, ...]) -> str:
    """The body as text. Raises UnsupportedMediaType (415), TooLarge (413), BadRequest (400)."""
    raw = await _read()
    _check_type(types)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None


async def _read() -> bytes:
    if (request.content_length or 0) > MAX_BODY:
        raise TooLarge(f"the body is longer than {MAX_BODY} bytes")
    raw = await request.get_data(cache=False)
    if not isinstance(raw, bytes):
        raise TypeError("Quart gives bytes unless asked for text")
    return raw


def _check_type(types: tuple[str, ...]) -> None:
    if request.mimetype not in types:
        raise UnsupportedMediaType(f"Content-Type: must be {' or '.join(types)}, not {request.mimetype or 'absent'}")
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(f"Content-Type: the charset must be utf-8, not {charset}")
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding: {encoding} is not understood here; send it plain")

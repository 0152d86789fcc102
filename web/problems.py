"""What goes wrong on the way to the inventory, and every error as `application/problem+json`.

The inventory's own errors carry their status and words; this module adds those that only HTTP knows (401, 405, 413, 415), and turns
all of them, Quart's own included, into one shape. It never shows a traceback. Browsers that ask for a page get one, where the
pages have registered how (`html`).

Source: RFC 9457 (problem details), RFC 9110 (status codes).
"""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, ClassVar

from quart import Quart, Response, request
from quart.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from inventory.errors import InventoryError, TooManyRequests, Unavailable
from web import json

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
Body = dict[str, Any]
Html = Callable[[Body], Awaitable[ResponseReturnValue]]
"""Makes a page of a problem; `body["status"]` is the status it is sent with."""


class Unauthenticated(InventoryError):
    """Nobody has signed in, or the token is not known."""

    status = 401
    title = "Not signed in"


class PasswordToBeChanged(InventoryError):
    """Signed in with a one-time password: it has to be changed before anything else."""

    status = 403
    title = "Password to be changed"


class TooLarge(InventoryError):
    """The body is longer than what is taken."""

    status = 413
    title = "Too large"


class UnsupportedMediaType(InventoryError):
    """The body is not of a type that is understood here."""

    status = 415
    title = "Unsupported media type"


UNAVAILABLE_RETRY_S: int = 2
"""How long a client is asked to wait when the database is away: about what a restart of PostgreSQL takes."""


class _Plain(InventoryError):
    """A status that only the web framework knows."""

    status: ClassVar[int] = 500

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.code = status


def body_of(error: InventoryError) -> Body:
    """The problem document of an error."""
    status = error.code if isinstance(error, _Plain) else error.status
    title = HTTPStatus(status).phrase if isinstance(error, _Plain) else error.title
    body: Body = {
        "type": "urn:fleetward:problem:" + title.lower().replace(" ", "-"),
        "title": title,
        "status": status,
        "detail": error.detail,
        "errors": [{"pointer": problem.pointer, "detail": problem.detail} for problem in error.errors],
    }
    column = getattr(error, "column", None)
    return body if column is None else {**body, "column": column}


def headers_of(error: InventoryError) -> dict[str, str]:
    match error:
        case Unauthenticated():
            return {"WWW-Authenticate": 'Bearer realm="fleetward"'}
        case TooManyRequests():
            return {"Retry-After": str(error.retry_after)}
        case Unavailable():
            return {"Retry-After": str(UNAVAILABLE_RETRY_S)}
    return {}


def wants_page() -> bool:
    """Whether the one who asks is a browser on its way to a page; the API never answers with one."""
    return not request.path.startswith("/api/") and "text/html" in request.headers.get("Accept", "")


def register(app: Quart) -> None:
    """Have every error of `app` answered here. Pages set `app.extensions["fleetward_html_problem"]` (an `Html`) to show theirs."""

    async def answer(error: InventoryError, headers: dict[str, str]) -> ResponseReturnValue:
        body = body_of(error)
        page: Html | None = app.extensions.get("fleetward_html_problem")
        if page is not None and wants_page():
            return await page(body)
        return Response(json.encode(body), body["status"], headers={**headers, "Content-Type": CONTENT_TYPE})

    async def refused(error: InventoryError) -> ResponseReturnValue:
        if isinstance(error, Unavailable):
            log.warning("the inventory is unavailable", extra={"path": request.path, "reason": error.detail})
        return await answer(error, headers_of(error))

    async def plain(error: HTTPException) -> ResponseReturnValue:
        headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After", "Location")}
        return await answer(_Plain(error.code or 500, _words(error)), headers)

    async def unexpected(error: Exception) -> ResponseReturnValue:
        log.exception("a request failed", exc_info=error, extra={"path": request.path, "method": request.method})
        return await answer(_Plain(500, "Something went wrong here; the server's log says what."), {})

    app.register_error_handler(InventoryError, refused)
    app.register_error_handler(HTTPException, plain)
    app.register_error_handler(Exception, unexpected)


def _words(error: HTTPException) -> str:
    match error.code:
        case 404:
            return f"There is nothing at {request.path}; /api/v1/openapi.json lists what there is."
        case 405:
            return f"{request.path} does not take {request.method}."
    return error.description or HTTPStatus(error.code or 500).phrase

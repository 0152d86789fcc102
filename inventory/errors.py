"""What can go wrong when Inventory is asked for something, each with the HTTP status and the words that a user sees.

REST turns these into `application/problem+json`, MQTT intents into the same body; neither adds meaning of its own.

Source: RFC 9457 (problem details), contract.md section 5.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input: where (a JSON pointer, or a query parameter's name) and why."""

    pointer: str
    detail: str


class InventoryError(Exception):
    """Inventory refused or could not do what was asked."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Inventory error"

    def __init__(self, detail: str, *, errors: tuple[Problem, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors


class BadRequest(InventoryError):
    """The request can't be understood."""

    status = 400
    title = "Bad request"

    def __init__(self, detail: str, *, pointer: str = "", column: int | None = None) -> None:
        super().__init__(detail, errors=(Problem(pointer, detail),) if pointer else ())
        self.column = column


class Forbidden(InventoryError):
    """The actor may not do this, or does not own the field."""

    status = 403
    title = "Forbidden"


class NotFound(InventoryError):
    """There is no such resource."""

    status = 404
    title = "Not found"


class Conflict(InventoryError):
    """The resource's state, or what refers to it, does not allow this."""

    status = 409
    title = "Conflict"


class Gone(InventoryError):
    """The position is below the floor of the change log: list again, then watch from the list's position."""

    status = 410
    title = "Gone"


class PreconditionFailed(InventoryError):
    """Somebody else wrote in between: read it again."""

    status = 412
    title = "Precondition failed"


class Invalid(InventoryError):
    """A field's value is not allowed; `errors` names each."""

    status = 422
    title = "Invalid"


class TooManyRequests(InventoryError):
    """Asked faster than is done, or again too soon. `retry_after` is in seconds."""

    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(InventoryError):
    """The database can't be reached just now; nothing was written."""

    status = 503
    title = "Unavailable"


class Outdated(InventoryError):
    """What a write refers to has gone since it was decided: decide it again."""

    status = 409
    title = "Outdated"


class LeaseLost(InventoryError):
    """Another replica has taken this work over: what was decided here must not be written."""

    status = 409
    title = "Lease lost"

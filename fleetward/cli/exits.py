"""Exit codes, and which failure leads to which (contract.md section 6). The one place where an exception becomes a number."""

from enum import IntEnum

from fleetward.client import ApiError, ClientError, Conflict, NotFound, Unreachable


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    """The command line, or the surroundings: a filter that is none, no server, no valid token, a file that can't be read."""
    NOT_FOUND = 3
    CONFLICT = 4
    TIMED_OUT = 5


class CommandError(Exception):
    """A command gives up; the text says what to do."""

    def __init__(self, text: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(text)
        self.code = code


def code_for(error: ClientError) -> Exit:
    match error:
        # 400: what was given is no filter, no order, no position.
        case Unreachable() | ApiError(status=400 | 401):
            return Exit.USAGE
        case NotFound():
            return Exit.NOT_FOUND
        case Conflict():
            return Exit.CONFLICT
        case _:
            return Exit.FAILED


def words_for(error: ClientError) -> str:
    match error:
        case ApiError(status=401):
            return f"not signed in: {error} (give --token, or FLEETWARD_TOKEN)"
        case Conflict(detail=str(detail)) if detail:
            return detail  # says which, where the member's own text is that it "is taken"
        case _:
            return str(error)

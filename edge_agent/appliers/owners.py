"""Users and groups of this device by name or number."""

import grp
import os
import pwd
from typing import Any

from broker.messages import ErrorCode
from edge_agent.appliers import Refusal

MAX_ID = 2**32 - 2


def user(path: str, name: Any) -> int:
    """The uid; the agent's own for None. Raises Refusal (UnknownOwner)."""
    if name is None:
        return os.geteuid()
    try:
        return _number(name) if _is_number(name) else pwd.getpwnam(name).pw_uid
    except (KeyError, TypeError, ValueError):
        raise Refusal(ErrorCode.UNKNOWN_OWNER, f"{path}: this device knows no user {name!r}") from None


def group(path: str, name: Any) -> int:
    """The gid; the agent's own for None. Raises Refusal (UnknownOwner)."""
    if name is None:
        return os.getegid()
    try:
        return _number(name) if _is_number(name) else grp.getgrnam(name).gr_gid
    except (KeyError, TypeError, ValueError):
        raise Refusal(ErrorCode.UNKNOWN_OWNER, f"{path}: this device knows no group {name!r}") from None


def _is_number(name: Any) -> bool:
    return isinstance(name, str) and name.isascii() and name.isdigit()


def _number(name: str) -> int:
    if int(name) > MAX_ID:
        raise ValueError(name)
    return int(name)

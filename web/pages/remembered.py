"""Answers kept for as long as nothing has changed: counts over the whole fleet, which many people look at, again after each change.

Kept by the position of the change log, in memory, for each app. One asks, the others wait for the same answer. Only for what follows from
published changes; nothing that varies by itself may be kept here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from quart import current_app

from web.identity import view
from web.services import services

T = TypeVar("T")
_KEY = "fleetward_remembered"


@dataclass(slots=True)
class _Answer:
    position: int = -1
    value: Any = None
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


async def remembered(name: str, ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of `ask`, or the one that was given at the same position of the change log to somebody of the same scope."""
    answers: dict[tuple[str, str], _Answer] = current_app.extensions.setdefault(_KEY, {})
    answer = answers.setdefault((name, view().scope), _Answer())
    hub = services().hub
    async with answer.asking:
        position = hub.position
        if not hub.following.is_set() or answer.position != position:
            answer.value, answer.position = await ask(), position
        return cast(T, answer.value)

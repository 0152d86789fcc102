"""Clients of the embedded broker that have sent more than is taken at once stand in a line; in each turn of the event loop one is served.

So a thousand of them that send without end delay others by no more than one does. Who has more left lines up again, behind the others.
Called by `broker.connection`.

Source: Nagle, RFC 970 (queues by source, served in turns).
"""

import asyncio
from typing import Protocol


class Backlogged(Protocol):
    def go_on(self) -> None:
        """Have a turn."""


class Backlog:
    """The line of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._line: dict[Backlogged, None] = {}
        """In their order."""

    def line_up(self, client: Backlogged) -> None:
        """At the end, unless it stands there already."""
        if not self._line:
            self._loop.call_soon(self._serve)
        self._line.setdefault(client)

    def _serve(self) -> None:
        first = next(iter(self._line))
        del self._line[first]
        if self._line:
            self._loop.call_soon(self._serve)
        first.go_on()

"""Changes and notifications to MQTT, for other programs: `events/{kind}/{id}` and `notifications/{severity}`.

It follows the change log with a cursor of its own (`mqtt`), so that a dead broker stalls nobody else, and nothing is left out after one:
the cursor moves when the broker has acknowledged, so what was under way may come twice. Only kinds that say so are published; a scoped
integration has the events of its scope on topics of its own (`inventory.seen`). One replica at a time does it, by a session lock; two
for a moment would only repeat each other.

Called by `inventory.service`. Source: design.md section 5 ("The change log"), contract.md section 3.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from broker.messages import MAX_BYTES
from broker.topics import EventTopic, NotificationTopic, Topics
from inventory import integrations
from inventory.authority import utcnow
from inventory.changes import Change, Tail, load_cursor, save_cursor
from inventory.db import Connection, Database, dumps
from inventory.errors import Gone
from inventory.kinds import BY_NAME
from inventory.resource import time_text
from inventory.seen import Seen

log = logging.getLogger(__name__)

CURSOR = "mqtt"
LOCK = 0x666C7764_0010
"""Advisory lock of the one publisher (`inventory.db` says how they are numbered)."""
LOOK_S = 1.0
"""How often a replica that does not publish looks whether it should, in seconds."""


class Undelivered(Exception):
    """The broker has not acknowledged."""


Publish = Callable[[str, bytes], Awaitable[None]]
"""At QoS 1, returning when the broker has acknowledged. Raises Undelivered."""

Connected = Callable[[], Awaitable[None]]
"""Returns when there is a connection to the broker."""


@asynccontextmanager
async def sole(db: Database, lock: int) -> AsyncIterator[Connection]:
    """Wait for a session lock and hold it. The connection it hangs on may end at any time: `is_closed` tells. Raises Unavailable."""
    connection = await db.connect()
    try:
        # Not a waiting lock: a connection that waits in the database could not be given up in time.
        with db.may_be_away():
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock):  # noqa: ASYNC110 -- the holder is another process
                await asyncio.sleep(LOOK_S)
        yield connection
    finally:
        connection.terminate()


class Publisher:
    """`run` until cancelled. Raises Unavailable when the database is lost; run it again then."""

    def __init__(
        self, db: Database, topics: Topics, publish: Publish, connected: Connected, clock: Callable[[], datetime] = utcnow
    ) -> None:
        self._db, self._topics, self._publish, self._connected, self._clock = db, topics, publish, connected, clock

    async def run(self) -> None:
        async with sole(self._db, LOCK) as held:
            log.info("publishing changes")
            after = await load_cursor(self._db, CURSOR) or 0
            try:
                async for found in Tail(self._db, after):
                    await self._deliver(found.changes)
                    if held.is_closed():
                        return
                    async with self._db.acquire() as connection:
                        await save_cursor(connection, CURSOR, found.next)
            except Gone as error:
                await self._skip(error)

    async def _skip(self, error: Gone) -> None:
        """The log no longer holds what comes next: go on where it begins, and say so."""
        async with self._db.acquire() as connection:
            floor = await connection.fetchval("SELECT floor FROM relay")
            await save_cursor(connection, CURSOR, floor)
        log.error("changes were dropped before they were published", extra={"error": str(error), "position": floor})

    async def _deliver(self, changes: Sequence[Change]) -> None:
        """All of them, again from the first one until the broker has taken them together."""
        plain = [message for change in changes for message in self._messages(change)]
        while plain:
            await self._connected()
            # Anew each time: whoever has another scope by now is told nothing more by the one before.
            messages = plain + await self._scoped(changes)
            told = await asyncio.gather(*(self._publish(topic, payload) for topic, payload in messages), return_exceptions=True)
            errors = [error for error in told if error is not None]
            others = [error for error in errors if not isinstance(error, Undelivered)]
            if others:
                raise others[0]
            if not errors:
                return
            log.warning("events wait for the broker", extra={"messages": len(messages), "error": str(errors[0])})
            await asyncio.sleep(LOOK_S)

    async def _scoped(self, changes: Sequence[Change]) -> list[tuple[str, bytes]]:
        """The copies for scoped integrations. Raises Unavailable."""
        published = [change for change in changes if _is_published(change)]
        copies = []
        for name, scope in (await integrations.scopes(self._db)).items() if published else ():
            for change in await Seen(self._db, scope).of(published):
                topic = EventTopic(change.kind, change.id, name)
                copies.append((self._topics.build(topic), self._payload(change)))
        return copies

    def _messages(self, change: Change) -> list[tuple[str, bytes]]:
        if not _is_published(change):
            return []
        found = [(self._topics.build(EventTopic(change.kind, change.id)), self._payload(change))]
        if change.kind == "notification" and change.op == "created" and change.resource is not None:
            severity = self._topics.build(NotificationTopic(change.resource["severity"]))
            found.append((severity, dumps(self._head() | change.resource).encode()))
        return found

    def _payload(self, change: Change) -> bytes:
        body = self._head() | change.body()
        payload = dumps(body).encode()
        return payload if len(payload) <= MAX_BYTES else dumps(body | {"resource": None, "too_large": True}).encode()

    def _head(self) -> dict[str, Any]:
        return {"v": 1, "sent_at": time_text(self._clock())}


def _is_published(change: Change) -> bool:
    kind = BY_NAME.get(change.kind)
    return kind is not None and kind.published

"""The list of revoked certificates, made and told to whoever runs the broker, on a topic that only its identity may read.

It is looked at twice a second, and told whole: when it differs (or the CAs do), when the broker is connected anew, when somebody asks,
and once a minute. What is in it is `inventory.revocation`'s and the database's; what brokers do with it, `broker.revocations`'s. One
replica at a time does this; two for a moment would only repeat each other. A broker that is away stalls nobody, and hears the list when
it is back.

Called by `inventory.service`. Source: docs/adr/0023, RFC 5280 section 5.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

from broker.revocations import RevocationList, Revoked, parts_of
from inventory.authority import Authority
from inventory.certificates import Why, Withdrawn
from inventory.db import SQL, Database
from inventory.publisher import Undelivered, sole

log = logging.getLogger(__name__)

LOCK = 0x666C7764_0031
"""Advisory lock of the one that tells (`inventory.db` says how they are numbered)."""
LOOK_S = 0.5
"""How often the list is looked at, in seconds: of the 5 s within which a connection is to end."""
AGAIN_S = 60.0
"""How often it is told without a reason, in seconds."""

Publish = Callable[[bytes], Awaitable[None]]
"""Of one message, returning when the broker has acknowledged. Raises Undelivered."""


class Teller:
    """`run` until cancelled. `connections`: how many the session with the broker has had. `mono`: a monotonic clock in seconds."""

    def __init__(
        self,
        db: Database,
        authority: Authority,
        publish: Publish,
        connections: Callable[[], int],
        clock: Callable[[], datetime],
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._authority, self._publish, self._connections = db, authority, publish, connections
        self._clock, self._mono = clock, mono
        self._mark: tuple[str, str] | None = None
        self._list = RevocationList()
        self._told: tuple[int, int] | None = None
        """The list's number and the connection, where it has been told."""
        self._due = 0.0
        self._asked = False

    def ask(self) -> None:
        """Somebody wants to be told: all of it, and so once more where it is being told just now."""
        self._asked = True

    async def run(self) -> None:
        """Raises Unavailable when the database is lost; run it again then."""
        async with sole(self._db, LOCK) as held:
            log.info("telling which certificates are revoked")
            while not held.is_closed():
                await self.look()
                await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Once: make another list where it differs, tell it where that is due. Raises Unavailable."""
        now = self._clock()
        async with self._db.acquire() as connection:
            mark = await connection.fetchval(SQL["revoked_mark"], now), self._authority.ca_pem
        if mark != self._mark:
            self._list, self._mark = await self._made(now), mark
        if self._asked or self._told != (self._list.number, self._connections()) or self._mono() >= self._due:
            await self._tell()

    async def _made(self, now: datetime) -> RevocationList:
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["revoked_certificates"], now)
            number = int(await connection.fetchval(SQL["next_list_number"]))
        withdrawn = [Withdrawn(row["serial"], row["name"], Why(row["why"])) for row in rows]
        crl = await asyncio.to_thread(self._authority.revocation_lists, withdrawn, number)
        log.info("another list of revoked certificates", extra={"certificates": len(withdrawn), "number": number})
        return RevocationList(number, tuple(Revoked(one.serial, one.name) for one in withdrawn), crl)

    async def _tell(self) -> None:
        connection, self._asked, self._told = self._connections(), False, None
        try:
            for part in parts_of(self._list):
                await self._publish(part)
        except Undelivered as error:
            log.debug("the broker is not there to be told", extra={"error": str(error)})
            return
        self._told, self._due = (self._list.number, connection), self._mono() + AGAIN_S

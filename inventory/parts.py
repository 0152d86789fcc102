"""Parts of a process that nobody waits for, kept going: one that has lost the database, or failed for a reason that nobody foresaw, is
begun again, and the log says so. Called by the Inventory service and the web process.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from inventory.errors import Unavailable

log = logging.getLogger(__name__)

Part = Callable[[], Awaitable[None]]

RETRY_S = 1.0
"""Between tries of a part that has lost the database or the broker, in seconds."""
BROKEN_S = 5.0
"""Likewise of one that has failed for a reason that nobody foresaw."""


async def keep(name: str, part: Part) -> None:
    """Run it again and again, until cancelled."""
    while True:
        await keep_trying(name, part)
        await asyncio.sleep(RETRY_S)


async def keep_trying(name: str, part: Part) -> None:
    """Once to its end, however often that takes."""
    while True:
        try:
            await part()
            return
        except Unavailable as error:
            log.warning("waiting for the database", extra={"part": name, "error": str(error)})
            await asyncio.sleep(RETRY_S)
        except Exception:
            log.exception("part failed and is started again", extra={"part": name})
            await asyncio.sleep(BROKEN_S)

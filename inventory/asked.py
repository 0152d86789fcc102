"""Intents that have come and are not done yet: in turns by integration, so that one that floods delays itself alone.

Beyond its share an integration is refused, and told so as far as that goes: refusals wait in a bound of their own, and who gets none asks
again anyhow. Called by `inventory.service`; what an intent is, `inventory.intents` knows.
"""

import asyncio
import contextlib
import time
from collections import deque

from broker.topics import IntentTopic
from broker.turns import Share, Turns

SHARE = Share(items=500, size=8 * 1024 * 1024, burst=5000, a_second=1000.0)
"""Of an integration: about two seconds' work. Its pace is no bound here: intents are done one after the other."""
REFUSALS = 200
"""Refusals not yet sent; beyond it the oldest is dropped."""
REFUSALS_AT_ONCE = 20
"""Sent between two intents, so that saying no does not keep anybody from hearing yes."""
RETRY_AFTER_S = 2
"""What a refused integration is told to wait, in seconds: the time that its share takes."""

Ask = tuple[IntentTopic, bytes]


class Asked:
    """All on one event loop."""

    def __init__(self) -> None:
        self._turns: Turns[Ask] = Turns()
        self._refusals: deque[Ask] = deque(maxlen=REFUSALS)
        self._arrived = asyncio.Event()

    @property
    def refused(self) -> int:
        """Since the beginning."""
        return self._turns.refused

    def put(self, topic: IntentTopic, payload: bytes) -> bool:
        """False: refused."""
        taken = self._turns.put(topic.integration, SHARE, (topic, payload), len(payload), time.monotonic())
        if not taken:
            self._refusals.append((topic, payload))
        self._arrived.set()
        return taken

    async def next(self, seconds: float) -> Ask | None:
        """The next one's turn; None where there is none within `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (taken := self._turns.take(1, time.monotonic())):
                    self._arrived.clear()
                    await self._arrived.wait()
                return taken[0]
        return None

    def refusals(self) -> list[Ask]:
        """Some that were refused and have not been told."""
        return [self._refusals.popleft() for _ in range(min(REFUSALS_AT_ONCE, len(self._refusals)))]

"""Inventory under senders that take more than their share: the others are heard in time, and what is refused is told."""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from broker.client import DEVICE
from inventory.asked import SHARE
from inventory.db import Database
from inventory.store import Store
from tests.inventory_wire.device import log_message
from tests.inventory_wire.installation import Installation, until
from tests.inventory_wire.test_service import clients, connected, enroll, moment, place, reader
from tests.waiting import Stopwatch

__all__ = ["place"]

TIMELY_S = 2.0
"""An acknowledgement later than that is one for which people would notice the flood; an agent sends again after 5 s."""


async def test_a_device_that_floods_delays_only_itself(place: Installation, db: Database, store: Store) -> None:
    """4,000 durable messages at once, all genuine: another's facts are acknowledged in time, and the flooder's are written at its pace."""
    await place.start("inventory")
    flooder, calm = await enroll(place, db, store, "t-1"), await enroll(place, db, store, "t-2")
    async with connected(place, flooder) as loud, connected(place, calm) as quiet:
        payloads = [flooder.payload(log_message(f"l{n}")) for n in range(4000)]
        flooded = time.monotonic()
        for payload in payloads:
            loud.client._client.publish(flooder.topic("up/log"), payload, qos=0)
        await until(lambda: loud.acked() >= 50, "the flood to be under way")
        waits = []
        for n in range(1, 6):
            watch = Stopwatch()
            await quiet.say(calm.facts(os={"kernel": str(n)}), seq=n)
            await until(lambda n=n: quiet.has(n), "the calm one's acknowledgement")  # type: ignore[misc]
            waits.append(watch.seconds())
        assert max(waits) < TIMELY_S

        async def written() -> int:
            async with db.acquire() as connection:
                return int(await connection.fetchval("SELECT count(*) FROM device_log"))

        await until(lambda: _at_least(written, DEVICE.items), "its share to be written")
    assert await written() <= DEVICE.burst + DEVICE.a_second * (time.monotonic() - flooded)


async def _at_least(count: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await count() >= wanted


async def test_an_integration_that_floods_is_told_so_and_others_are_answered(place: Installation, db: Database, store: Store) -> None:
    """1,500 intents at once: its share is done, the rest is refused with 429 and when to come back; another's is done in time."""
    await place.start("inventory")
    device = await enroll(place, db, store)

    def intent(correlation: str) -> str:
        return json.dumps({"patch": {"title": correlation}, "correlation": correlation, "not_after": moment()})

    async with reader(place, db, "loud", "unsigned") as loud, reader(place, db, "quiet", "unsigned") as quiet:

        def ask(name: str, correlation: str) -> None:
            clients[name]._client.publish(f"fleet/v1/intents/{name}/host/{device.id}", intent(correlation), qos=0)

        def replies(got: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
            return [body for topic, body in got if "/replies/" in topic]

        for name, got in (("loud", loud), ("quiet", quiet)):

            def granted(name: str = name, got: list[tuple[str, dict[str, Any]]] = got) -> bool:
                """Mosquitto may take a moment to read the new rules."""
                ask(name, "first")
                return bool(replies(got))

            await until(granted, "the first reply")
        for n in range(3 * SHARE.items):
            ask("loud", f"c{n}")
        watch = Stopwatch()
        ask("quiet", "mine")
        mine = await until(lambda: [b for b in replies(quiet) if (b.get("resource") or {}).get("title") == "mine"], "the other's reply")
        assert watch.seconds() < TIMELY_S and mine[0]["status"] == 200
        await until(lambda: any(body["status"] == 429 for body in replies(loud)), "a refusal")
        refusal = next(body for body in replies(loud) if body["status"] == 429)
        assert refusal["retry_after"] > 0 and "faster" in refusal["detail"]
        await until(lambda: sum(body["status"] == 200 for body in replies(loud)) > 100, "much of its share to be done")

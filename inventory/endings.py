"""Tells people of devices whose certificate has ended while they were away: until when they get back in by themselves.

Each end is told once, by whichever replica comes first (`device_trust.told_end`). Called by `inventory.service`, once an hour.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from inventory import reports
from inventory.actor import Actor
from inventory.db import SQL
from inventory.kinds import BY_NAME
from inventory.store import Store

FEW = 5
"""Up to so many devices are told of one by one; more of them together."""
NAMED = 3


async def tell(store: Store, grace: timedelta) -> int:
    """How many certificates have ended that nobody was told of. Raises Unavailable."""

    async def once() -> int:
        async with store.transaction() as w:
            ended = await w.tx.raw.fetch(SQL["ended_certificates"], store.clock())
            if len(ended) <= FEW:
                for row in ended:
                    await reports.notify(w, row["host"], "warning", "CertificateEnded", _words(row["expires_at"], grace))
            else:
                await w.make(BY_NAME["notification"], _together(ended, grace), Actor.inventory())
            return len(ended)

    return await store.retrying(once)


def _words(ended: datetime, grace: timedelta) -> str:
    return f"Its certificate ended on {ended:%Y-%m-%d}. It gets back in by itself until {ended + grace:%Y-%m-%d}, then with a new token."


def _together(ended: Sequence[Any], grace: timedelta) -> dict[str, Any]:
    names = ", ".join(row["name"] for row in ended[:NAMED])
    last = min(row["expires_at"] for row in ended) + grace
    text = f"The certificates of {len(ended)} devices have ended ({names} and {len(ended) - NAMED} more): they get back in by themselves"
    about = {"kind": "host", "id": ended[0]["host"]}
    return {"severity": "warning", "type": "CertificateEnded", "message": f"{text} until {last:%Y-%m-%d} at least.", "about": about}

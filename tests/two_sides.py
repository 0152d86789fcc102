"""A fleet of two sides, for tests of scopes: hosts within a scope and hosts outside, each with one of everything that hangs on a host.

Whatever is of the other side has OUTSIDE in its text, so that a single word in an answer tells that a scope leaks.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from inventory.actor import Actor
from inventory.db import Database, dumps
from inventory.store import Store

SCOPE = 'labels.side = "inside"'
INSIDE, OUTSIDE = "inside", "outside"
ADMIN = Actor.user("admin", "admin")
SYSTEM = Actor.system()
HANGING = ("component", "host-config", "command", "notification")


@dataclass
class Side:
    """Ids of one side by kind."""

    ids: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.ids["host"]


@dataclass
class Sides:
    """Both, and what belongs to no host."""

    inside: Side
    outside: Side
    of_none: dict[str, str]

    @property
    def of_outside(self) -> list[str]:
        return list(self.outside.ids.values())


async def two_sides(db: Database) -> Sides:
    """Make one."""
    store = Store(db)
    region = await store.create("region", {"name": "north"}, ADMIN)
    site = await store.create("site", {"name": "plant", "region": "north"}, ADMIN)
    file = {"path": "/etc/motd", "content": "hello"}
    config = await store.create("config", {"name": "motd", "selector": "labels.side:*", "files": [file]}, ADMIN)
    token = await store.create("enrollment-token", {"name": "crate"}, ADMIN, extra={"token_hash": "0" * 64})
    of_none = {each["kind"]: each["id"] for each in (region, site, config, token)}
    return Sides(await one_side(store, INSIDE, config["id"]), await one_side(store, OUTSIDE, config["id"]), of_none)


async def one_side(store: Store, side: str, config: str) -> Side:
    """A host with everything on it. All of it is called by its side."""
    host = await store.create(
        "host", {"name": f"{side}-press", "site": "plant", "labels": {"side": side}, "desired_state": "onboarded"}, ADMIN
    )
    made = Side({"host": host["id"]})
    for kind, values in things(host["id"], side, config).items():
        made.ids[kind] = (await store.make(kind, values, SYSTEM))["id"]
    await _narrow_tables(store.db, host["id"], side)
    return made


def things(host: str, side: str, config: str) -> dict[str, dict[str, Any]]:
    """What hangs on a host, by kind."""
    now = datetime.now(UTC)
    status = {"indicator": "error", "reason": "PolicyRefused", "message": f"{side} says no", "since": now.isoformat(), "halted": True}
    about = {"kind": "host", "id": host}
    return {
        "component": {
            "host": host,
            "type": "disk",
            "key": f"{side}-disk",
            "attributes": {"model": side},
            "first_seen": now,
            "last_seen": now,
        },
        "host-config": {"host": host, "config": config, "status": status},
        "command": {"host": host, "verb": "config.apply", "args": {"side": side}, "not_after": now + timedelta(hours=1)},
        "notification": {"severity": "warning", "type": "HostOffline", "message": f"{side} is offline", "host": host, "about": about},
    }


async def _narrow_tables(db: Database, host: str, side: str) -> None:
    """What devices bring, which no store writes."""
    evidence = dumps({"serial": f"{side}-serial", "hostname": side})
    async with db.transaction() as tx:
        await tx.raw.execute("INSERT INTO device_liveness (host, last_seen) VALUES ($1, now())", host)
        await tx.raw.execute(
            "INSERT INTO host_facts (host, section, hash, data, updated_at) VALUES ($1, 'os', 'x', $2::jsonb, now())",
            host,
            dumps({"side": side}),
        )
        await tx.raw.execute(
            "INSERT INTO enrollment_request (host, fingerprint, token, evidence, same_as, created_at, asked_at) "
            "VALUES ($1, $2, 'tok', $3::jsonb, '[]', now(), now())",
            host,
            side,
            evidence,
        )

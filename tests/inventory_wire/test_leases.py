"""Shards among replicas on a real database: one takes all, two share, a dead one's move; and whose silence counts."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from broker.client import SubscriptionRefused
from broker.topics import SHARDS, Topics, shard_of
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.db import Database
from inventory.leases import Leases
from inventory.presence import sweep
from inventory.store import Store
from tests.inventory_wire.device import make_device

TOPICS = Topics()


class Ears:
    """The subscriptions of a session, without a broker."""

    def __init__(self) -> None:
        self.filters: set[str] = set()
        self.refuses = False

    async def subscribe(self, *filters: str, qos: int = 1) -> None:
        if self.refuses:
            raise SubscriptionRefused(list(filters))
        self.filters |= set(filters)

    async def unsubscribe(self, *filters: str) -> None:
        self.filters -= set(filters)


class Replica:
    """One replica's leases."""

    def __init__(self, db: Database, name: str) -> None:
        self.ears = Ears()
        self.moved = 0
        self.leases = Leases(db, TOPICS, self.ears, name, 8.0, self._moved)

    def _moved(self) -> None:
        self.moved += 1

    async def step(self, hearing: bool = True) -> int:
        await self.leases.step(hearing)
        return len(self.leases.held)


@pytest.fixture
def replica(db: Database) -> Callable[[str], Replica]:
    return lambda name: Replica(db, name)


async def forward(db: Database, seconds: float) -> None:
    """Let time pass for leases, replicas and liveness: everything that is dated moves into the past."""
    async with db.acquire() as connection:
        for table, column in (
            ("ingest_lease", "until"),
            ("ingest_lease", "subscribed_since"),
            ("ingest_replica", "seen_at"),
            ("device_liveness", "last_seen"),
            ("device_stream", "session_since"),
            ("host", "updated_at"),
        ):
            await connection.execute(f"UPDATE {table} SET {column} = {column} - make_interval(secs => $1)", seconds)


async def test_one_replica_holds_all_by_one_subscription(replica: Callable[[str], Replica]) -> None:
    """A wildcard instead of 256 filters."""
    one = replica("one")
    assert await one.step() == 256
    assert one.ears.filters == {TOPICS.uplinks()}
    assert await one.step() == 256 and one.moved == 1


async def test_two_replicas_share_and_every_shard_is_heard(replica: Callable[[str], Replica]) -> None:
    """The first gives half away; a filter a shard from then on."""
    one, two = replica("one"), replica("two")
    await one.step()
    assert await two.step() == 0
    assert await one.step() == 128
    assert await two.step() == 128
    assert one.leases.held | two.leases.held == set(SHARDS) and not one.leases.held & two.leases.held
    assert one.ears.filters | two.ears.filters == {TOPICS.uplinks(shard) for shard in SHARDS}


async def test_a_dead_replicas_shards_move_when_its_lease_has_run_out(db: Database, replica: Callable[[str], Replica]) -> None:
    """Not before, and then all at once."""
    one, two = replica("one"), replica("two")
    await one.step()
    await two.step()
    await one.step()
    await two.step()
    await forward(db, 4)
    assert await two.step() == 128
    await forward(db, 5)
    assert await two.step() == 256
    assert two.ears.filters == {TOPICS.uplinks()}


async def test_a_clock_set_back_frees_what_a_dead_replica_holds(db: Database, replica: Callable[[str], Replica]) -> None:
    """A lease that ends in a day, and a replica that was seen in a day, are of a clock that was wrong."""
    await replica("dead").step()
    await forward(db, -86400)
    assert await replica("two").step() == 256


async def test_a_replica_that_was_paused_finds_out(db: Database, replica: Callable[[str], Replica]) -> None:
    """What was taken from it meanwhile it no longer holds."""
    one, two = replica("one"), replica("two")
    await one.step()
    await forward(db, 20)
    assert await two.step() == 256
    assert await one.step() == 0
    assert one.ears.filters == set()


async def test_what_is_released_is_taken_at_once(replica: Callable[[str], Replica]) -> None:
    """A replica that ends says so."""
    one, two = replica("one"), replica("two")
    await one.step()
    await one.leases.release()
    assert await two.step() == 256


async def test_what_another_one_had_meanwhile_comes_anew(db: Database, replica: Callable[[str], Replica]) -> None:
    """One that stood still for so long that another came, listened and went: it is told that others may have written, and its devices'
    silence is judged again."""
    one, two = replica("one"), replica("two")
    await one.step()
    await forward(db, 100)
    assert await two.step() == 256
    await two.leases.release()
    assert await one.step() == 256 and one.moved == 2
    await one.step()
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM ingest_lease WHERE subscribed_since IS NOT NULL") == 256


async def test_what_the_broker_refuses_is_asked_for_again(db: Database, replica: Callable[[str], Replica]) -> None:
    """The session forgets what was refused. Until it is granted nothing is heard, and so no silence counts."""
    one = replica("one")
    one.ears.refuses = True
    for _ in range(3):
        with pytest.raises(SubscriptionRefused):
            await one.step()
    async with db.acquire() as connection:
        assert not await connection.fetchval("SELECT count(*) FROM ingest_lease WHERE subscribed_since IS NOT NULL")
    one.ears.refuses = False
    assert await one.step() == 256 and one.ears.filters == {TOPICS.uplinks()}


# --- silence --------------------------------------------------------------------------------------------------------------------


class House:
    """A host that is online, and a replica that listens to it. Its heartbeat is 30 s: stale after 38 s, offline after 95 s."""

    def __init__(self, db: Database, store: Store, replica: Replica, host: str) -> None:
        self.db, self.store, self.replica, self.host = db, store, replica, host

    async def after(self, seconds: float, *, listening: bool = True) -> str:
        """The presence after so long a silence, with the replica there all the while or not."""
        await forward(self.db, seconds)
        if listening:
            async with self.db.acquire() as connection:
                await connection.execute("UPDATE ingest_lease SET until = now() + interval '8 s'")
        await sweep(self.db, lambda: datetime.now(UTC))
        return str((await self.store.get("host", self.host))["presence"])


@pytest.fixture
async def house(db: Database, store: Store, authority: Authority, replica: Callable[[str], Replica]) -> House:
    device = await make_device(db, store, authority)
    await store.write("host", device.id, {"presence": "online"}, Actor.inventory())
    async with db.acquire() as connection:
        await connection.execute("INSERT INTO device_liveness (host, last_seen) VALUES ($1, now())", device.id)
    one = replica("one")
    await one.step()
    await one.step()
    return House(db, store, one, device.id)


async def test_one_missed_heartbeat_is_stale_and_three_are_offline(house: House) -> None:
    """At 1.1 and 3 heartbeats, and 5 s each."""
    assert await house.after(30) == "online"
    assert await house.after(10) == "stale"
    assert await house.after(50) == "stale"
    assert await house.after(10) == "offline"


async def test_the_interval_is_the_devices_own(house: House) -> None:
    """One that speaks every five minutes is not offline after two."""
    async with house.db.acquire() as connection:
        await connection.execute("UPDATE device_stream SET heartbeat_s = 300")
    assert await house.after(300) == "online"
    assert await house.after(40) == "stale"
    assert await house.after(570) == "offline"


async def test_inventorys_own_absence_makes_nobody_offline(house: House) -> None:
    """Nobody listened for an hour: nothing is said of the host; then it has all its time from the subscription on."""
    assert await house.after(3600, listening=False) == "online"
    await house.replica.step()
    await house.replica.step()
    assert await house.after(30) == "online"
    assert await house.after(70) == "offline"


async def test_a_lost_broker_is_an_absence_too(house: House) -> None:
    """The lease is ours, but we hear nothing."""
    await house.replica.step(hearing=False)
    assert await house.after(3600) == "online"
    house.replica.leases.interrupted()
    await house.replica.step()
    assert await house.after(30) == "online"
    assert await house.after(70) == "offline"


async def test_a_short_interruption_counts_anew(house: House) -> None:
    """Gone and back between two steps: the silence before says nothing."""
    await house.after(90)
    async with house.db.acquire() as connection:
        await connection.execute("UPDATE host SET presence = 'online'")
    house.replica.leases.interrupted()
    await house.replica.step()
    assert await house.after(20) == "online"


async def test_a_clock_set_back_does_not_hide_silence(house: House) -> None:
    """What was seen by a clock a day ahead says nothing: the silence counts from when the replica has found out."""
    await forward(house.db, -86400)
    await house.replica.step()
    await house.replica.step()
    assert await house.after(30) == "online"
    assert await house.after(70) == "offline"


async def test_a_sweep_writes_once(house: House) -> None:
    """A host that stays stale or offline gets no further versions."""
    await house.after(40)
    version = (await house.store.get("host", house.host))["version"]
    await house.after(10)
    assert (await house.store.get("host", house.host))["version"] == version
    await house.after(100)
    version = (await house.store.get("host", house.host))["version"]
    assert await house.after(1000) == "offline"
    assert (await house.store.get("host", house.host))["version"] == version


async def test_only_the_listened_to_shard_counts(house: House) -> None:
    """The shard in SQL is the one that topics are made with."""
    async with house.db.acquire() as connection:
        await connection.execute("UPDATE ingest_lease SET subscribed_since = NULL WHERE shard = $1", shard_of(house.host))
    assert await house.after(1000) == "online"


async def test_hosts_never_seen_are_left_alone(db: Database, store: Store, house: House) -> None:
    """Silence of what never spoke says nothing."""
    made: dict[str, Any] = await store.create("host", {"name": "planned"}, Actor.user("admin", "admin"))
    await house.after(1000)
    assert (await store.get("host", made["id"]))["presence"] == "never"

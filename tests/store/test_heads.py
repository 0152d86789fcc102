"""The witness: heads of the change log, signed while it stands on what was signed before, and people told when it does not."""

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from inventory import heads, seals
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import Database, Tx
from inventory.errors import Unavailable
from inventory.heads import Witness
from inventory.seals import Sealer
from inventory.store import ListQuery, Store
from tests.store import tampering

NOW = datetime(2026, 11, 26, 18, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def witness(store: Store) -> Witness:
    return Witness(store, Sealer(bytes(range(32))))


async def write(store: Store, admin: Actor, name: str) -> None:
    await store.create("region", {"name": name}, admin)
    await Relay(store.db).step()


async def kept(db: Database) -> list[int]:
    async with db.acquire() as connection:
        return [row["position"] for row in await connection.fetch("SELECT position FROM chain_heads ORDER BY position")]


async def test_a_head_is_signed_where_the_log_has_moved(store: Store, db: Database, witness: Witness, admin: Actor) -> None:
    """Nothing before the first change; then its position and hash, by the key; the same again while nothing happens."""
    assert await witness.step(NOW) is None
    await write(store, admin, "one")
    head = await witness.step(NOW)
    assert head is not None and head.position == 1
    assert seals.stands(Sealer(bytes(range(32))).public, head.signed(), head.signature)
    assert await witness.step(NOW + MINUTE) == head
    assert await heads.newest_of(db) == head


async def test_one_head_an_hour_is_kept(store: Store, db: Database, witness: Witness, admin: Actor) -> None:
    """And the newest; another process goes on from it."""
    for n in range(10):
        await write(store, admin, f"r{n}")
        await (witness if n < 6 else Witness(store, Sealer(bytes(range(32))))).step(NOW + n * 20 * MINUTE)
    assert await kept(db) == [1, 4, 7, 10]


async def _cut(tx: Tx) -> None:
    await tx.raw.execute("DELETE FROM changes WHERE position > 2")
    await tx.raw.execute("UPDATE relay SET position = 2, hash = (SELECT hash FROM changes WHERE position = 2)")


async def _rewrite(tx: Tx) -> None:
    await tampering.recompute(random.Random(3), tx.raw)


async def _forge(tx: Tx) -> None:
    await tx.raw.execute("UPDATE chain_heads SET position = position + 1")
    await tx.raw.execute("UPDATE relay SET position = position + 1")


@pytest.mark.parametrize(("tamper", "said"), [(_cut, "now ends at 2"), (_rewrite, "not what it was"), (_forge, "not signed with")])
async def test_a_rewritten_log_is_not_signed(
    tamper: Callable[[Tx], Awaitable[None]], said: str, store: Store, db: Database, witness: Witness, admin: Actor
) -> None:
    """People are told once, in the critical tone, and no further head is signed on top of it."""
    for n in range(5):
        await write(store, admin, f"r{n}")
    assert (await witness.step(NOW)) is not None
    before = await kept(db)
    async with db.transaction() as tx:
        await tamper(tx)
    new = Witness(store, Sealer(bytes(range(32)))) if tamper is _forge else witness
    for n in range(3):
        assert await new.step(NOW + n * MINUTE) is None
    assert said in new.broken
    [told] = (await store.list("notification", ListQuery())).items
    assert (told["severity"], told["type"]) == ("critical", "AuditBroken")
    assert said in told["message"]
    assert len(await kept(db)) == len(before)


async def test_people_who_could_not_be_told_are_told_later(
    store: Store, db: Database, witness: Witness, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may be away at just that moment; then once, and nothing is signed meanwhile."""
    for n in range(5):
        await write(store, admin, f"r{n}")
    await witness.step(NOW)
    async with db.transaction() as tx:
        await _cut(tx)

    async def away(*_: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "make", away)
        with pytest.raises(Unavailable):
            await witness.step(NOW + MINUTE)
    for n in range(2, 4):
        assert await witness.step(NOW + n * MINUTE) is None
    [told] = (await store.list("notification", ListQuery())).items
    assert told["type"] == "AuditBroken"
    assert await kept(db) == [5]

"""What happens to accounts is in the change log, and only there."""

from datetime import UTC, datetime

from inventory import account_log, changes
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import Database
from inventory.kinds import BY_NAME

NOW = datetime(2026, 11, 26, tzinfo=UTC)
ADMIN = Actor.user("admin", "admin", "127.0.0.1")


async def test_a_change_is_recorded_with_its_write_or_not_at_all(db: Database) -> None:
    """Made, changed, changed into the same, deleted: three rows with who, from where, before and after; a rollback leaves none."""
    made, changed = {"name": "ann", "role": "viewer"}, {"name": "ann", "role": "operator"}
    steps = ((None, made), (made, changed), (changed, changed), (changed, None))
    async with db.transaction() as tx:
        for before, after in steps:
            await account_log.record(tx, ADMIN, "user", "user-1", NOW, before=before, after=after)
    try:
        async with db.transaction() as tx:
            await account_log.record(tx, ADMIN, "user", "user-2", NOW, after=made)
            raise LookupError
    except LookupError:
        pass
    await Relay(db).step()
    found = (await changes.read(db, 0)).changes
    assert [(each.op, each.changed, each.before, each.resource) for each in found] == [
        ("created", (), None, made),
        ("updated", ("role",), {"role": "viewer"}, changed),
        ("deleted", (), changed, None),
    ]
    assert {each.id for each in found} == {"user-1"}
    assert found[0].actor == {"type": "user", "name": "admin", "address": "127.0.0.1"}


def test_no_kind_of_account_is_published() -> None:
    """What is not in the registry reaches neither streams nor the broker."""
    assert not set(account_log.ACCOUNT_KINDS) & BY_NAME.keys()

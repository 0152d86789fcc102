"""What happens to accounts is in the change log, and only there."""

from datetime import UTC, datetime

import pytest

from inventory import account_log, changes
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import Database
from inventory.kinds import BY_NAME
from inventory.tables import User

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


@pytest.mark.parametrize("name", sorted(account_log.SECRETS))
async def test_a_secret_is_told_as_changed_and_not_what_it_is(db: Database, name: str) -> None:
    """Whichever member holds it, at whatever depth, on both sides."""
    async with db.transaction() as tx:
        await account_log.record(tx, ADMIN, "user", "user-1", NOW, before={name: "was-it"}, after={name: "is-it"})
    await Relay(db).step()
    [change] = (await changes.read(db, 0)).changes
    assert change.changed == (name,)
    assert "s-it" not in str(change)
    assert account_log.redacted({"deep": [{name: "is-it"}]}) == {"deep": [{name: account_log.REDACTED}]}


@pytest.mark.parametrize(("name", "id", "actor"), [("ann", "user-1", {"name": "ann"}), ("hunter2", account_log.UNKNOWN, {})])
async def test_a_refused_sign_in_names_only_who_there_is(db: Database, name: str, id: str, actor: dict[str, str]) -> None:
    """With the address it came from; what nobody is called is left out, since people type their password there."""
    async with db.transaction() as tx:
        await User.create(id="user-1", name="ann", password="-", role="viewer", created_at=NOW, using_db=tx.client)
    await account_log.refused(db, name, "192.0.2.9", "wrong name or password", NOW)
    await Relay(db).step()
    [change] = (await changes.read(db, 0)).changes
    assert (change.kind, change.op, change.id) == ("sign-in", "refused", id)
    assert change.actor == {"type": "stranger", "address": "192.0.2.9"} | actor
    assert "hunter2" not in str(change)


def test_no_kind_of_account_is_published() -> None:
    """What is not in the registry reaches neither streams nor the broker."""
    assert not account_log.ACCOUNT_KINDS.keys() & BY_NAME.keys()

"""Users, their sessions and API tokens, as the inventory keeps them."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from inventory import accounts, api_tokens, changes, passwords, sessions, users
from inventory.actor import Actor
from inventory.changes import Relay
from inventory.db import Database
from inventory.errors import Conflict, Forbidden, Invalid, NotFound
from inventory.sessions import Browser
from inventory.users import Known

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
ADMIN = Actor.user("admin", "admin", "127.0.0.1")
GOOD = "correct horse battery staple"
DAY = timedelta(days=1)
_LOCKS = re.compile(r"0x666C7764_\w+")


async def _admins(db: Database, *names: str) -> None:
    for name in names:
        await accounts.add_user(db, name, GOOD, "admin", NOW)


async def _tx(db: Database, act: Any) -> Any:
    async with db.transaction() as tx:
        return await act(tx)


async def _change(db: Database, name: str, **patch: Any) -> Any:
    return await _tx(db, lambda tx: users.change(tx, ADMIN, name, patch, NOW))


async def test_somebody_can_always_administer(db: Database) -> None:
    """The last administrator with a password of their own is neither demoted, disabled nor deleted; others don't stand in for them: one
    with a one-time password, a disabled one, one whom a provider signs in."""
    await _admins(db, "admin")
    await _tx(db, lambda tx: users.create(tx, ADMIN, {"name": "fresh", "role": "admin"}, "x", NOW))
    await _tx(db, lambda tx: users.from_provider(tx, Known("https://id.example", "1", "far", "", "admin"), "", NOW))
    await _admins(db, "off")
    await _change(db, "off", disabled=True)
    for patch in ({"role": "operator"}, {"disabled": True}):
        with pytest.raises(Conflict, match="only administrator"):
            await _change(db, "admin", **patch)
    with pytest.raises(Conflict, match="only administrator"):
        await _tx(db, lambda tx: users.delete(tx, ADMIN, "admin", NOW))
    await _change(db, "admin", title="Still here", role="admin")
    await _change(db, "off", disabled=False)
    await _change(db, "admin", role="viewer")
    assert (await users.get(db, "admin"))["role"] == "viewer"


async def test_two_who_demote_each_other_leave_one(db: Database) -> None:
    """At the same time, ten times over."""
    await _admins(db, "ann", "bob")
    for _ in range(10):
        tried = await asyncio.gather(_change(db, "ann", role="viewer"), _change(db, "bob", role="viewer"), return_exceptions=True)
        assert [type(each) for each in tried].count(Conflict) == 1
        for name in ("ann", "bob"):
            await _change(db, name, role="admin")


async def test_a_one_time_password_ends(db: Database) -> None:
    """It signs in once, has to be changed, is worth nothing after its time; the sessions of before it end."""
    await _admins(db, "admin")
    hashed = await passwords.hashed("one-time-one-time")
    made = await _tx(db, lambda tx: users.create(tx, ADMIN, {"name": "ann", "title": "Ann"}, hashed, NOW))
    assert (made["role"], made["must_change_password"]) == ("viewer", True)
    checked = await accounts.check_password(db, "ann", "one-time-one-time", NOW)
    assert checked is not None and checked.one_time and not checked.ended
    late = await accounts.check_password(db, "ann", "one-time-one-time", NOW + passwords.ONE_TIME)
    assert late is not None and late.ended
    opened = await sessions.open_session(db, checked.account, Browser("::1", "x"), "password", NOW, DAY)
    found = await accounts.find_session(db, opened.secret, NOW, DAY)
    assert found is not None and found.one_time
    own = await passwords.hashed(GOOD)
    await _tx(db, lambda tx: users.set_own_password(tx, ADMIN, found.account.id, own, found.id, NOW))
    found = await accounts.find_session(db, opened.secret, NOW, DAY)
    assert found is not None and not found.one_time
    await _tx(db, lambda tx: users.reset_password(tx, ADMIN, "ann", hashed, NOW))
    assert await accounts.find_session(db, opened.secret, NOW, DAY) is None
    assert await accounts.check_password(db, "ann", GOOD, NOW) is None


async def test_a_password_that_was_reset_meanwhile_is_not_changed(db: Database) -> None:
    """Between the look at the present one and the change: an administrator's word is the last."""
    await _admins(db, "admin", "ann")
    checked = await accounts.check_password(db, "ann", GOOD, NOW)
    assert checked is not None
    opened = await sessions.open_session(db, checked.account, Browser("::1", "x"), "password", NOW, DAY)
    found = await accounts.find_session(db, opened.secret, NOW, DAY)
    assert found is not None
    own, one_time = await passwords.hashed("a password of one's own"), await passwords.hashed("one-time-one-time")
    await _tx(db, lambda tx: users.reset_password(tx, ADMIN, "ann", one_time, NOW))
    with pytest.raises(Forbidden, match="ended meanwhile"):
        await _tx(db, lambda tx: users.set_own_password(tx, ADMIN, found.account.id, own, found.id, NOW))
    assert await accounts.check_password(db, "ann", "one-time-one-time", NOW) is not None


async def test_a_password_that_was_reset_meanwhile_opens_nothing(db: Database) -> None:
    """Between the look at it and the session: the reset has ended what there was, and this would be one more."""
    await _admins(db, "admin", "ann")
    checked = await accounts.check_password(db, "ann", GOOD, NOW)
    assert checked is not None
    one_time, later = await passwords.hashed("one-time-one-time"), NOW + timedelta(seconds=1)
    await _tx(db, lambda tx: users.reset_password(tx, ADMIN, "ann", one_time, later))
    for since, name in ((checked.since, "ann"), (None, "nobody")):
        account = checked.account if name == "ann" else accounts.Account("user-nobody", "nobody", "viewer")
        with pytest.raises(Forbidden, match="meanwhile"):
            await sessions.open_session(db, account, Browser("::1", "x"), "password", later, DAY, since=since)
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM sessions") == 0
    anew = await accounts.check_password(db, "ann", "one-time-one-time", later)
    assert anew is not None
    opened = await sessions.open_session(db, anew.account, Browser("::1", "x"), "password", later, DAY, since=anew.since)
    assert await accounts.find_session(db, opened.secret, later, DAY) is not None


async def test_a_sign_in_of_two_steps_is_finished_once(db: Database) -> None:
    """By who did the second step, or by a reset in between: the other one learns of it."""
    await _admins(db, "admin", "ann")
    checked = await accounts.check_password(db, "ann", GOOD, NOW)
    assert checked is not None
    first, second = [await sessions.begin(db, checked.account.id, NOW) for _ in range(2)]
    assert [await sessions.finish(db, first) for _ in range(2)] == [True, False]
    one_time = await passwords.hashed("one-time-one-time")
    await _tx(db, lambda tx: users.reset_password(tx, ADMIN, "ann", one_time, NOW))
    assert not await sessions.finish(db, second)


async def test_a_disabled_user_is_nobody(db: Database) -> None:
    """Neither password nor session; enabled again the password is good, the session stays gone."""
    await _admins(db, "admin", "ann")
    checked = await accounts.check_password(db, "ann", GOOD, NOW)
    assert checked is not None
    opened = await sessions.open_session(db, checked.account, Browser("::1", "x"), "password", NOW, DAY)
    await _change(db, "ann", disabled=True)
    assert await accounts.check_password(db, "ann", GOOD, NOW) is None
    assert await accounts.find_session(db, opened.secret, NOW, DAY) is None
    await _change(db, "ann", disabled=False)
    assert await accounts.check_password(db, "ann", GOOD, NOW) is not None
    assert await accounts.find_session(db, opened.secret, NOW, DAY) is None


@pytest.mark.parametrize(
    "body", [{}, {"name": "Ann"}, {"name": "ann", "role": "root"}, {"name": "ann", "password": "mine"}, {"name": "ann", "title": "a\nb"}]
)
async def test_what_can_be_no_user_is_refused(db: Database, body: dict[str, Any]) -> None:
    """Each with the member that is wrong; nobody chooses another's password."""
    with pytest.raises(Invalid) as refused:
        await _tx(db, lambda tx: users.create(tx, ADMIN, body, "x", NOW))
    assert refused.value.errors[0].pointer in ("/name", "/role", "/password", "/title")


async def test_who_the_provider_knows_is_known_by_issuer_and_subject(db: Database) -> None:
    """A new name is the same user; the role follows at each sign-in; a name that somebody with a password has is refused, and so is a
    disabled user, and a password for one."""
    await _admins(db, "admin")
    first = await _tx(db, lambda tx: users.from_provider(tx, Known("https://id.example", "42", "ann", "Ann", "viewer"), "::1", NOW))
    again = await _tx(db, lambda tx: users.from_provider(tx, Known("https://id.example", "42", "ann2", "Ann B", "operator"), "::1", NOW))
    assert (again.id, again.name, again.role, again.title) == (first.id, "ann", "operator", "Ann B")
    with pytest.raises(Forbidden, match="there is a user admin already"):
        await _tx(db, lambda tx: users.from_provider(tx, Known("https://id.example", "43", "admin", "", "admin"), "::1", NOW))
    with pytest.raises(Conflict, match="no password here"):
        await _tx(db, lambda tx: users.reset_password(tx, ADMIN, "ann", "x", NOW))
    with pytest.raises(Invalid, match="comes from the identity provider"):
        await _change(db, "ann", role="admin")
    assert await accounts.check_password(db, "ann", "", NOW) is None
    await _change(db, "ann", disabled=True)
    with pytest.raises(Forbidden, match="disabled"):
        await _tx(db, lambda tx: users.from_provider(tx, Known("https://id.example", "42", "ann", "Ann", "admin"), "::1", NOW))


async def test_a_scope_outlasts_the_next_sign_in_by_the_provider(db: Database) -> None:
    """The first one is the installation's; one that an administrator gives, or takes away, stays, whatever role the provider says."""
    await _admins(db, "admin")
    for number, (given, role) in enumerate(((None, "viewer"), ("labels.line = 5", "operator"), ("", "admin"), (None, "viewer"))):
        known = Known("https://id.example", "42", "ann", "Ann", role, "labels.line = 4")
        found = await _tx(db, lambda tx, known=known: users.from_provider(tx, known, "::1", NOW))
        assert (found.role, found.scope) == (role, ["labels.line = 4", "labels.line = 4", "labels.line = 5", ""][number])
        if given is not None:
            await _change(db, "ann", scope=given)
    assert (await users.get(db, "ann"))["scope"] == ""


async def test_all_of_it_is_in_the_log_without_a_secret(db: Database) -> None:
    """Made, changed, reset, signed in, revoked, deleted: who did it, before and after; neither password, hash, cookie nor token."""
    hashed = await passwords.hashed(GOOD)
    secret = api_tokens.random_token()
    made = await _tx(db, lambda tx: users.create(tx, ADMIN, {"name": "ann"}, hashed, NOW))
    await _change(db, "ann", role="operator")
    await _tx(db, lambda tx: users.reset_password(tx, ADMIN, "ann", hashed, NOW))
    account = accounts.Account(made["id"], "ann", "operator")
    opened = await sessions.open_session(db, account, Browser("192.0.2.1", "Firefox"), "password", NOW, DAY)
    token = await _tx(db, lambda tx: api_tokens.create(tx, ADMIN, {"name": "ci"}, accounts.digest(secret), NOW))
    await _tx(db, lambda tx: api_tokens.delete(tx, ADMIN, token["id"], NOW))
    await _tx(db, lambda tx: users.delete(tx, ADMIN, "ann", NOW))
    while await Relay(db).step():
        pass
    found = (await changes.read(db, 0)).changes
    assert [(each.kind, each.op, each.changed) for each in found] == [
        ("user", "created", ()),
        ("user", "updated", ("role",)),
        ("user", "updated", ("password",)),
        ("session", "created", ()),
        ("api-token", "created", ()),
        ("api-token", "deleted", ()),
        ("session", "deleted", ()),
        ("user", "deleted", ()),
    ]
    assert found[3].actor == {"type": "user", "name": "ann", "address": "192.0.2.1"}
    text = repr(found)
    for each in (hashed, secret, accounts.digest(secret), opened.secret, accounts.digest(opened.secret), opened.csrf, GOOD):
        assert each not in text


async def test_a_sign_in_under_way_ends(db: Database) -> None:
    """After its time, once it is done, and with the user's sessions."""
    await _admins(db, "ann")
    ann = (await users.get(db, "ann"))["id"]
    cookie, other = [await sessions.begin(db, ann, NOW) for _ in range(2)]
    assert await sessions.begun(db, cookie, NOW) == ann
    assert await sessions.begun(db, cookie, NOW + sessions.BEGUN) is None
    await sessions.finish(db, cookie)
    assert await sessions.begun(db, cookie, NOW) is None
    await _tx(db, lambda tx: sessions.end_all(tx, ADMIN, ann, NOW))
    assert await sessions.begun(db, other, NOW) is None


async def test_tokens_end_and_are_looked_after(db: Database) -> None:
    """In 90 days where nobody says when; when one was used last is kept; one that has ended is nobody's."""
    secret = api_tokens.random_token()
    made = await _tx(db, lambda tx: api_tokens.create(tx, ADMIN, {"name": "ci", "role": "operator"}, accounts.digest(secret), NOW))
    assert (made["expires_at"], made["last_used_at"], made["created_by"]) == ("2027-02-24T12:00:00.000Z", None, "admin")
    found = await accounts.find_token(db, secret, NOW + DAY)
    assert found is not None and (found.name, found.role, found.type) == ("ci", "operator", "token")
    assert (await api_tokens.get(db, "ci"))["last_used_at"] == "2026-11-27T12:00:00.000Z"
    assert await accounts.find_token(db, secret, NOW + api_tokens.LIFETIME) is None
    for end in ("tomorrow", "2027-01-01", "2027-01-01T00:00:00", "2026-11-26T11:59:59Z"):
        with pytest.raises(Invalid, match="expires_at"):
            await _tx(db, lambda tx, end=end: api_tokens.create(tx, ADMIN, {"name": "late", "expires_at": end}, "h", NOW))
    endless = await _tx(db, lambda tx: api_tokens.create(tx, ADMIN, {"name": "endless", "expires_at": None}, "h", NOW))
    assert endless["expires_at"] is None
    with pytest.raises(NotFound):
        await _tx(db, lambda tx: api_tokens.delete(tx, ADMIN, "nobody", NOW))


def test_no_two_advisory_locks_have_one_number() -> None:
    """Whoever takes the number of a lock that another process holds all its life waits for ever."""
    root = Path(__file__).parents[2]
    found = [
        number for part in ("inventory", "managers") for path in (root / part).rglob("*.py") for number in _LOCKS.findall(path.read_text())
    ]
    assert len(found) == len(set(found)) > 5

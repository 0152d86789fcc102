"""Codes of authenticator apps: the RFC's own, once each, and recovery codes."""

import asyncio
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from inventory import accounts, second_factor, users
from inventory.actor import Actor
from inventory.db import Database
from inventory.errors import Conflict, Invalid, Unavailable
from inventory.tables import RecoveryCode, User

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
KEY = b"k" * 32
ACTOR = Actor.user("ann", "viewer", "127.0.0.1")
STEP = timedelta(seconds=second_factor.STEP_S)


@pytest.mark.parametrize(("at", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")])
def test_codes_are_those_of_rfc_6238(at: int, code: str) -> None:
    """Appendix B, SHA-1, the last six digits."""
    assert second_factor.code_at(b"12345678901234567890", at // 30) == code


def test_a_code_is_good_for_its_step_and_one_beside() -> None:
    """Clocks may be 30 s off, not a minute; a step that was used, and any before it, is no longer good."""
    secret, current = b"s" * 20, int(NOW.timestamp()) // 30
    good = [
        step for step in range(current - 3, current + 4) if second_factor.accepted_step(secret, second_factor.code_at(secret, step), NOW, 0)
    ]
    assert good == [current - 1, current, current + 1]
    assert second_factor.accepted_step(secret, second_factor.code_at(secret, current), NOW, current) is None
    assert second_factor.accepted_step(secret, second_factor.code_at(secret, current - 1), NOW, current) is None
    for nonsense in ("", "abcdef", "12345", "1234567", "１２３４５６"):
        assert second_factor.accepted_step(secret, nonsense, NOW, 0) is None


def test_the_qr_code_says_what_apps_read() -> None:
    """The Key URI format: issuer, account, secret in base 32."""
    parts = urlsplit(second_factor.key_uri(b"s" * 20, "ann@plant"))
    assert (parts.scheme, parts.netloc, parts.path) == ("otpauth", "totp", "/Fleetward:ann%40plant")
    query = parse_qs(parts.query)
    assert query == {
        "secret": [second_factor.base32(b"s" * 20)],
        "issuer": ["Fleetward"],
        "algorithm": ["SHA1"],
        "digits": ["6"],
        "period": ["30"],
    }


def test_a_secret_is_sealed_for_its_user_under_the_key() -> None:
    """Another user's row, another key or a flipped bit open nothing."""
    sealed = second_factor.seal(KEY, "user-1", b"s" * 20)
    assert b"s" * 20 not in sealed
    assert second_factor.unseal(KEY, "user-1", sealed) == b"s" * 20
    for key, user, text in ((b"x" * 32, "user-1", sealed), (KEY, "user-2", sealed), (KEY, "user-1", sealed[:-1] + bytes([sealed[-1] ^ 1]))):
        with pytest.raises(Unavailable, match=r"session\.key"):
            second_factor.unseal(key, user, text)


async def _ann(db: Database) -> str:
    """The id of a user with a password."""
    await accounts.add_user(db, "ann", "correct horse battery staple", "viewer", NOW)
    return str((await users.get(db, "ann"))["id"])


async def _enrolled(db: Database, ann: str) -> tuple[bytes, list[str]]:
    async with db.transaction() as tx:
        secret = await second_factor.begin(tx, KEY, ann)
        codes = await second_factor.confirm(tx, KEY, ACTOR, ann, _code(secret, NOW), NOW)
    return secret, codes


def _code(secret: bytes, at: datetime) -> str:
    return second_factor.code_at(secret, int(at.timestamp()) // 30)


async def _check(db: Database, ann: str, code: str, now: datetime) -> str | None:
    async with db.transaction() as tx:
        return await second_factor.check(tx, KEY, ann, code, now)


async def test_a_second_factor_holds_once_its_first_code_was_seen(db: Database) -> None:
    """Begun it asks for nothing; a wrong code does not confirm it; confirmed it can't be begun again; nothing of it is kept in clear."""
    ann = await _ann(db)
    async with db.transaction() as tx:
        secret = await second_factor.begin(tx, KEY, ann)
    assert not (await users.get(db, "ann"))["second_factor"]
    assert await _check(db, ann, _code(secret, NOW), NOW) is None
    with pytest.raises(Invalid, match="clocks"):
        async with db.transaction() as tx:
            await second_factor.confirm(tx, KEY, ACTOR, ann, "000000", NOW)
    async with db.transaction() as tx:
        codes = await second_factor.confirm(tx, KEY, ACTOR, ann, _code(secret, NOW), NOW)
    assert len(set(codes)) == second_factor.RECOVERY_CODES
    with pytest.raises(Conflict, match="already"):
        async with db.transaction() as tx:
            await second_factor.begin(tx, KEY, ann)
    async with db.transaction() as tx:
        user = await User.get(id=ann, using_db=tx.client)
        kept = [row.code_hash for row in await RecoveryCode.all().using_db(tx.client)]
    assert user.totp_secret is not None and secret not in bytes(user.totp_secret)
    assert not set(kept) & set(codes)


async def test_no_code_is_good_twice(db: Database) -> None:
    """Not the one that confirmed it, not a later one again, and of ten who bring the same one at once one gets in."""
    ann = await _ann(db)
    secret, codes = await _enrolled(db, ann)
    assert await _check(db, ann, _code(secret, NOW), NOW) is None
    later = NOW + 2 * STEP
    tried = await asyncio.gather(*(_check(db, ann, _code(secret, later), later) for _ in range(10)))
    assert sorted(map(str, tried)) == ["None"] * 9 + ["code"]
    tried = await asyncio.gather(*(_check(db, ann, codes[0].upper().replace("-", " "), later) for _ in range(5)))
    assert sorted(map(str, tried)) == ["None"] * 4 + ["recovery-code"]
    async with db.transaction() as tx:
        assert await second_factor.recovery_codes_left(tx, ann) == second_factor.RECOVERY_CODES - 1
        fresh = await second_factor.renew_recovery_codes(tx, ann)
    assert await _check(db, ann, codes[1], later) is None
    assert await _check(db, ann, fresh[1], later) == "recovery-code"


async def test_an_administrator_takes_away_what_was_lost(db: Database) -> None:
    """Neither codes nor recovery codes are left, and a new one can be begun."""
    ann = await _ann(db)
    secret, codes = await _enrolled(db, ann)
    async with db.transaction() as tx:
        await second_factor.remove(tx, Actor.user("admin", "admin"), "ann", NOW)
    assert not (await users.get(db, "ann"))["second_factor"]
    later = NOW + 2 * STEP
    assert await _check(db, ann, _code(secret, later), later) is None
    assert await _check(db, ann, codes[0], later) is None
    assert (await _enrolled(db, ann))[0] != secret

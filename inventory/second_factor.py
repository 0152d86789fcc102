"""The second factor: codes of an authenticator app (TOTP), and recovery codes for when it is lost.

The app's secret is kept sealed (`inventory.sealing`) under the installation's session key, which is not in the database, and bound to its
user; recovery codes are kept as SHA-256, being 80 random bits. A code is good for its step of 30 s and for the one before and after,
and never a second time: the last step used is kept, and moves on in the statement that accepts a code, so that of two who bring the
same code at once one is refused. How often somebody may guess is the throttle's business (`web.throttle`). Called by the web process.

Source: RFC 6238 (TOTP), RFC 4226 section 7; the Key URI format of authenticator apps.
"""

import base64
import hmac
import secrets
from datetime import datetime
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from inventory import account_log, sealing, users
from inventory.accounts import digest
from inventory.actor import Actor
from inventory.db import Tx
from inventory.errors import Conflict, Invalid, Problem, Unavailable
from inventory.tables import RecoveryCode, User

STEP_S: int = 30
"""Seconds that a code is shown for (RFC 6238 section 5.2)."""
DIGITS: int = 6
SKEW: int = 1
"""Steps that the app's clock may be off by."""
SECRET_BYTES: int = 20
"""As long as the digest of SHA-1, which is what all apps know (RFC 4226 section 4, R6)."""
RECOVERY_CODES: int = 10
ISSUER = "Fleetward"
PURPOSE = "second factor"


def code_at(secret: bytes, step: int) -> str:
    """The code of a step, counted from 1970."""
    return TOTP(secret, DIGITS, SHA1(), STEP_S).generate(step * STEP_S).decode()


def accepted_step(secret: bytes, code: str, now: datetime, used: int) -> int | None:
    """The step whose code this is, of those that are good now and come after the one used last."""
    current = int(now.timestamp()) // STEP_S
    steps = range(current - SKEW, current + SKEW + 1)
    found = [step for step in steps if hmac.compare_digest(code_at(secret, step).encode(), code.encode())]
    return found[0] if found and found[0] > used else None


def key_uri(secret: bytes, name: str) -> str:
    """What the QR code says."""
    query = {"secret": base32(secret), "issuer": ISSUER, "algorithm": "SHA1", "digits": DIGITS, "period": STEP_S}
    return f"otpauth://totp/{quote(f'{ISSUER}:{name}', safe=':')}?{urlencode(query)}"


def base32(secret: bytes) -> str:
    """For typing it into an app."""
    return base64.b32encode(secret).decode().rstrip("=")


def seal(key: bytes, user: str, secret: bytes) -> bytes:
    return sealing.seal(key, PURPOSE, user, secret)


def unseal(key: bytes, user: str, sealed: bytes) -> bytes:
    """Raises Unavailable where it was sealed under another key, or for somebody else."""
    try:
        return sealing.unseal(key, PURPOSE, user, sealed)
    except sealing.Unsealable:
        raise Unavailable(
            "the second factor can't be read: this process has another session.key than the one that it was made under; "
            "an administrator can reset it"
        ) from None


async def begin(tx: Tx, key: bytes, id: str) -> bytes:
    """A new secret for a user, by id, not in force before a code of it has been seen. Raises Conflict where one is in force."""
    user = await users.locked(tx, id)
    if not user.password:
        raise Conflict("the second factor of somebody whom the identity provider signs in is the identity provider's")
    if user.totp_since is not None:
        raise Conflict("there is a second factor already: remove it first")
    secret = secrets.token_bytes(SECRET_BYTES)
    await User.filter(id=id).using_db(tx.client).update(totp_secret=seal(key, id, secret), totp_step=0)
    return secret


async def confirm(tx: Tx, key: bytes, actor: Actor, id: str, code: str, now: datetime) -> list[str]:
    """Put the secret in force with the first code of it; the recovery codes, shown this once. Raises Conflict, Invalid."""
    user = await users.locked(tx, id)
    if user.totp_secret is None or user.totp_since is not None:
        raise Conflict("there is no second factor to confirm: begin first")
    step = accepted_step(unseal(key, id, user.totp_secret), _digits(code), now, user.totp_step)
    if step is None:
        words = "is not the code that the app shows now; look at the clocks of both"
        raise Invalid(f"code: {words}", errors=(Problem("/code", words),))
    before = users.view(user)
    user.totp_since, user.totp_step = now, step
    await user.save(using_db=tx.client, update_fields=["totp_since", "totp_step"])
    await account_log.record(tx, actor, "user", id, now, before=before, after=users.view(user))
    return await renew_recovery_codes(tx, id)


async def renew_recovery_codes(tx: Tx, id: str) -> list[str]:
    """New ones in the place of all earlier ones, shown this once."""
    codes = [_recovery_code() for _ in range(RECOVERY_CODES)]
    await RecoveryCode.filter(user=id).using_db(tx.client).delete()
    for code in codes:
        await RecoveryCode.create(code_hash=digest(_letters(code)), user=id, using_db=tx.client)
    return codes


async def check(tx: Tx, key: bytes, id: str, code: str, now: datetime) -> str | None:
    """What the code is: `code` of the app, `recovery-code`, or None. It is used up then."""
    user = await users.locked(tx, id)
    if user.totp_secret is None or user.totp_since is None:
        return None
    step = accepted_step(unseal(key, id, user.totp_secret), _digits(code), now, user.totp_step)
    if step is not None:
        await User.filter(id=id).using_db(tx.client).update(totp_step=step)
        return "code"
    used = await RecoveryCode.filter(user=id, code_hash=digest(_letters(code))).using_db(tx.client).delete()
    return "recovery-code" if used else None


async def remove(tx: Tx, actor: Actor, id: str, now: datetime) -> User:
    """Whether there is one or not; by its owner, or by an administrator for somebody who has lost it. Raises NotFound."""
    user = await users.locked(tx, id)
    before = users.view(user)
    user.totp_secret, user.totp_since, user.totp_step = None, None, 0
    await user.save(using_db=tx.client, update_fields=["totp_secret", "totp_since", "totp_step"])
    await RecoveryCode.filter(user=user.id).using_db(tx.client).delete()
    await account_log.record(tx, actor, "user", user.id, now, before=before, after=users.view(user))
    return user


async def recovery_codes_left(tx: Tx, id: str) -> int:
    return await RecoveryCode.filter(user=id).using_db(tx.client).count()


def _recovery_code() -> str:
    """80 bits in base 32, in four groups of four."""
    letters = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return "-".join(letters[start : start + 4] for start in range(0, 16, 4))


def _letters(code: str) -> str:
    """As it is hashed, however it was typed."""
    return "".join(code.lower().split()).replace("-", "")


def _digits(code: str) -> str:
    return "".join(code.split())


async def unconfirmed(tx: Tx, key: bytes, id: str) -> bytes:
    """The secret that waits for its first code; empty where none does."""
    user = await users.locked(tx, id)
    return b"" if user.totp_secret is None or user.totp_since is not None else unseal(key, id, user.totp_secret)

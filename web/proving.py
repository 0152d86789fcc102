"""Proving who one is, under the throttle: a password, a code of the second factor. Called by the sign-in routes, and where somebody who
has signed in has to show their password again before what a stolen session must not do.

Every attempt counts before it is looked at, so that many at once do not all pass as the first; one that went well takes that back.
"""

import logging
import math
import time
from datetime import UTC, datetime

from inventory import account_log, accounts, second_factor
from inventory.accounts import Account, Checked
from inventory.errors import Forbidden, Invalid, Problem, TooManyRequests, Unavailable
from inventory.metrics import METER, SIGN_INS_FAILED
from web.identity import remote_address
from web.problems import Unauthenticated
from web.services import services

log = logging.getLogger(__name__)


class CodeNeeded(Unauthenticated):
    """The password was right; a code of the second factor has to come with it."""

    def __init__(self, account: Account) -> None:
        words = "is required: this account has a second factor; send the code that the app shows, or a recovery code"
        super().__init__(f"code: {words}", errors=(Problem("/code", words),))
        self.account = account


async def password(name: str, given: str) -> Checked:
    """Raises TooManyRequests before the password is looked at, Unauthenticated where it or the name is wrong, Forbidden where it was handed
    out too long ago. Whoever goes on to sign in says `signed_in`."""
    here, address = services(), remote_address()
    await patience(name)
    here.throttle.failed(address, name, time.monotonic())
    checked = await accounts.check_password(here.db, name, given, datetime.now(UTC))
    if checked is None:
        here.throttle.told(address, name, time.monotonic())
        await refused(name, "password")
        raise Unauthenticated("the name or the password is wrong")
    here.throttle.pardoned(address, name)
    if checked.ended:
        await refused(name, "password ended")
        raise Forbidden("this one-time password was not used in time: ask an administrator for another one")
    return checked


async def code(account: Account, given: str) -> str:
    """Which kind of code it was: `code` or `recovery-code`. Raises TooManyRequests before it is looked at, Unauthenticated where it is
    wrong or was used before, Unavailable."""
    here, address = services(), remote_address()
    await patience(account.name, code=True)
    here.throttle.failed(address, account.name, time.monotonic(), code=True)
    async with here.db.transaction() as tx:
        kind = await second_factor.check(tx, sealing_key(), account.id, given, datetime.now(UTC))
    if kind is None:
        here.throttle.told(address, account.name, time.monotonic(), code=True)
        await refused(account.name, "code")
        raise Unauthenticated("the code is wrong, or was used before", errors=(Problem("/code", "is wrong, or was used before"),))
    return kind


def signed_in(account: Account) -> None:
    """All has gone well: earlier failures are forgotten."""
    services().throttle.succeeded(remote_address(), account.name)
    log.info("signed in", extra={"user": account.name, "address": remote_address()})


async def again(account: Account, given: str, pointer: str) -> None:
    """The password once more, of somebody who has signed in. Raises TooManyRequests, Invalid."""
    try:
        await password(account.name, given)
    except Unauthenticated:
        raise Invalid(f"{pointer.lstrip('/')}: is not your password", errors=(Problem(pointer, "is not your password"),)) from None


def sealing_key() -> bytes:
    """What second factors are sealed under. Raises Unavailable where this process's key ends with it."""
    if services().settings.secrets is None:
        raise Unavailable("this web process was given no secrets directory (FLEETWARD_SECRETS), so it can keep no second factor")
    return services().key


async def patience(name: str = "", *, code: bool = False) -> None:
    """Raises TooManyRequests where this address may not try yet; the first one of a wait stands in the audit. name: empty where none was
    given."""
    throttle, address, now = services().throttle, remote_address(), time.monotonic()
    seconds = throttle.wait(address, name, now, code=code)
    if seconds > 0:
        if throttle.first_too_early(address, name, now, code=code):
            await refused(name, "throttled")
        raise TooManyRequests("too many failed sign-ins; wait a little", retry_after=math.ceil(seconds))


async def refused_elsewhere(why: str, detail: str, issuer: str, subject: str) -> None:
    """By what the identity provider has said. It counts as a failure of the address: anybody can come back from there with nonsense.
    subject: whom it has vouched for, if anybody."""
    services().throttle.failed(remote_address(), "", time.monotonic())
    METER.count(SIGN_INS_FAILED)
    log.warning("sign-in by the provider refused", extra={"reason": detail, "address": remote_address()})
    await account_log.refused_elsewhere(services().db, issuer, subject, remote_address(), why, datetime.now(UTC))


async def refused(name: str, why: str) -> None:
    """Nobody comes in: counted, logged, and in the audit."""
    METER.count(SIGN_INS_FAILED)
    log.warning("sign-in refused", extra={"user": name[:64], "address": remote_address(), "reason": why})
    await account_log.refused(services().db, name, remote_address(), why, datetime.now(UTC))

"""Which list of keys each device trusts, who has still to be sent the newest, and whom the next step of a rotation would leave behind.

A device says in its presence how far it is; that is no proof (the broker could have written it), and nothing but the order of sending
and an operator's count depend on it: whether a device believes a list is decided there, by signatures. Called by `inventory.ingest` and by
`python -m inventory authority`.
"""

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from broker.messages import Keys
from inventory import account_log, integrations
from inventory.actor import Actor
from inventory.authority import DEVICE_LIFETIME, Authority
from inventory.db import SQL, Connection, Database
from inventory.keychain import Keychain, Phase, key_id
from inventory.memory import Recently
from inventory.renewal import GRACE
from inventory.resource import time_text
from inventory.secret_files import AuthorityError

log = logging.getLogger(__name__)

EVERY_S = 2.0
"""How often it is looked whom to tell, in seconds..."""
AT_ONCE = 100
"""...and how many are told then at most: each asks for a new certificate where the CA has changed, 50 a second."""
AGAIN_S = 60.0
"""A device that does not follow is told again after so many seconds."""
TELL_AGAIN_S = 600.0


class Trusting:
    """What ingest asks about keys."""

    def __init__(self, db: Database, authority: Authority) -> None:
        self._db, self._authority = db, authority
        self._looked, self._said = Recently(EVERY_S), Recently(TELL_AGAIN_S)

    def chain(self, now: float) -> Keychain | None:
        """None where this process has none (the secrets of an earlier release): then nobody is told anything, and the log says so."""
        try:
            return self._authority.keychain
        except (AuthorityError, OSError) as error:
            if self._said.first("no keys", now):
                log.warning("devices can't be told of keys", extra={"error": str(error)})
            return None

    def news(self, keys: int, now: float) -> Keys | None:
        """What a device that trusts the list of this generation is to be sent."""
        chain = self.chain(now)
        return chain.message if chain is not None and keys < chain.generation else None

    async def untaught(self, now: float) -> tuple[list[str], Keys] | None:
        """Connected devices that are to be sent the newest lists now, few at a time; None where it is not time. Raises Unavailable."""
        chain = self.chain(now) if self._looked.first("untaught", now) else None
        if chain is None:
            return None
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["untaught_devices"], chain.generation, AT_ONCE, AGAIN_S)
        return [row["host"] for row in rows], chain.message


async def note(connection: Connection, heard: Mapping[str, int]) -> None:
    """What devices have said of themselves, by host."""
    hosts = sorted(heard)
    await connection.execute(SQL["note_keys"], hosts, [heard[host] for host in hosts])


@dataclass(frozen=True, slots=True)
class Followers:
    """devices: those that may come back at all. informed: of them, who trust the newest list. renewed: who have a certificate of the CA
    that issues now. integrations: programs whose certificate is by another CA."""

    devices: int
    informed: int
    renewed: int
    integrations: tuple[str, ...] = ()

    def left_behind(self, phase: Phase) -> str:
        """Who would be, by the next step, in words; empty where nobody would."""
        match phase:
            case Phase.ANNOUNCED if self.informed < self.devices:
                return f"{self.devices - self.informed} of {self.devices} devices don't trust the new keys yet"
            case Phase.TAKEN_OVER if self.renewed < self.devices or self.informed < self.devices:
                late = self.devices - min(self.renewed, self.informed)
                return f"{late} of {self.devices} devices have not followed yet"
            case Phase.TAKEN_OVER if self.integrations:
                return f"integrations with certificates of the old CA: {', '.join(self.integrations)}"
        return ""


async def recorded(db: Database, before: Keychain, after: Keychain, now: datetime) -> None:
    """A step of a rotation, for the audit. Raises Unavailable."""
    async with db.transaction() as tx:
        await account_log.record(tx, Actor.system(), "installation", "keys", now, before=_audited(before), after=_audited(after))


def _audited(chain: Keychain) -> dict[str, Any]:
    authorities = [_described(pem)["fingerprint"] for pem in chain.latest.authorities]
    return {"phase": chain.phase.value, "generation": chain.generation, "authorities": authorities, "command_roots": _roots(chain)}


def described(chain: Keychain, followers: Followers) -> dict[str, Any]:
    """How it stands, for `fleetward authority`."""
    latest = chain.latest
    return {
        "phase": chain.phase.value,
        "generation": latest.generation,
        "since": latest.issued_at,
        "authorities": [_described(pem) for pem in latest.authorities],
        "command_roots": _roots(chain),
        "devices": followers.devices,
        "informed": followers.informed,
        "renewed": followers.renewed,
        "left_behind": followers.left_behind(chain.phase),
    }


def _roots(chain: Keychain) -> list[str]:
    return [key_id(base64.b64decode(root)) for root in chain.latest.command_roots]


def _described(pem: str) -> dict[str, str]:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return {"fingerprint": certificate.fingerprint(SHA256()).hex(), "expires_at": time_text(certificate.not_valid_after_utc)}


async def followers(db: Database, authority: Authority, now: datetime, grace: timedelta = GRACE) -> Followers:
    """Raises Unavailable, AuthorityError."""
    chain = authority.keychain
    ends = None if chain.took_over is None else chain.took_over.replace(microsecond=0) + DEVICE_LIFETIME
    async with db.acquire() as connection:
        row = await connection.fetchrow(SQL["followers"], chain.generation, ends, now - grace)
        others = await integrations.by_another_ca(connection, authority.issuer)
    assert row is not None, "counts are one row"
    return Followers(row["devices"], row["informed"], row["renewed"], others)

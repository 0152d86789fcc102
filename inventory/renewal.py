"""Renewal of a device's certificate: the next one in the place of the one that it has, over its connection or, once that is refused, over
HTTP.

A request carries the device's MAC (whoever hands it in has checked that), a proof by the key of the certificate that it replaces, and the
key to be certified, which may be a new one. The certificate in force is replaced once; the same request again gets the same answer, so
that a lost one costs nothing. A request about a certificate that has been replaced before, by a key that nobody has seen, comes from a
copy of the disk or from an older state of it: it is denied, and people are told. So is one that comes later than the grace period.

`decide` is pure. Called by `inventory.ingest` (`up/csr`) and by `inventory.readmission` (HTTP). Source: contract.md section 3; decision:
docs/adr/0017-renewal.md.
"""

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from broker.messages import CertificateAnswer, CertificateRequest, Denial
from inventory import account_log, certificates, reports
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.bulk import BulkWriter
from inventory.certificates import BACK_DATED, Issued
from inventory.db import SQL, dumps, loads
from inventory.errors import Invalid
from inventory.memory import Recently
from inventory.retention import duration
from inventory.store import Writes

log = logging.getLogger(__name__)

GRACE = timedelta(days=30)
"""How long after its end a certificate still gets another one: a machine may stand switched off for two months."""

GRACE_VARIABLE = "FLEETWARD_CERTIFICATE_GRACE"

LEAST = timedelta(days=15)
"""Between two certificates of a device by the same CA, half a life: a clock or a device that is wrong asks at every chance."""

KEPT = 16
"""Fingerprints of a host's former keys that are remembered."""

TELL_AGAIN_S = 3600.0
"""The same about the same host becomes a notification this often at most, in seconds."""

SHARED = (
    "A certificate was asked for in the place of one that has been replaced already: by a copy of this device's disk, or by an older state "
    "of it, such as a snapshot that was put back. It was denied. Find the machine, delete the agent's state there and enroll it anew."
)


@dataclass(frozen=True, slots=True)
class Held:
    """What a device has, as far as it decides. `replaces`: the serial number before; `current_ca`: it is by the CA that issues now."""

    fingerprint: str
    serial: str
    replaces: str | None
    former: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    current_ca: bool
    trusted: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What it asks for. `proven`: the key of the certificate in force has signed the request."""

    fingerprint: str
    replaces: str
    proven: bool


@dataclass(frozen=True, slots=True)
class Issue:
    """Another certificate. `late`: how long ago the one before has ended."""

    late: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Repeat:
    """The answer of before, which was lost."""


@dataclass(frozen=True, slots=True)
class Deny:
    reason: Denial
    copied: bool = False
    """There seem to be two of the device."""


Decision = Issue | Repeat | Deny


def decide(held: Held, asked: Asked, now: datetime, grace: timedelta = GRACE) -> Decision:
    again = asked.replaces == held.replaces and asked.fingerprint == held.fingerprint
    if not held.trusted:
        return Deny(Denial.UNTRUSTED)
    if asked.replaces != held.serial and not again:
        return Deny(Denial.REPLACED, copied=asked.fingerprint not in (*held.former, held.fingerprint))
    if not again and not asked.proven:
        return Deny(Denial.INVALID)
    if now > held.expires_at + grace:
        return Deny(Denial.LAPSED)
    if again and now < held.expires_at and held.current_ca:
        return Repeat()
    if held.current_ca and now - held.issued_at < LEAST:
        return Deny(Denial.TOO_SOON)
    return Issue(now - held.expires_at if now > held.expires_at else None)


def grace_of(environment: Mapping[str, str]) -> timedelta:
    """As the environment says. Raises ValueError naming the variable."""
    text = environment.get(GRACE_VARIABLE)
    return GRACE if text is None else duration(GRACE_VARIABLE, text)


@dataclass(frozen=True, slots=True)
class _Answered:
    """`told`: what people were told of with it, if anything."""

    answer: CertificateAnswer | None
    told: Hashable | None = None


class Renewals:
    """Answers requests. `grace`: how long after its end a certificate can be replaced; `mono`: a monotonic clock, in seconds."""

    def __init__(
        self, store: Writes, authority: Authority, grace: timedelta = GRACE, *, mono: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._authority, self._grace, self._mono = store, authority, grace, mono
        self._told = Recently(TELL_AGAIN_S)

    async def answer(self, host: str, request: CertificateRequest) -> CertificateAnswer | None:
        """None for a host that there is not. Raises Unavailable, AuthorityError."""
        try:
            print_ = certificates.fingerprint(certificates.requested_key(request.csr))
        except Invalid as error:
            return CertificateAnswer(replaces=request.replaces, certificate=None, reason=Denial.INVALID, message=error.detail[:1024])

        async def once() -> _Answered:
            async with self._store.transaction() as w:
                return await self._in_transaction(w, host, request, print_)

        answered = await self._store.retrying(once)
        if answered.told is not None:
            self._told.mark(answered.told, self._mono())
        return answered.answer

    async def _in_transaction(self, w: BulkWriter, host: str, request: CertificateRequest, print_: str) -> _Answered:
        row = await w.tx.raw.fetchrow(SQL["lock_identity"], host)
        if row is None:
            return _Answered(None)
        held = self._held(row)
        proven = print_ == held.fingerprint or certificates.proves(row["certificate"], request.proof, request.csr)
        decision = decide(held, Asked(print_, request.replaces, proven), self._store.clock(), self._grace)
        match decision:
            case Repeat():
                return _Answered(CertificateAnswer(replaces=request.replaces, certificate=row["certificate"]))
            case Issue(late):
                issued = await self._issue(w, host, request, print_, held)
                await self._say_late(w, host, late)
                return _Answered(CertificateAnswer(replaces=request.replaces, certificate=issued.pem))
            case Deny(reason, copied):
                told = await self._say_denied(w, host, reason, copied, held)
                words = self._words(reason, held)
                return _Answered(CertificateAnswer(replaces=request.replaces, certificate=None, reason=reason, message=words), told)

    def _held(self, row: Any) -> Held:
        made = x509.load_pem_x509_certificate(row["certificate"].encode())
        return Held(
            fingerprint=row["fingerprint"],
            serial=row["certificate_serial"],
            replaces=row["replaces"],
            former=tuple(loads(row["former"])),
            issued_at=made.not_valid_before_utc + BACK_DATED,
            expires_at=row["expires_at"],
            current_ca=certificates.issued_by(self._authority.issuer, row["certificate"]),
            trusted=row["revoked_at"] is None and "untrusted" not in (row["desired_state"], row["current_state"]),
        )

    async def _issue(self, w: BulkWriter, host: str, request: CertificateRequest, print_: str, held: Held) -> Issued:
        issued = self._authority.issue_device(request.csr, host)
        former = [each for each in (*held.former, held.fingerprint) if each != print_][-KEPT:]
        await w.tx.raw.execute(SQL["exchange_certificate"], host, print_, issued.pem, issued.serial, issued.expires_at)
        await w.tx.raw.execute(SQL["note_exchange"], host, request.replaces, dumps(former))
        log.info("certificate renewed", extra={"device": host})
        return issued

    # --- what is said -----------------------------------------------------------------------------------------------------------

    def _words(self, reason: Denial, held: Held) -> str:
        """For the device's log and its doctor."""
        match reason:
            case Denial.REPLACED:
                return "it has been replaced, by a copy of this machine or a later state of it: enroll it anew with a new token"
            case Denial.LAPSED:
                ended = f"{held.expires_at:%Y-%m-%d}"
                return f"the certificate ended on {ended}, longer ago than the grace period: enroll it anew with a new token"
            case Denial.UNTRUSTED:
                return "this device is not trusted any more: ask the fleet's operators"
            case Denial.TOO_SOON:
                return "the present certificate is not due yet"
            case Denial.INVALID:
                return "the request is not signed by the key of the certificate that it would replace"

    async def _say_late(self, w: BulkWriter, host: str, late: timedelta | None) -> None:
        if late is not None:
            text = f"Its certificate had ended {_days(late)} ago; within the grace period it was given another one."
            await reports.notify(w, host, "info", "CertificateRenewedLate", text)
            log.info("device came back within the grace period", extra={"device": host})

    async def _say_denied(self, w: BulkWriter, host: str, reason: Denial, copied: bool, held: Held) -> Hashable | None:
        """What people are told of, where it is time to; it has been told once that is committed."""
        log.warning("certificate denied", extra={"device": host, "reason": reason.value})
        told = (host, reason, copied)
        if not self._told.is_due(told, self._mono()):
            return None
        await account_log.record(w.tx, Actor.device(host), "certificate", host, w.at, after={"denied": reason.value}, op="refused")
        if copied:
            await reports.notify(w, host, "error", "IdentityShared", SHARED)
        if reason is Denial.LAPSED:
            late = _days(self._store.clock() - held.expires_at)
            text = f"It asks for a certificate {late} after its own ended, which is longer than the grace period: it needs a new token."
            await reports.notify(w, host, "warning", "CertificateLapsed", text)
        return told


def _days(span: timedelta) -> str:
    days = span // timedelta(days=1)
    return f"{days} days" if days > 1 else f"{max(1, span // timedelta(hours=1))} hours"

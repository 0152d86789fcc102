"""Renewal for thousands of invented devices: what `edge_agent.certificates` does in a process of its own, by one thread on their files.

A device's key and certificate stand in one file, and the next key only in memory: what a simulator that ends forgets is asked for anew.
Used by `fleet`.
"""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from broker.messages import CertificateRequest
from edge_agent import certificates
from edge_agent.certificates import Key, RenewalError
from edge_agent.identity import Identity
from edge_agent.signals import Appeal, CertificateJob, Held, Input, Inspect, Inspected, Install, Prepare, Prepared, RenewalFailed, Renewed
from edge_agent.trust import Ring

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Errand:
    """A job of one device, and whom to tell. `ring`: whom it trusts now."""

    job: CertificateJob
    me: Identity
    pem: Path
    ring: Ring
    tell: Callable[[Input], None]


class Clerk:
    """One thread, begun with the first errand."""

    def __init__(self) -> None:
        self._errands: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        self._next: dict[str, Key] = {}
        self._thread: threading.Thread | None = None

    def take(self, errand: Errand) -> None:
        self._errands.put(errand)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            errand = self._errands.get()
            try:
                errand.tell(self._done(errand))
            except RenewalError as error:
                errand.tell(RenewalFailed(str(error), error.denied))
            except (OSError, ValueError) as error:
                errand.tell(RenewalFailed(f"{type(error).__name__}: {error}"))

    def _done(self, errand: Errand) -> Input:
        match errand.job:
            case Inspect():
                return Inspected(certificates.held(errand.pem.read_bytes(), self._authorities(errand.me, errand.ring)))
            case Prepare():
                return Prepared(self._request(errand))
            case Install(certificate):
                return Renewed(self._install(errand, certificate, errand.ring))
            case Appeal():
                asked = self._request(errand)
                certificate, ring = certificates.appeal(errand.me, asked, errand.ring, certificates.poster(errand.me.server))
                return Renewed(self._install(errand, certificate, ring), ring)

    def _request(self, errand: Errand) -> CertificateRequest:
        pem = errand.pem.read_bytes()
        key = self._next.setdefault(errand.me.device, certificates.new_key())
        return certificates.request(certificates.read_key(pem, errand.pem), pem, key)

    def _install(self, errand: Errand, certificate: str, ring: Ring) -> Held:
        key = self._next[errand.me.device]
        authorities = self._authorities(errand.me, ring)
        certificates.check(certificate, key, errand.me.device, authorities)
        temporary = errand.pem.with_suffix(".new")
        temporary.write_bytes(certificates.key_pem(key) + certificate.encode())
        temporary.chmod(0o600)
        temporary.replace(errand.pem)
        del self._next[errand.me.device]
        return certificates.held(certificate.encode(), authorities)

    @staticmethod
    def _authorities(me: Identity, ring: Ring) -> bytes:
        return "".join(ring.authorities).encode() or me.ca_file.read_bytes()

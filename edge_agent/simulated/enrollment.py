"""Enrolling thousands of invented devices, a bounded number at once; what was enrolled is kept and taken up again after a restart."""

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent import enroll, identity
from edge_agent.enroll import Evidence
from edge_agent.identity import Identity
from edge_agent.simulated.hardware import Hardware

log = logging.getLogger(__name__)

PARALLEL = 8
"""Requests under way at once."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An invented device with an identity; `pem`: its key and certificate in one file."""

    index: int
    identity: Identity
    pem: Path


@dataclass(frozen=True, slots=True)
class Server:
    """Where and with what to enroll; `broker`: where it is, if not where the server says."""

    url: str
    fingerprint: str | None
    token: str
    broker: tuple[str, int] | None = None


class Enroller:
    """Enrolls into `folder`; each device as it is ready is handed to `ready`, from one of several threads."""

    def __init__(self, folder: Path, server: Server, seed: int, ready: Callable[[Enrolled], None]) -> None:
        self._folder = folder
        self._server = server
        self._seed = seed
        self._ready = ready
        self._stop = threading.Event()
        self.failed = 0

    def run(self, count: int) -> None:
        """Enroll devices 0 to `count` - 1. A failure is logged and counted; the others go on. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL, "enroll") as pool:
            list(pool.map(self._one, range(count)))

    def stop(self) -> None:
        self._stop.set()

    def _one(self, index: int) -> None:
        if self._stop.is_set():
            return
        try:
            known = self._known(index) or self._enroll(index)
        except (enroll.EnrollFailed, OSError, ValueError) as error:
            self.failed += 1
            log.error("device not enrolled", extra={"index": index, "error": str(error)})
            return
        self._ready(known)

    def _known(self, index: int) -> Enrolled | None:
        try:
            values = json.loads(self._path(index, "json").read_bytes())
        except FileNotFoundError:
            return None
        return self._enrolled(index, values) if values.get("server") == self._server.url else None

    def _enroll(self, index: int) -> Enrolled:
        """The same steps as a real device's, with two files a device and without fsync: nothing here is worth waiting for a disk."""
        hardware = Hardware(self._seed, index)
        key = self._key(index)
        ask = enroll.asker(self._server.url, self._server.fingerprint)
        evidence = Evidence(hardware.serial, hardware.uuid, hardware.macs, hardware.hostname)
        answer = enroll.obtain(ask, key, self._server.token, evidence, wait=self._stop.wait)
        with self._path(index, "pem").open("ab") as file:
            file.write(answer["certificate"].encode())
        self._replace(index, identity.CA_FILE, answer["ca"])
        kept: dict[str, Any] = {name: answer[name] for name in identity.KEPT if name in answer}
        self._replace(index, self._path(index, "json").name, json.dumps({**kept, "server": self._server.url}))
        return self._enrolled(index, answer)

    def _enrolled(self, index: int, values: dict[str, Any]) -> Enrolled:
        found = identity.parse(values, self._folder)
        if self._server.broker is not None:
            found = replace(found, host=self._server.broker[0], port=self._server.broker[1])
        return Enrolled(index, found, self._path(index, "pem"))

    def _replace(self, index: int, name: str, text: str) -> None:
        """Whole or not at all: others read these files at the same time."""
        temporary = self._path(index, "tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._folder / name)

    def _key(self, index: int) -> ec.EllipticCurvePrivateKey:
        """On disk before the first request, so that a lost answer burns no use of the token."""
        path = self._path(index, "pem")
        if path.exists():
            found = serialization.load_pem_private_key(path.read_bytes(), None)
            if isinstance(found, ec.EllipticCurvePrivateKey):
                path.write_bytes(_pem(found))  # without a certificate of an earlier attempt
                return found
        key = ec.generate_private_key(ec.SECP256R1())
        path.touch(mode=0o600)
        path.write_bytes(_pem(key))
        return key

    def _path(self, index: int, suffix: str) -> Path:
        return self._folder / f"{index:06d}.{suffix}"


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

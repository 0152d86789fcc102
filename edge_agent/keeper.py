"""Has the certificate looked at and exchanged: starts `edge_agent.certificates` for each job, one at a time, and delivers what came of it.

A thread that waits, so that the agent goes on meanwhile; it begins with the first job and ends with the process. Nothing is decided here:
`renewal` does. Used by `runtime`.
"""

import base64
import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker.messages import CertificateRequest, ContractError, from_json
from edge_agent.signals import (
    Appeal,
    CertificateJob,
    Held,
    Input,
    Inspect,
    Inspected,
    Install,
    Prepare,
    Prepared,
    RenewalFailed,
    Renewed,
)
from edge_agent.trust import Ring

log = logging.getLogger(__name__)

LIMIT_S = 120.0
"""For a job: it waits for the server 30 s at most, and loads X.509 code on the slowest device."""


class Keeper:
    """Takes jobs, answers through `deliver`, one input a job."""

    def __init__(self, state_dir: Path, deliver: Callable[[Input], None]) -> None:
        self._state_dir, self._deliver = state_dir, deliver
        self._jobs: queue.SimpleQueue[CertificateJob] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, job: CertificateJob) -> None:
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="certificate", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                self._deliver(self._done(job))
            except Exception as error:
                log.exception("the keeper has a bug")
                self._deliver(RenewalFailed(f"{type(error).__name__}: {error}"))

    def _done(self, job: CertificateJob) -> Input:
        try:
            said = self._ask(job)
            return RenewalFailed(str(said["error"]), bool(said["denied"])) if "error" in said else read(job, said)
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, ContractError) as error:
            return RenewalFailed(f"{type(error).__name__}: {error}")

    def _ask(self, job: CertificateJob) -> dict[str, Any]:
        """Raises OSError, SubprocessError, ValueError."""
        name, text = _command(job)
        command = [sys.executable, "-P", "-m", "edge_agent.certificates", name, "--state-dir", str(self._state_dir)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        try:
            said = json.loads(done.stdout)
        except ValueError:
            raise ValueError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-500:]}") from None
        if not isinstance(said, dict):
            raise ValueError(f"{name} said no object")
        return said


def _command(job: CertificateJob) -> tuple[str, str]:
    """What to call, and its standard input."""
    match job:
        case Inspect():
            return "inspect", ""
        case Prepare():
            return "prepare", ""
        case Install(certificate):
            return "install", certificate
        case Appeal():
            return "readmit", ""


def read(job: CertificateJob, said: dict[str, Any]) -> Input:
    """What came of a job that worked. Raises KeyError, TypeError, ValueError, ContractError."""
    match job:
        case Prepare():
            return Prepared(from_json(CertificateRequest, said["request"]))
        case Inspect():
            return Inspected(Held(**said["held"]))
        case Install():
            return Renewed(Held(**said["held"]))
        case Appeal():
            ring = said["ring"]
            roots = tuple(base64.b64decode(root) for root in ring["roots"])
            return Renewed(Held(**said["held"]), Ring(ring["generation"], roots, tuple(ring["authorities"])))

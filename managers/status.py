"""What a resource's `status` says after a reconcile. Pure; the engine (`managers.settling`) calls it for managers that keep a status.

Source: contract.md section 4 (`indicator`, `reason`).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from inventory.resource import time_text
from managers.reconcile import Again, Done, Error, Failed, Outcome
from managers.workqueue import Backoff, Fate, Settled

MAX_MESSAGE = 1024
"""Characters of a device's error message that a status repeats; the command has it whole."""


def status_after(outcome: Outcome, settled: Settled, backoff: Backoff, before: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """`since` stays what it was as long as nothing else changes, so that an unchanged status writes nothing."""
    said = _says(outcome, settled, backoff)
    if before is not None and all(before.get(name) == value for name, value in said.items()):
        return dict(before)
    return said | {"since": time_text(now)}


def _says(outcome: Outcome, settled: Settled, backoff: Backoff) -> dict[str, Any]:
    match outcome:
        case Done():
            return _said("idle", "Reconciled", "")
        case Again(_, reason, message, indicator=indicator):
            return _said(indicator, reason, message)
        case Failed(error):
            return _failed(error, settled, backoff)


def _failed(error: Error, settled: Settled, backoff: Backoff) -> dict[str, Any]:
    attempts = settled.entry.attempts if settled.entry else 0
    match settled.fate:
        case Fate.HALTS if error.recoverable:
            return _said("error", error.code, f"given up after {attempts} attempts: {error.message}", halted=True)
        case Fate.HALTS:
            return _said("error", error.code, error.message, halted=True)
        case _:
            return _said("error", "Retrying", f"{error.code}: {error.message} (attempt {attempts} of {backoff.attempts})")


def _said(indicator: str, reason: str, message: str, *, halted: bool = False) -> dict[str, Any]:
    return {"indicator": indicator, "reason": reason, "message": message[:MAX_MESSAGE], "halted": halted}

"""What reaches into the device: one module a kind, each with its verbs, registered in `registry`.

An applier is handed one command at a time, in a thread of its own (`executor`). It must be safe to run again from the start after a crash
at any point, looks at its `Control` between steps, and answers with an `Outcome`; what it can't do it raises as a `Refusal`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from broker.messages import ErrorCode, Item
from edge_agent.signals import Outcome, Run, StopReason


class Refusal(Exception):
    """The command can't be done, for this reason; the text is shown to the user."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class StoppedEarly(Exception):
    """The command was cancelled or ran out of time between two steps."""

    def __init__(self, reason: StopReason, output: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.output = output


@dataclass(slots=True)
class Control:
    """How a running command is told to stop. `deadline`: by `time.monotonic()`."""

    deadline: float
    progress: Callable[[int], None] = lambda percent: None
    _stop: threading.Event = field(default_factory=threading.Event)
    _reason: StopReason = StopReason.CANCELLED

    def stop(self, reason: StopReason) -> None:
        self._reason = reason
        self._stop.set()

    def left(self) -> float:
        """Seconds until the run limit; 0 when stopped or over."""
        return 0.0 if self._stop.is_set() else max(0.0, self.deadline - time.monotonic())

    def check(self, output: str = "") -> None:
        """Raises StoppedEarly."""
        if self._stop.is_set():
            raise StoppedEarly(self._reason, output)
        if time.monotonic() >= self.deadline:
            raise StoppedEarly(StopReason.TIMED_OUT, output)


class Applier(Protocol):
    """One kind that reaches the device."""

    verbs: tuple[str, ...]

    def run(self, command: Run, control: Control) -> Outcome:
        """Do it. May raise Refusal, StoppedEarly and OSError; anything else is a bug and reported as Internal."""

    def look(self) -> tuple[Item, ...] | None:
        """The items of this kind as they are now; None when nothing has changed since the last look. Cheap: asked every few seconds."""

"""The appliers' thread: one command at a time, each exception turned into an outcome. It decides nothing; `commands` does."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from broker.messages import ErrorCode
from edge_agent.appliers import Applier, Control, Refusal, StoppedEarly
from edge_agent.failures import code_of
from edge_agent.signals import Failed, Finished, Input, Outcome, Progressed, Run, Stop, Stopped

log = logging.getLogger(__name__)


class Executor:
    """Takes `Run` and `Stop`, answers through `deliver` with `Progressed` and one `Finished` a command."""

    def __init__(self, appliers: tuple[Applier, ...], deliver: Callable[[Input], None]) -> None:
        self._by_verb = {verb: applier for applier in appliers for verb in applier.verbs}
        self._deliver = deliver
        self._work: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._controls: dict[str, Control] = {}
        threading.Thread(target=self._loop, name="executor", daemon=True).start()

    def run(self, command: Run) -> None:
        self._controls[command.command] = Control(
            deadline=time.monotonic() + command.timeout_s,
            progress=lambda percent: self._deliver(Progressed(command.command, percent)),
        )
        self._work.put(command)

    def stop(self, stop: Stop) -> None:
        control = self._controls.get(stop.command)
        if control is not None:
            control.stop(stop.reason)

    def _loop(self) -> None:
        while True:
            command = self._work.get()
            outcome = execute(self._by_verb[command.verb], command, self._controls[command.command])
            self._controls.pop(command.command, None)
            self._deliver(Finished(command.command, outcome))


def execute(applier: Applier, command: Run, control: Control) -> Outcome:
    """Run one command to its outcome; never raises."""
    fields = {"command": command.command, "verb": command.verb}
    try:
        return applier.run(command, control)
    except Refusal as error:
        return Failed(error.code, str(error))
    except StoppedEarly as stopped:
        return Stopped(stopped.reason, stopped.output)
    except OSError as error:
        log.warning("command failed", extra={**fields, "error": str(error)})
        where = f": {error.filename}" if error.filename else ""
        return Failed(code_of(error), f"{error.strerror or error}{where}")
    except Exception as error:
        log.exception("applier has a bug", extra=fields)
        return Failed(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")

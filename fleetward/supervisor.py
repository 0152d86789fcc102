"""Keeps child processes running: starts them, sees when they are ready, starts them again when they die, ends them all.

It knows services as `Service` values and nothing of what they do; `fleetward.services` makes the table, `fleetward.up` says in which
order. One thread and no event loop: between looks it sleeps in sigtimedwait(2), so that a child's death or a Ctrl-C wakes it at once.

No child outlives it: the kernel ends them when it dies (`fleetward.launch`), and what it started is noted with its identity, so that
the next `up` ends what is left all the same. Children write their log files themselves; nothing flows through this process.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fleetward import launch
from fleetward.process import Identity, identify, note, noted, write_pid

STOP_SECONDS = 7.0
"""How long a service may take to end after its stop signal, before it is killed; two stages of it stay below the promised 15 s."""
LOG_BYTES = 20 * 1024 * 1024
"""A log is moved to `.1` when it is larger; two of each are kept."""
_HOPELESS = 6
"""Deaths soon after the start that end the attempt to start everything: about 6 s, enough for a killed database's remains to go."""
_SECOND_THOUGHTS = 1.0
"""Seconds after a first request to end during which another one is the same one (make and the terminal both pass it on)."""
_LONGEST_DELAY = 4.0
_STEADY_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_STARTING_LOOK_SECONDS = 0.05
_WAKING = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Stopped(Exception):
    """Somebody asked to end (SIGINT, SIGTERM or SIGHUP)."""


class NotReady(Exception):
    """A service or a step did not come to its end; the text names it and its log."""


def said_ready(said: str) -> bool:
    """Whether a service has printed its line: `ready`, or `listening ...`."""
    return any(line.startswith(("ready", "listening")) for line in said.splitlines())


def restart_delay(failures: int) -> float:
    """Seconds before a child is started again; `failures` counts deaths soon after a start, this one included. Never above 4 s."""
    return min(_LONGEST_DELAY, 0.1 * 2.0 ** min(failures, 10))


def worth_saying(failures: int) -> bool:
    """Deaths 1, 2, 4, 8 …: a service that can't live is mentioned, not chanted."""
    return failures & (failures - 1) == 0


@dataclass(frozen=True, slots=True)
class Service:
    """One long-running child. `ready` is given what it has logged since its start; `before` runs ahead of each start; those of a
    later `stage` are stopped later."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[str], bool] = said_ready
    user: tuple[int, int] | None = None
    stop: signal.Signals = signal.SIGTERM
    death: signal.Signals = signal.SIGKILL
    stage: int = 0
    before: Callable[[], None] | None = None


@dataclass(slots=True)
class _Child:
    service: Service
    process: "subprocess.Popen[bytes] | None" = None
    identity: Identity | None = None
    log_start: int = 0
    started: float = 0.0
    failures: int = 0
    due: float = 0.0
    ready: bool = False


class Supervisor:
    """`say` takes the lines meant for the person at the terminal."""

    def __init__(self, run: Path, log: Path, say: Callable[[str], None]) -> None:
        self._run = run
        self._log = log
        self._say = say
        self._children: dict[str, _Child] = {}
        self._asked = 0.0
        # nohup ignores SIGHUP; a blocked one would arrive here all the same.
        self._waking = _WAKING - ({signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set())
        signal.pthread_sigmask(signal.SIG_BLOCK, self._waking)

    # --- starting -------------------------------------------------------------------------------------------------------------

    def end_orphans(self) -> None:
        """End what an earlier supervisor left behind, if anything: exactly the processes it noted, never others by their number."""
        for name, one in noted(self._run / "children.json").items():
            if one.send(signal.SIGINT):
                self._say(f"{name}: left over from an earlier run (pid {one.pid}), ended")
                self._wait_gone(one)

    def start(self, service: Service) -> None:
        """Start it, and from now on keep it running."""
        child = self._children[service.name] = _Child(service)
        self._spawn(child)

    def until_ready(self, *names: str, seconds: float) -> None:
        """Wait till these are ready. Raises NotReady when one keeps dying or time is up, and Stopped."""
        deadline = time.monotonic() + seconds
        while waiting := [name for name in names if not self._children[name].ready]:
            self._pause(_STARTING_LOOK_SECONDS)
            self._look()
            for name in waiting:
                if self._children[name].failures >= _HOPELESS or time.monotonic() > deadline:
                    raise NotReady(f"{name} did not start: {self._last_words(name)}")

    def pause(self, seconds: float) -> None:
        """Let time pass, keeping everything running meanwhile. Raises Stopped."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._pause(min(left, self._next_look()))
            self._look()

    def run(self, name: str, command: tuple[str, ...], environment: Mapping[str, str], seconds: float) -> str:
        """Run a step to its end; its standard output. Its standard error goes to the log. Raises NotReady, or Stopped (the step is
        ended then)."""
        with self._open_log(name) as log:
            step = _popen(launch.through(command), environment, subprocess.PIPE, log)
        deadline = time.monotonic() + seconds
        try:
            while step.poll() is None and time.monotonic() < deadline:
                self._pause(_STARTING_LOOK_SECONDS)
                self._look()
        finally:
            if step.poll() is None:
                step.kill()
            said = step.communicate()[0].decode("utf-8", "replace")
        if step.returncode != 0:
            raise NotReady(f"{name} failed: {self._last_words(name)}")
        return said

    # --- keeping --------------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Keep everything running, until somebody asks to end."""
        try:
            while True:
                self._pause(self._next_look())
                self._look()
                self._rotate_logs()
        except Stopped:
            return

    def _next_look(self) -> float:
        if any(child.process is not None and not child.ready for child in self._children.values()):
            return _STARTING_LOOK_SECONDS
        dues = [child.due - time.monotonic() for child in self._children.values() if child.process is None]
        return max(0.01, min([_LOOK_SECONDS, *dues]))

    def _look(self) -> None:
        for child in self._children.values():
            if child.process is None:
                if time.monotonic() >= child.due:
                    self._spawn_again(child)
            elif (code := child.process.poll()) is not None:
                self._died(child, code)
            elif not child.ready and child.service.ready(self._said(child)):
                child.ready = True
                if child.failures:
                    self._say(f"{child.service.name}: ready again")

    def _died(self, child: _Child, code: int) -> None:
        lived = time.monotonic() - child.started
        child.failures = child.failures + 1 if lived < _STEADY_SECONDS else 1
        child.process, child.identity, child.ready = None, None, False
        child.due = time.monotonic() + restart_delay(child.failures)
        if worth_saying(child.failures):
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self._say(f"{child.service.name}: died ({how}), starting it again; see {self._log_file(child.service.name)}")

    def _spawn_again(self, child: _Child) -> None:
        """A full disk or too many processes must not end what still runs."""
        try:
            self._spawn(child)
        except OSError as error:
            child.failures += 1
            child.due = time.monotonic() + restart_delay(child.failures)
            if worth_saying(child.failures):
                self._say(f"{child.service.name}: can't be started ({error}), trying again")

    def _spawn(self, child: _Child) -> None:
        service = child.service
        if service.before is not None:
            service.before()
        with self._open_log(service.name) as log:
            child.log_start = log.tell()
            command = launch.through(service.command, user=service.user, death=service.death)
            child.process = _popen(command, service.environment, log, log)
        child.started, child.ready = time.monotonic(), False
        child.identity = identify(child.process.pid)
        write_pid(self._run / f"{service.name}.pid", child.process.pid)
        note(self._run / "children.json", {name: one.identity for name, one in self._children.items() if one.identity})

    # --- ending ---------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End all, stage by stage. A second request to end kills what is left at once."""
        self._asked = time.monotonic()
        for stage in sorted({child.service.stage for child in self._children.values()}):
            self._stop_stage([child for child in self._children.values() if child.service.stage == stage and child.process])
        for name in self._children:
            (self._run / f"{name}.pid").unlink(missing_ok=True)
        if self._children:  # else it names what an earlier run has left, some of which may live on
            (self._run / "children.json").unlink(missing_ok=True)

    def _stop_stage(self, children: list[_Child]) -> None:
        running = [child.process for child in children if child.process is not None]
        for child in children:
            if child.process is not None:
                child.process.send_signal(child.service.stop)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(one.poll() is None for one in running):
            try:
                self._pause(_STARTING_LOOK_SECONDS)
            except Stopped:
                if time.monotonic() - self._asked > _SECOND_THOUGHTS:
                    break
        for one in running:
            if one.poll() is None:
                one.kill()
            one.wait()

    def _wait_gone(self, one: Identity) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while one.alive() and time.monotonic() < deadline:
            self._pause(_STARTING_LOOK_SECONDS)
        one.send(signal.SIGKILL)

    # --- small things ---------------------------------------------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        """Sleep, or until a child ends. Raises Stopped when asked to end."""
        got = signal.sigtimedwait(self._waking, seconds)
        if got is not None and got.si_signo != signal.SIGCHLD:
            raise Stopped

    def _log_file(self, name: str) -> Path:
        return self._log / f"{name}.log"

    def _open_log(self, name: str) -> IO[bytes]:
        log = self._log_file(name).open("ab")
        os.fchmod(log.fileno(), 0o600)
        return log

    def _said(self, child: _Child) -> str:
        try:
            with self._log_file(child.service.name).open("rb") as log:
                log.seek(child.log_start)
                return log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""  # somebody tidies up; the next start makes another

    def _last_words(self, name: str) -> str:
        """The last line of a log, and where the others are."""
        path = self._log_file(name)
        lines = path.read_text("utf-8", "replace").strip().splitlines() if path.exists() else []
        return f"{lines[-1][:500] if lines else 'it said nothing'} (more in {path})"

    def _rotate_logs(self) -> None:
        """Copy and cut, because the children hold their files open (for appending)."""
        for name, child in self._children.items():
            path = self._log_file(name)
            with contextlib.suppress(OSError):  # a full disk, or a file that somebody has deleted: the next look tries again
                if child.ready and path.stat().st_size > LOG_BYTES:
                    shutil.copyfile(path, path.with_suffix(".log.1"))
                    os.truncate(path, 0)


def _popen(command: Sequence[str], environment: Mapping[str, str], out: IO[bytes] | int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that a Ctrl-C at the terminal reaches the supervisor alone."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=dict(environment), cwd="/", start_new_session=True
    )

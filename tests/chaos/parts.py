"""The processes of an installation under test: started, killed, stopped for a while, and started again as a supervisor would.

None outlives the driver: each is started through `fleetward.launch`, so that the kernel ends it with us. Who is what is `ground`'s.
"""

import asyncio
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fleetward import launch
from fleetward.supervisor import said_ready
from tests.waiting import Deadline

START_S = 60.0
STOP_S = 10.0


async def until(predicate: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a predicate, which may block shortly. Raises TimeoutError naming what did not come."""
    deadline = Deadline(seconds)
    while not await asyncio.to_thread(predicate):
        if deadline.over():
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(0.05)


class Died(Exception):
    """A part ended by itself while it was being started; the text ends with its last line."""


@dataclass(slots=True)
class Part:
    """One process. `ready` is given what it has logged since its start. `extra` is added to its environment at the next start (a turned
    clock); `prefix` goes before its command (another network namespace)."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[str], bool] = said_ready
    user: tuple[int, int] | None = None
    death: signal.Signals = signal.SIGKILL
    before: Callable[[], None] | None = None
    prefix: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    begun_at: int = 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    def spawn(self) -> None:
        """Start it, and don't wait for it."""
        if self.before is not None:
            self.before()
        with self.log.open("ab") as log:
            self.begun_at = log.tell()
            self.process = subprocess.Popen(
                launch.through((*self.prefix, *self._turned(), *self.command), user=self.user, death=self.death),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd="/",
                start_new_session=True,
            )

    def _turned(self) -> tuple[str, ...]:
        """`env NAME=VALUE …`, and not its environment: a preloaded library must not be with whoever drops root's privileges first."""
        return ("env", *(f"{name}={value}" for name, value in self.extra.items())) if self.extra else ()

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises Died, TimeoutError."""
        self.spawn()
        await until(lambda: not self.running or self.ready(self.said()), START_S, f"{self.name} to be ready")
        if not self.running:
            raise Died(f"{self.name} ended at its start: {self.last_words()}")

    def said(self) -> str:
        """What it has logged since its last start."""
        with self.log.open("rb") as log:
            log.seek(self.begun_at)
            return log.read().decode(errors="replace")

    def last_words(self) -> str:
        lines = self.said().strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, signum: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(signum)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end; kill it if it does not."""
        if not self.running:
            return
        assert self.process is not None
        self.process.send_signal(how)
        try:
            await asyncio.to_thread(self.process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    async def restart(self) -> None:
        await self.stop(signal.SIGINT if self.name == "postgres" else signal.SIGTERM)
        await self.start()

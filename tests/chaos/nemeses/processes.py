"""Processes that die, freeze, or come back with nothing."""

import asyncio
import shutil
from collections.abc import Mapping

from tests.chaos.ground import SERVERS, Ground
from tests.chaos.nemeses import Nemesis, everybody, host_of

MARGIN_S = 5.0
"""Beyond a bound: for ingest, the sweep that looks every 2 s, and a busy machine."""


class Kill(Nemesis):
    """kill -9, and started again a little later, as a supervisor would."""

    hold_s = (1.0, 4.0)

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part
        self.name = f"kill-{part}"

    def may_cut(self, ground: Ground) -> frozenset[str]:
        return host_of(ground, self._part)

    async def inject(self, ground: Ground) -> str:
        part = ground.part(self._part)
        part.kill()
        return f"kill -9 {self._part} (pid {part.pid})"

    async def heal(self, ground: Ground) -> str:
        await ground.part(self._part).start()
        return f"{self._part} is started again (pid {ground.part(self._part).pid})"


class Freeze(Nemesis):
    """SIGSTOP, and SIGCONT after longer than leases last, and with an agent until any broker has taken it for gone."""

    hold_s = (9.0, 12.0)

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part
        self.name = f"freeze-{part}"
        if part not in (*SERVERS, "postgres"):
            self.hold_s = (16.0, 20.0)

    def may_cut(self, ground: Ground) -> frozenset[str]:
        """A broker that stood still takes whom it has not heard for gone: all of them may have to come back."""
        return everybody(ground) if self._part == "broker" else host_of(ground, self._part)

    def must_cut(self, ground: Ground) -> Mapping[str, float]:
        return dict.fromkeys(host_of(ground, self._part), ground.gone_s + MARGIN_S)

    async def inject(self, ground: Ground) -> str:
        ground.part(self._part).pause()
        return f"SIGSTOP {self._part} (pid {ground.part(self._part).pid})"

    async def heal(self, ground: Ground) -> str:
        ground.part(self._part).resume()
        return f"SIGCONT {self._part}"


class ForgetfulBroker(Nemesis):
    """The broker is killed every 5 s, and starts with nothing of what it knew."""

    name = "forgetful-broker"
    hold_s = (16.0, 22.0)
    every_s = 5.0

    def may_cut(self, ground: Ground) -> frozenset[str]:
        """Who has failed to connect a few times waits longer than silence is borne."""
        return everybody(ground)

    async def inject(self, ground: Ground) -> str:
        self._again = asyncio.create_task(self._loop(ground))
        return "the broker is killed every 5 s and forgets everything"

    async def heal(self, ground: Ground) -> str:
        self._again.cancel()
        await asyncio.gather(self._again, return_exceptions=True)
        broker = ground.part("broker")
        if not broker.running:
            await broker.start()
        return "the broker is left alone"

    async def _loop(self, ground: Ground) -> None:
        broker = ground.part("broker")
        while True:
            broker.kill()
            kept = ground.home / "data" / "broker"
            for path in kept.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            await broker.start()
            await asyncio.sleep(self.every_s)

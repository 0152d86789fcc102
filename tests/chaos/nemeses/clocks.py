"""Clocks that are a day off, by libfaketime (Debian's package `faketime`): the wall clock alone, as a wrong BIOS clock makes it."""

import asyncio
from pathlib import Path

from tests.chaos.ground import SERVERS, Ground
from tests.chaos.nemeses import Nemesis, host_of
from tests.chaos.parts import Part

_SHARED = Path("/dev/shm")
"""Where libfaketime keeps a clock by process id, and leaves it when the process is killed: the next one of that id stumbles on it."""
_PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


def library() -> str | None:
    return next((str(path) for place in _PLACES for path in sorted(Path("/").glob(place[1:]))), None)


class WrongClock(Nemesis):
    """A machine loses power, comes up with a clock a day off, has to get everything done with it, and later loses power again and comes up
    with the right one."""

    hold_s = (4.0, 6.0)

    def __init__(self, whose: str, parts: tuple[str, ...], offset: str) -> None:
        super().__init__()
        self._whose, self._parts, self._offset = whose, parts, offset
        self.name = f"clock-{whose}{offset}"

    def lacking(self, ground: Ground) -> str:
        return "" if library() else "libfaketime is missing (apt install faketime)"

    def may_cut(self, ground: Ground) -> frozenset[str]:
        return frozenset[str]().union(*(host_of(ground, part) for part in self._parts))

    async def inject(self, ground: Ground) -> str:
        await self._restart(ground, {"LD_PRELOAD": library() or "", "FAKETIME": self._offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
        return f"{', '.join(self._parts)} are killed -9 and come up with a clock that is {self._offset} off"

    async def heal(self, ground: Ground) -> str:
        return "the clock stays wrong, and all has to be done with it"

    async def settle(self, ground: Ground) -> str:
        await self._restart(ground, {})
        return f"{', '.join(self._parts)} are killed -9 and come up with the right clock"

    async def _restart(self, ground: Ground, extra: dict[str, str]) -> None:
        """The database first: nobody else gets up without it."""
        parts = [ground.part(name) for name in self._parts]
        for part in parts:
            part.kill()
            _sweep(part)
            part.extra = extra
        for part in (p for p in parts if p.name == "postgres"):
            await part.start()
        await asyncio.gather(*(part.start() for part in parts if part.name != "postgres"))


def _sweep(part: Part) -> None:
    for left in _SHARED.glob(f"*faketime_s*_{part.pid}") if part.extra else ():
        left.unlink()


SERVER = ("postgres", *SERVERS)

"""Damaged files on a device: bit flips and truncations, found when the agent starts.

Where the file can be had again (the journal begins anew, the identity comes from enrolling again), the agent or its owner does that; a lost
key comes from the owner's copy. In each case the agent must say which file is wrong, and must not run anything twice.
"""

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

from edge_agent import identity
from tests.chaos.ground import Device, Ground
from tests.chaos.nemeses import Nemesis
from tests.chaos.parts import until

Damage = Callable[[Path], None]
NOTICE_S = 10.0


def flip(path: Path) -> None:
    """One bit in each of a few places, the beginning among them; always the same for the same length."""
    content = bytearray(path.read_bytes())
    for place in (0, *(random.Random(len(content)).randrange(len(content)) for _ in range(8))):
        content[place] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """To a half, not to a whole number of blocks."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 1)


def _settle(journal: Path) -> None:
    """Bring what stands in SQLite's write-ahead log into the file: damage of that log is what a disk does that lies about fsync."""
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


class Damaged(Nemesis):
    """The agent is killed, its file damaged, and started."""

    hold_s = (2.0, 3.0)
    device = "agent-1"

    def __init__(self, file: str, how: Damage) -> None:
        super().__init__()
        self._file, self._how = file, how
        self.name = f"{how.__name__}-{file}"

    def may_cut(self, ground: Ground) -> frozenset[str]:
        return frozenset((ground.devices[self.device].host,))

    async def inject(self, ground: Ground) -> str:
        device = ground.devices[self.device]
        device.part.kill()
        if self._file == identity.JOURNAL_FILE:
            _settle(self._path(device))
        self._before = self._path(device).read_bytes()
        self._how(self._path(device))
        self._logged = device.part.log.stat().st_size
        device.part.spawn()
        return f"{self.device} is killed, and starts with {self._file} {'cut short' if self._how is truncate else 'with flipped bits'}"

    async def heal(self, ground: Ground) -> str:
        device = ground.devices[self.device]
        try:
            await until(lambda: self._file in self._said(device), NOTICE_S, "the agent's words")
        except TimeoutError:
            self.demands.append(f"the agent never named {self._file}; it said: {device.part.last_words()}")
        _, named, rest = self._said(device).partition(self._file)
        words = f"{named}{rest}".splitlines()[0][:120] if named else "nothing"
        return f"the agent said: {words!r}; {await self._mend(ground, device)}"

    async def _mend(self, ground: Ground, device: Device) -> str:
        """What the owner has to do."""
        match self._file:
            case identity.JOURNAL_FILE:
                if not device.part.running:
                    self.demands.append("the agent did not go on with a new journal")
                    device.part.spawn()
                return "it went on with a new journal"
            case identity.IDENTITY_FILE:
                await device.part.stop()
                await ground.enroll(device)
                device.part.spawn()
                return "its owner enrolled it again"
            case _:
                await device.part.stop()
                self._path(device).write_bytes(self._before)
                device.part.spawn()
                return "its owner put the copy back"

    def _path(self, device: Device) -> Path:
        return device.state / self._file

    def _said(self, device: Device) -> str:
        with device.part.log.open("rb") as log:
            log.seek(self._logged)
            return log.read().decode(errors="replace")

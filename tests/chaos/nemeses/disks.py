"""Disks that fill up: no byte is left until somebody makes room."""

from tests.chaos.disks import Disk
from tests.chaos.ground import Ground
from tests.chaos.nemeses import Nemesis

UNMOUNTABLE = "mounting a tmpfs needs root"


class FullAgent(Nemesis):
    """The disk with the agent's journal and its files."""

    name = "disk-full-agent"
    hold_s = (4.0, 6.0)
    """What fails for longer is tried again ever later, as the design wants it: beyond what converging is given here."""

    def lacking(self, ground: Ground) -> str:
        return "" if self._disk(ground).mounted else UNMOUNTABLE

    async def inject(self, ground: Ground) -> str:
        self._disk(ground).fill()
        return "the disk of agent-2 is full"

    async def heal(self, ground: Ground) -> str:
        self._disk(ground).free()
        return "the disk of agent-2 has room again"

    def _disk(self, ground: Ground) -> Disk:
        disk = ground.devices["agent-2"].disk
        assert disk is not None
        return disk


class FullDatabase(Nemesis):
    """The disk with PostgreSQL's tables and its log; what dies of it is started again once there is room."""

    name = "disk-full-postgres"
    hold_s = (8.0, 12.0)

    def lacking(self, ground: Ground) -> str:
        return "" if ground.database.primary.disk.mounted else UNMOUNTABLE

    async def inject(self, ground: Ground) -> str:
        ground.database.primary.disk.fill()
        return "the disk of PostgreSQL is full"

    async def heal(self, ground: Ground) -> str:
        ground.database.primary.disk.free()
        if ground.part("postgres").running:
            return "the disk of PostgreSQL has room again; it went on running"
        await ground.part("postgres").start()
        return "the disk of PostgreSQL has room again; it had died, and is started"

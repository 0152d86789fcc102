"""The database's machine dies, and the standby takes over. (`Kill("postgres")` is the mere crash, `disks` fills its disk.)"""

from tests.chaos.ground import Ground
from tests.chaos.nemeses import Nemesis
from tests.chaos.parts import Part


class Promote(Nemesis):
    """A synchronous standby joins; the primary is killed under load, and the standby is promoted."""

    name = "promote-standby"
    hold_s = (3.0, 5.0)
    _standby: Part

    async def inject(self, ground: Ground) -> str:
        self._standby = await ground.database.standby()
        return f"a synchronous standby follows (pid {self._standby.pid})"

    async def heal(self, ground: Ground) -> str:
        await ground.database.promote(self._standby)
        return "the primary is killed -9 and gone for good; the standby is promoted"

"""Bad networks between agents and broker, by our proxy and our cable."""

import asyncio
from collections.abc import Mapping

from tests.chaos.ground import Ground
from tests.chaos.nemeses import Nemesis, everybody
from tests.chaos.nemeses.processes import MARGIN_S
from tests.chaos.proxy import FINE, Weather


class BadWeather(Nemesis):
    """Every connection of every agent is slow or narrow for a while."""

    hold_s = (8.0, 12.0)

    def __init__(self, name: str, words: str, weather: Weather) -> None:
        super().__init__()
        self.name, self._words, self._weather = name, words, weather

    async def inject(self, ground: Ground) -> str:
        ground.proxy.set(self._weather)
        return self._words

    async def heal(self, ground: Ground) -> str:
        ground.proxy.set(FINE)
        return "the network is fine again"


class BlackHole(BadWeather):
    """Nothing passes, and nobody is told."""

    hold_s = (30.0, 30.0)

    def __init__(self) -> None:
        super().__init__("black-hole", "every byte between agents and broker disappears", Weather(hole=True))

    def must_cut(self, ground: Ground) -> Mapping[str, float]:
        return dict.fromkeys(everybody(ground), ground.gone_s + MARGIN_S)


class Resets(Nemesis):
    """A third of the connections is reset, again and again."""

    name = "resets"
    hold_s = (8.0, 12.0)
    every_s = 1.5

    def may_cut(self, ground: Ground) -> frozenset[str]:
        """A reset is the end of a connection without goodbye: the Will says so at once."""
        return everybody(ground)

    async def inject(self, ground: Ground) -> str:
        self._count = 0
        self._again = asyncio.create_task(self._loop(ground))
        return "a third of the agents' connections is reset every 1.5 s"

    async def heal(self, ground: Ground) -> str:
        self._again.cancel()
        await asyncio.gather(self._again, return_exceptions=True)
        return f"no more resets, after {self._count}"

    async def _loop(self, ground: Ground) -> None:
        while True:
            self._count += ground.proxy.reset_some(1 / 3)
            await asyncio.sleep(self.every_s)


class PullCable(Nemesis):
    """The veth pair of agent-1 goes down: both ends keep a connection that is none."""

    name = "pull-cable"
    hold_s = (16.0, 20.0)

    def lacking(self, ground: Ground) -> str:
        return "" if ground.cable is not None else "network namespaces need root, iproute2 and nsenter"

    def must_cut(self, ground: Ground) -> Mapping[str, float]:
        return {ground.devices["agent-1"].host: ground.gone_s + MARGIN_S}

    async def inject(self, ground: Ground) -> str:
        assert ground.cable is not None
        ground.cable.pull()
        return "the cable of agent-1 is pulled (veth down)"

    async def heal(self, ground: Ground) -> str:
        assert ground.cable is not None
        ground.cable.plug()
        return "the cable of agent-1 is plugged in again"

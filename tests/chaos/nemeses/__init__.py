"""Nemeses: what is done to an installation, each a small class that can inject its fault and heal it. `registry` lists them all.

A nemesis knows the ground and nothing of the history: it says which hosts it keeps from the broker (`may_cut`, `must_cut`), and what it
wanted to see and did not (`demands`); the checkers judge.
"""

from collections.abc import Mapping

from tests.chaos.ground import Ground


class Nemesis:
    """`hold_s`: how long the fault stays, lowest and highest; the schedule draws from between."""

    name = ""
    hold_s: tuple[float, float] = (2.0, 4.0)

    def __init__(self) -> None:
        self.demands: list[str] = []

    def lacking(self, ground: Ground) -> str:
        """Why it can't be done on this machine; empty where it can."""
        return ""

    def may_cut(self, ground: Ground) -> frozenset[str]:
        """Hosts that are really kept from the broker meanwhile."""
        return frozenset(self.must_cut(ground))

    def must_cut(self, ground: Ground) -> Mapping[str, float]:
        """Hosts that have to be shown offline, each within so many seconds."""
        return {}

    async def inject(self, ground: Ground) -> str:
        """Do it; what was done, for the story."""
        raise NotImplementedError

    async def heal(self, ground: Ground) -> str:
        """Undo it; what was done, for the story."""
        raise NotImplementedError

    async def settle(self, ground: Ground) -> str:
        """After all has converged: undo what may stay meanwhile, such as a wrong clock. What was done; empty where there is nothing."""
        return ""


def everybody(ground: Ground) -> frozenset[str]:
    return frozenset(ground.hosts)


def host_of(ground: Ground, part: str) -> frozenset[str]:
    """The hosts that live in a process."""
    if part == "simulator":
        return ground.simulated_hosts()
    return frozenset((ground.devices[part].host,)) if part in ground.devices else frozenset()

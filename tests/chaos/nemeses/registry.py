"""Every nemesis there is, one visible list: by its name, how to make a fresh one."""

from collections.abc import Callable
from functools import partial

from edge_agent import identity
from tests.chaos.nemeses import Nemesis
from tests.chaos.nemeses.clocks import SERVER, WrongClock
from tests.chaos.nemeses.damage import Damaged, flip, truncate
from tests.chaos.nemeses.database import Promote
from tests.chaos.nemeses.disks import FullAgent, FullDatabase
from tests.chaos.nemeses.network import BadWeather, BlackHole, PullCable, Resets
from tests.chaos.nemeses.processes import ForgetfulBroker, Freeze, Kill
from tests.chaos.proxy import Weather

KILLED = ("postgres", "broker", "inventory", "managers", "web", "agent-1", "agent-3")
FROZEN = ("postgres", "broker", "inventory", "managers", "web", "agent-1", "simulator")
DAMAGED = (identity.JOURNAL_FILE, identity.IDENTITY_FILE, identity.KEY_FILE, identity.CERTIFICATE_FILE, identity.CA_FILE)
SLOW = Weather(latency_s=(0.1, 0.5))
NARROW = Weather(bytes_s=2000)

_MAKERS: tuple[Callable[[], Nemesis], ...] = (
    *(partial(Kill, part) for part in KILLED),
    *(partial(Freeze, part) for part in FROZEN),
    ForgetfulBroker,
    Promote,
    partial(BadWeather, "slow-network", "every chunk between agents and broker takes 300 ± 200 ms", SLOW),
    partial(BadWeather, "narrow-network", "every agent's connection carries 16 kbit/s", NARROW),
    Resets,
    BlackHole,
    PullCable,
    FullAgent,
    FullDatabase,
    *(partial(WrongClock, "agent", ("agent-1", "agent-2", "agent-3"), offset) for offset in ("+1d", "-1d")),
    *(partial(WrongClock, "server", SERVER, offset) for offset in ("+1d", "-1d")),
    *(partial(Damaged, file, how) for file in DAMAGED for how in (flip, truncate)),
)
NEMESES: dict[str, Callable[[], Nemesis]] = {make().name: make for make in _MAKERS}
"""Name → how to make one."""
if len(NEMESES) < len(_MAKERS):
    raise ValueError("two nemeses have a name in common")

"""A cable is cut: how long until the fleet's owner sees it? `python -m benchmarks.cable_cut [--agents 50] [--broker mosquitto]`.

Agents with the default keepalive of 30 s run in a network namespace of their own; the veth pair that joins it to the server goes down, so
that no packet and no goodbye comes any more. Measured for each host from the cut until `GET /hosts` shows it offline. Needs root, for the
namespace. Beside it stands what the protocol alone allows: 1.5 keepalives after the last packet, which here came just before.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.fleet import enroll, simulated, until_settled
from benchmarks.ground import Failed, Installation, installation
from benchmarks.meters import quantile
from benchmarks.report import Row, arguments, say

TARGET_S = 50.0
LIMIT_S = 120.0
PROTOCOL_S = 45.0
LOOK_S = 0.1
JUST_PINGED_S = 31.0
"""Cut right after the first ping, or the heartbeat in its place: the worst moment, as the broker has just heard of everybody."""


@dataclass(frozen=True, slots=True)
class Cable:
    """A namespace, joined to this one by a veth pair. `server`: this side's address."""

    namespace: str
    near: str
    server: str

    def through(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)

    def cut(self) -> None:
        _ip("link", "set", self.near, "down")


@contextmanager
def cable() -> Iterator[Cable]:
    """Names and addresses hold this process's number, so that two of them do not meet."""
    number = os.getpid() % 65536
    net = f"10.{number >> 8}.{number & 255}"
    made = Cable(f"fw-bench-{number}", f"fwb{number}", f"{net}.1")
    _ip("netns", "add", made.namespace)
    try:
        far = f"fwc{number}"
        _ip("link", "add", made.near, "type", "veth", "peer", "name", far, "netns", made.namespace)
        _ip("addr", "add", f"{made.server}/24", "dev", made.near)
        _ip("link", "set", made.near, "up")
        for command in (("addr", "add", f"{net}.2/24", "dev", far), ("link", "set", far, "up"), ("link", "set", "lo", "up")):
            _ip("-n", made.namespace, *command)
        yield made
    finally:
        _ip("netns", "del", made.namespace)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"ip {' '.join(arguments)}: {done.stderr.strip()}; this needs root and iproute2")


def seen_offline(ground: Installation, agents: int, cut: float) -> list[float]:
    """Seconds from the cut until each was shown offline, in order."""
    found: list[float] = []
    with ground.api() as api:
        while len(found) < agents:
            answer = api.get("/hosts", params={"filter": "presence = offline", "page_size": 1, "count": "true"})
            answer.raise_for_status()
            now = time.monotonic()
            found += [now - cut] * (answer.json()["total"] - len(found))
            if now - cut > LIMIT_S:
                raise Failed(f"{len(found)} of {agents} are shown offline {LIMIT_S:.0f} s after the cut")
            time.sleep(LOOK_S)
    return found


def measure(broker: str, agents: int) -> Row:
    with cable() as line, installation(broker, host=line.server) as ground:
        asyncio.run(enroll(ground, agents))
        with simulated(ground, agents, *line.through()) as simulator:
            until_settled(simulator)
            time.sleep(JUST_PINGED_S)
            cut = time.monotonic()
            line.cut()
            found = seen_offline(ground, agents, cut)
    return Row(
        what=f"cable cut → shown offline, default keepalive of 30 s ({broker})",
        target=f"{TARGET_S:.0f} s",
        ours=f"p50 {quantile(found, 0.5):.1f} s, last of {agents} {found[-1]:.1f} s",
        beside=f"1.5 keepalives after the last packet: at most {PROTOCOL_S:.0f} s; EIM: 90–120 s (its documentation)",
        ratio=f"{found[-1] / PROTOCOL_S:.2f}",
        met=found[-1] <= TARGET_S,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    options = parser.parse_args()
    say(measure(options.broker, options.agents))


if __name__ == "__main__":
    main()

"""A cable is cut: how long until the fleet's owner sees it? `python -m benchmarks.cable_cut [--agents 50] [--broker mosquitto]`.

Agents with the default keepalive of 30 s run in a network namespace of their own; the veth pair that joins it to the server goes down, so
that no packet and no goodbye comes any more. Measured for each host from the cut until `GET /hosts` shows it offline. Needs root, for the
namespace. Beside it stands the broker alone: when a bare subscriber was sent the same hosts' Wills. The protocol wants them 1.5 keepalives
after the last packet, which here came just before.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from benchmarks.fleet import enroll, simulated, until_settled
from benchmarks.ground import Failed, Installation, installation, until
from benchmarks.meters import quantile
from benchmarks.report import Row, arguments, say
from broker.topics import Topics
from inventory.authority import Authority

TARGET_S = 50.0
LIMIT_S = 120.0
PROTOCOL_S = 45.0
BARE = "svc-inventory.2"
"""The certificate of who only listens: a replica's, of which there is none here."""
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


@dataclass
class Bare:
    """A subscriber to everybody's presence, in a thread of its own: when each message came, by the monotonic clock."""

    came: list[float] = field(default_factory=list)

    @contextmanager
    def listening(self, ground: Installation) -> Iterator[None]:
        certificate, key = Authority(ground.data.secrets).equip(BARE)
        client = Client(CallbackAPIVersion.VERSION2, client_id=BARE)
        client.tls_set(str(ground.data.secrets / "ca.crt"), str(certificate), str(key))
        client.on_message = self._note
        client.connect(ground.host, ground.broker_port)
        client.loop_start()
        try:
            until(client.is_connected, 10, "the bare subscriber to be connected")
            done, _ = client.subscribe(Topics().channel("up/presence"), 1)
            if done is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise Failed(f"the bare subscriber could not subscribe: {done}")
            yield
        finally:
            client.disconnect()
            client.loop_stop()

    def since(self, cut: float) -> list[float]:
        """Seconds after it, of the messages that came later: Wills, as nothing else can come."""
        return sorted(at - cut for at in self.came if at > cut)

    def _note(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        self.came.append(time.monotonic())


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
            bare = Bare()
            with bare.listening(ground):
                time.sleep(JUST_PINGED_S)
                cut = time.monotonic()
                line.cut()
                found = seen_offline(ground, agents, cut)
                until(lambda: len(bare.since(cut)) >= agents, 5, "the Wills at the bare subscriber")
            wills = bare.since(cut)
    return Row(
        what=f"cable cut → shown offline, default keepalive of 30 s ({broker})",
        target=f"{TARGET_S:.0f} s",
        ours=f"p50 {quantile(found, 0.5):.1f} s, last of {agents} {found[-1]:.1f} s",
        beside=f"the broker alone, its Wills at a bare subscriber: p50 {quantile(wills, 0.5):.1f} s, last {wills[-1]:.1f} s; "
        f"the protocol: {PROTOCOL_S:.0f} s; EIM: 90–120 s (its documentation)",
        ratio=f"{found[-1] / wills[-1]:.2f}",
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

"""How much the embedded broker relays, beside bare amqtt in the same run: `python -m benchmarks.broker_relay [--agents 1000]`.

Two shapes: *relay*, many devices publishing to one subscriber (the ingest), and *fan-out*, one publisher sending a command to each of many
connected agents in turn. Both at QoS 1, with and without TLS, brokers and load generator on one machine. Under way is a fixed number of
messages: one that has arrived is followed by the next, as with the outbox's window; paced by PUBACK instead, bare amqtt acknowledges
thousands a second and delivers a handful. The row of the design is the fan-out over TLS; `--all` measures the other shapes as well.
"""

import argparse
import asyncio
import logging
import ssl
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

from amqtt.broker import Broker

from benchmarks.ground import ROOT, directory
from benchmarks.report import Row, arguments, say
from broker.__main__ import shrink_tls_buffers
from broker.acl import Acl, Class
from broker.embedded import EmbeddedBroker
from broker.guard import Rules, Tls
from broker.packets import data, packet
from broker.topics import DeviceTopic, Topics
from tests.broker.certificates import CertFactory
from tests.broker.open_rules import open_rules

T = Topics()
WINDOW = 16
"""Messages a device has under way, as its outbox has."""
COMMANDS_UNDER_WAY = 500
FAN_OUT_RATE = 1000
PAYLOAD = b"x" * 500
PUBLISHERS = 100


class Client(asyncio.Protocol):
    """The least that speaks MQTT, so that the broker is what is measured."""

    def __init__(self, on_publish: Callable[[bytes], None]) -> None:
        self._on_publish = on_publish
        self._rest = b""
        self._number = 0
        self._expected: deque[tuple[int, asyncio.Future[None]]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, received: bytes) -> None:
        buffer, at = self._rest + received, 0
        acks = []
        while len(buffer) - at >= 2:
            length, start = buffer[at + 1] & 0x7F, at + 2
            if buffer[at + 1] & 0x80:
                if len(buffer) - at < 3:
                    break
                length, start = length | buffer[at + 2] << 7, at + 3
            if start + length > len(buffer):
                break
            kind = buffer[at] >> 4
            if kind == 3:
                end = start + 2 + int.from_bytes(buffer[start : start + 2], "big")
                acks.append(b"\x40\x02" + buffer[end : end + 2])
                self._on_publish(buffer[start + 2 : end])
            elif self._expected and self._expected[0][0] == kind:
                self._expected.popleft()[1].set_result(None)
            at = start + length
        self._rest = buffer[at:]
        if acks:
            self._transport.write(b"".join(acks))

    async def say(self, raw: bytes, answer: int) -> None:
        done = asyncio.get_running_loop().create_future()
        self._expected.append((answer, done))
        self._transport.write(raw)
        await asyncio.wait_for(done, 60)

    def publish(self, topic: bytes) -> None:
        self._number = self._number % 65535 + 1
        self._transport.write(packet(3, 2, data(topic) + self._number.to_bytes(2, "big") + PAYLOAD))

    def close(self) -> None:
        self._transport.abort()


async def connect(port: int, tls: ssl.SSLContext | None, client_id: str, filter_: str, on_publish: Callable[[bytes], None]) -> Client:
    """With one subscription, or none where the filter is empty."""
    loop = asyncio.get_running_loop()
    hostname = "localhost" if tls else None
    _, client = await loop.create_connection(lambda: Client(on_publish), "127.0.0.1", port, ssl=tls, server_hostname=hostname)
    await client.say(packet(1, 0, data(b"MQTT") + b"\x04\x02\x00\x00" + data(client_id.encode())), 2)
    if filter_:
        await client.say(packet(8, 2, b"\x00\x01" + data(filter_.encode()) + b"\x01"), 9)
    return client


def nothing(topic: bytes) -> None:
    """For messages that nobody counts."""


class Count:
    def __init__(self) -> None:
        self.value = 0


async def relay(port: int, certs: CertFactory | None, seconds: float) -> float:
    """Messages a second from PUBLISHERS devices to one subscriber."""
    arrived = Count()
    devices: dict[bytes, Client] = {}

    def next_message(topic: bytes) -> None:
        arrived.value += 1
        devices[topic].publish(topic)

    ingest = await connect(port, context(certs, "svc-inventory", Class.SERVICE), "i", T.uplinks(), next_message)
    for n in range(PUBLISHERS):
        topic = T.build(DeviceTopic(f"host-{n}", "up/facts")).encode()
        devices[topic] = await connect(port, context(certs, f"host-{n}", Class.DEVICE), f"host-{n}", "", nothing)
    for topic, device in devices.items():
        for _ in range(WINDOW):
            device.publish(topic)
    rate = await measured(arrived, seconds)
    for client in (ingest, *devices.values()):
        client.close()
    return rate


async def fan_out(port: int, certs: CertFactory | None, seconds: float, agents: int) -> float:
    """Commands a second from one publisher to `agents` connected agents, in turn."""
    arrived, turn = Count(), Count()
    topics = [T.build(DeviceTopic(f"host-{n}", "down/command")).encode() for n in range(agents)]

    def next_command(topic: bytes = b"") -> None:
        arrived.value += bool(topic)
        turn.value += 1
        managers.publish(topics[turn.value % agents])

    gate = asyncio.Semaphore(50)

    async def agent(name: str) -> Client:
        async with gate:
            return await connect(port, context(certs, name, Class.DEVICE), name, T.downlinks(name), next_command)

    clients = await asyncio.gather(*(agent(f"host-{n}") for n in range(agents)))
    managers = await connect(port, context(certs, "svc-managers", Class.SERVICE), "m", "", nothing)
    for _ in range(COMMANDS_UNDER_WAY):
        next_command()
    rate = await measured(arrived, seconds)
    for client in (managers, *clients):
        client.close()
    return rate


async def measured(arrived: Count, seconds: float) -> float:
    """After one second of warming up."""
    await asyncio.sleep(1)
    before, begun = arrived.value, asyncio.get_running_loop().time()
    await asyncio.sleep(seconds)
    return (arrived.value - before) / (asyncio.get_running_loop().time() - begun)


def context(certs: CertFactory | None, name: str, kind: Class) -> ssl.SSLContext | None:
    return certs.client_context(name, kind) if certs else None


async def serve(kind: str, directory: Path, tls: bool) -> None:
    """In a process of its own: `ours` or `amqtt`. Prints the port."""
    logging.disable(logging.WARNING)
    if kind == "ours":
        shrink_tls_buffers()
        rules = (
            Rules.by_certificate(Acl(T), Tls(directory / "broker.crt", directory / "broker.key", directory / "ca.crt"))
            if tls
            else open_rules()
        )
        port = await EmbeddedBroker(rules).start("127.0.0.1", 0)
    else:
        port = await bare(directory, tls)
    print(port, flush=True)
    await asyncio.Event().wait()


async def bare(directory: Path, tls: bool) -> int:
    listener: dict[str, object] = {"type": "tcp", "bind": "127.0.0.1:0"}
    if tls:
        listener |= {
            "ssl": True,
            "certfile": str(directory / "broker.crt"),
            "keyfile": str(directory / "broker.key"),
            "cafile": str(directory / "ca.crt"),
        }
    broker = Broker(
        {"listeners": {"default": listener}, "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}}
    )
    await broker.start()
    return int(broker._servers["default"].instance.sockets[0].getsockname()[1])


@contextmanager
def running(kind: str, directory: Path, tls: bool) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.broker_relay", "--serve", kind, "--directory", str(directory), *(["--tls"] if tls else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


Shape = Callable[[int, CertFactory | None], Coroutine[None, None, float]]


def compared(certs: CertFactory, shape: Shape, tls: bool) -> tuple[float, float]:
    """Messages a second: ours, and bare amqtt."""
    rates = []
    for kind in ("ours", "amqtt"):
        with running(kind, certs.directory, tls) as port:
            rates.append(asyncio.run(shape(port, certs if tls else None)))
    return rates[0], max(rates[1], 1.0)


def told(name: str, tls: bool, ours: float, amqtt: float) -> None:
    print(f"   {name}, {'TLS' if tls else 'plain'}: ours {ours:,.0f} /s, bare amqtt {amqtt:,.0f} /s, ratio {ours / amqtt:.2f}", flush=True)


def measure(certs: CertFactory, seconds: float, agents: int, everything: bool) -> Row:
    def fan(port: int, certs: CertFactory | None) -> Coroutine[None, None, float]:
        return fan_out(port, certs, seconds, agents)

    def to_one(port: int, certs: CertFactory | None) -> Coroutine[None, None, float]:
        return relay(port, certs, seconds)

    shapes = ((f"relay, {PUBLISHERS} devices to one service", to_one, True), ("relay", to_one, False), ("fan-out", fan, False))
    for name, shape, tls in shapes if everything else ():
        told(name, tls, *compared(certs, shape, tls))
    ours, amqtt = compared(certs, fan, True)
    return Row(
        what=f"embedded broker, {agents:,} agents connected over TLS: fan-out",
        target=f"{FAN_OUT_RATE:,} commands/s",
        ours=f"{ours:,.0f} /s",
        beside=f"bare amqtt: {amqtt:,.0f} /s",
        ratio=f"{ours / amqtt:.2f}",
        met=ours >= FAN_OUT_RATE,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--all", action="store_true", help="the other shapes too")
    parser.add_argument("--serve", choices=("ours", "amqtt"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tls", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.directory, options.tls))
        return
    with directory() as home:
        say(measure(CertFactory(home), options.seconds, options.agents, options.all))


if __name__ == "__main__":
    main()

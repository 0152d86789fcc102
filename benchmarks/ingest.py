"""Durable device messages committed, positioned and acknowledged, beside a raw pipeline in the same run.

`python -m benchmarks.ingest [--broker mosquitto|embedded] [--devices 2000] [--messages 20] [--rounds 3]`. Each message is a section of
facts that changes a column of its host, so each makes a change. Devices keep a window of 16 and send on when they are acknowledged; the
load generator, the broker (plain), a PostgreSQL of our own with the settings of `fleetward up`, and what is measured share the machine.
*Ours* is the Inventory process as it is: MACs checked, streams locked, host rows written, changes relayed and published. *Raw* is the
least that could be called the same: aiomqtt, JSON decoded, one statement that upserts and appends changes with positions, an
acknowledgement. With the embedded broker, raw runs over bare amqtt.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import asyncpg

from benchmarks import broker_relay, paper
from benchmarks.ground import ROOT, Failed, directory, end, free_port, until
from benchmarks.meters import cpu_seconds
from benchmarks.profiling import STATEMENT_LOG, recorded, write_statements
from benchmarks.report import Row, arguments, say
from broker.messages import Facts, Section, encode, now_text
from broker.mosquitto import find_mosquitto
from broker.packets import data, packet
from broker.topics import DeviceTopic, Topics
from inventory.authority import Authority
from inventory.db import Database, migrate
from inventory.store import Store
from tests.inventory_wire.device import make_devices

TOPICS = Topics()
WINDOW = 16
RESEND_S = 20.0
"""Far above the agent's 5 s, because a machine with other work must not be measured by its repetitions."""
RATIO, EMBEDDED_RATE = 0.7, 2000


@dataclass(frozen=True, slots=True)
class Ground:
    """What both run on."""

    database: str
    port: int
    secrets: Path


# --- the load -------------------------------------------------------------------------------------------------------------------


class Fleet(asyncio.Protocol):
    """All devices over one connection, as lean as Python lets it be."""

    def __init__(self, payloads: dict[bytes, list[bytes]], finished: asyncio.Event) -> None:
        self._payloads, self._finished = payloads, finished
        self._sent = dict.fromkeys(payloads, 0)
        self._acked = dict.fromkeys(payloads, 0)
        self._before: dict[bytes, int] = {}
        self._left = len(payloads)
        self._rest = b""
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(packet(1, 0, data(b"MQTT") + b"\x04\x02\x00\x00" + data(b"fleet")))
        transport.write(packet(8, 2, b"\x00\x01" + data(TOPICS.channel("down/ack").encode()) + b"\x00"))

    def start(self) -> None:
        for topic in self._payloads:
            self._fill(topic)

    def data_received(self, received: bytes) -> None:
        buffer, at = self._rest + received, 0
        while len(buffer) - at >= 2:
            length, start = buffer[at + 1] & 0x7F, at + 2
            if buffer[at + 1] & 0x80:
                if len(buffer) - at < 3:
                    break
                length, start = length | buffer[at + 2] << 7, at + 3
            if start + length > len(buffer):
                break
            if buffer[at] >> 4 == 3:
                end = start + 2 + int.from_bytes(buffer[start : start + 2], "big")
                self._acknowledged(buffer[start + 2 : end], buffer[end : start + length])
            at = start + length
        self._rest = buffer[at:]

    def _acknowledged(self, topic: bytes, payload: bytes) -> None:
        device = topic[: -len(b"down/ack")] + b"up/facts"
        seq = json.loads(payload)["seq"]
        if seq <= self._acked[device]:
            return
        self._acked[device] = seq
        if seq == len(self._payloads[device]):
            self._left -= 1
            if not self._left:
                self._finished.set()
        self._fill(device)

    def go_back(self) -> int:
        """Send again what is not acknowledged, of devices that got no answer since the last time; how many there are."""
        stuck = [d for d, acked in self._acked.items() if acked == self._before.get(d, -1) and acked < len(self._payloads[d])]
        self._before = dict(self._acked)
        for device in stuck:
            self._sent[device] = self._acked[device]
            self._fill(device)
        return len(stuck)

    def _fill(self, device: bytes) -> None:
        payloads, head = self._payloads[device], data(device)
        until = min(self._acked[device] + WINDOW, len(payloads))
        out = []
        for n in range(self._sent[device], until):
            self._number = self._number % 65535 + 1
            out.append(packet(3, 2, head + self._number.to_bytes(2, "big") + payloads[n]))
        self._sent[device] = max(until, self._sent[device])
        self._transport.write(b"".join(out))


async def load(ground: Ground, payloads: dict[bytes, list[bytes]]) -> float:
    """Seconds until everything is acknowledged."""
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()
    transport, fleet = await loop.create_connection(lambda: Fleet(payloads, finished), "127.0.0.1", ground.port)
    await asyncio.sleep(1)  # the subscription is in force long before; nothing of this is measured
    began = time.perf_counter()
    fleet.start()
    async with asyncio.timeout(600):
        while not await _within(finished, RESEND_S):
            print(f"      {fleet.go_back()} devices sent again", flush=True)
    took = time.perf_counter() - began
    transport.close()
    return took


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def payload(device: str, key: bytes, epoch: str, seq: int) -> bytes:
    content = {"name": "Debian GNU/Linux", "version": "13", "kernel": f"6.12.{seq}-{epoch}", "arch": "x86_64", "id": "debian"}
    message = Facts(sections={"os": Section(hash=f"sha256:{epoch}{seq:060d}", data=content)}, manifest={"os": f"sha256:{epoch}{seq:060d}"})
    topic = TOPICS.build(DeviceTopic(device, "up/facts"))
    return encode(message, sent_at=now_text(), epoch=epoch, seq=seq, topic=topic, key=key)


# --- what is compared -----------------------------------------------------------------------------------------------------------


RAW_SCHEMA = """
CREATE TABLE IF NOT EXISTS raw_facts (host text, section text, hash text, data jsonb, PRIMARY KEY (host, section));
CREATE TABLE IF NOT EXISTS raw_changes (position bigint PRIMARY KEY, host text, resource jsonb, at timestamptz);
"""

RAW_WRITE = """
WITH given AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS t (host, section, hash, data, position)
), stored AS (
    INSERT INTO raw_facts
    SELECT DISTINCT ON (host, section) host, section, hash, data::jsonb FROM given ORDER BY host, section, position DESC
    ON CONFLICT (host, section) DO UPDATE SET hash = EXCLUDED.hash, data = EXCLUDED.data
)
INSERT INTO raw_changes SELECT position, host, data::jsonb, now() FROM given
"""


async def raw(database: str, port: int) -> None:
    """The raw pipeline, until it is ended."""
    pool = await asyncpg.create_pool(database, min_size=1, max_size=2)
    position = await pool.fetchval("SELECT coalesce(max(position), 0) FROM raw_changes")
    async with aiomqtt.Client("127.0.0.1", port, max_inflight_messages=1000) as client:
        await client.subscribe(TOPICS.uplinks(), qos=1)
        print("ready", flush=True)
        batch: list[aiomqtt.Message] = []
        async for message in client.messages:
            batch.append(message)
            if len(batch) < 500 and len(client.messages):
                continue
            bodies = [(str(m.topic), json.loads(m.payload)) for m in batch]
            rows = []
            for topic, body in bodies:
                for name, section in body["sections"].items():
                    position += 1
                    rows.append((topic.split("/")[4], name, section["hash"], json.dumps(section["data"]), position))
            await pool.execute(RAW_WRITE, *(list(column) for column in zip(*rows, strict=True)))
            for topic, body in dict(bodies).items():
                ack = json.dumps({"v": 1, "sent_at": body["sent_at"], "epoch": body["epoch"], "seq": body["seq"]})
                client._client.publish(topic.replace("up/facts", "down/ack"), ack, 1)
            batch = []


@contextmanager
def process(command: list[str], environment: dict[str, str] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """A child that has said `ready`."""
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr if "-v" in sys.argv else subprocess.DEVNULL
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"ready"), command
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(20)


async def measure(name: str, ground: Ground, devices: list[Any], messages: int, epoch: str, profile: Path | None) -> float:
    """Messages a second. `profile`: where a profile of ours goes."""
    payloads = {
        d.topic("up/facts").encode(): [payload(d.id, d.key, epoch, seq) for seq in range(1, messages + 1)] for d in devices
    }  # fmt: skip
    if name == "raw":
        command, environment = [sys.executable, "-m", "benchmarks.ingest", "--raw", ground.database, str(ground.port)], None
    else:
        command = [sys.executable, "-m", "inventory"]
        environment = dict(os.environ) | {
            "FLEETWARD_DATABASE": ground.database,
            "FLEETWARD_BROKER": f"mqtt://127.0.0.1:{ground.port}",
            "FLEETWARD_SECRETS": str(ground.secrets),
        }
    with process(command, environment) as child:
        before = cpu_seconds([child.pid])
        with recorded(profile if name == "ours" else None, "ingest", child.pid):
            took = await load(ground, payloads)
        used = cpu_seconds([child.pid]) - before
        if name == "ours":
            await positioned(ground)
    total = len(devices) * messages
    print(f"{name}: {total / took:8.0f} /s   ({total} messages in {took:.1f} s, {used / total * 1e6:.0f} µs of CPU each)", flush=True)
    return total / took


async def positioned(ground: Ground) -> None:
    """Until the relay has given every change its position; said when it lags by more than a second."""
    connection = await asyncpg.connect(ground.database)
    began = time.perf_counter()
    while await connection.fetchval("SELECT EXISTS (SELECT 1 FROM changes_in)"):  # noqa: ASYNC110 -- another process moves them
        await asyncio.sleep(0.05)
    if time.perf_counter() - began > 1:
        print(f"      the last position came {time.perf_counter() - began:.1f} s after the last acknowledgement")
    await connection.close()


# --- the ground -----------------------------------------------------------------------------------------------------------------


@contextmanager
def brokers(kind: str, directory: Path) -> Iterator[dict[str, int]]:
    """The ports that ours and raw use."""
    if kind == "mosquitto":
        with mosquitto(directory) as port:
            yield {"raw": port, "ours": port}
        return
    with broker_relay.running("ours", directory, False) as ours, broker_relay.running("amqtt", directory, False) as bare:
        yield {"raw": bare, "ours": ours}


@contextmanager
def mosquitto(directory: Path) -> Iterator[int]:
    port = free_port()
    settings = directory / "mosquitto.conf"
    settings.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        "persistence false\nset_tcp_nodelay true\n"
    )
    program = find_mosquitto()
    if program is None:
        raise Failed("there is no mosquitto on PATH: install it (apt install mosquitto)")
    broker = subprocess.Popen([program, "-c", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port), 30, "mosquitto")
        yield port
    finally:
        end(broker)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def compare(options: argparse.Namespace) -> dict[str, float]:
    """Messages a second of each, the best of its rounds."""
    logged = STATEMENT_LOG if options.profile else {}
    with directory() as home, paper.cluster(home / "postgres", **logged) as cluster, brokers(options.broker, home) as ports:
        authority = Authority(home / "secrets")
        authority.bootstrap()
        await migrate(cluster.url())
        db = await Database.open(cluster.url(), application="benchmark")
        devices = await make_devices(db, Store(db), authority, [f"edge-{n}" for n in range(options.devices)])
        async with db.acquire() as connection:
            await connection.execute(RAW_SCHEMA)
        await db.close()
        best = {"raw": 0.0, "ours": 0.0}
        for round_ in range(options.rounds):
            for which in best:
                ground = Ground(cluster.url(), ports[which], authority.directory)
                rate = await measure(which, ground, devices, options.messages, f"{which}{round_}", options.profile)
                best[which] = max(best[which], rate)
        if options.profile:
            write_statements(cluster.data / "log" / "statements.log", options.profile, "statements")
        return best


def row(options: argparse.Namespace, best: dict[str, float]) -> Row:
    ratio, embedded = best["ours"] / best["raw"], options.broker == "embedded"
    return Row(
        what=f"durable device messages committed, positioned and acknowledged, {options.devices:,} devices, {options.broker}",
        target=f"{EMBEDDED_RATE:,} /s" if embedded else f"{RATIO} of the raw pipeline",
        ours=f"{best['ours']:,.0f} /s",
        beside=f"raw pipeline{' over bare amqtt' if embedded else ''}: {best['raw']:,.0f} /s",
        ratio=f"{ratio:.2f}",
        met=best["ours"] >= EMBEDDED_RATE if embedded else ratio >= RATIO,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--messages", type=int, default=20, help="of each device")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--raw", nargs=2, metavar=("DATABASE", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path, metavar="DIR", help="py-spy's flame graph of ours, and all statements added up, go there")
    parser.add_argument("-v", action="store_true", help="show what the services log")
    asked = parser.parse_args()
    if asked.raw:
        asyncio.run(raw(asked.raw[0], int(asked.raw[1])))
    else:
        say(row(asked, asyncio.run(compare(asked))))


if __name__ == "__main__":
    main()

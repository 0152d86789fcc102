"""Fleets for the benchmarks: devices that are enrolled already, and the simulator that plays them.

Enrolling 10,000 devices one by one is a measurement of its own (5 minutes of two cores); here their rows are written at once, with real
keys and certificates of the installation's authority, and laid into the simulator's directory as if it had enrolled them itself. From
their first connection on everything is as in life: the simulator runs the agent's own code.
"""

import argparse
import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.ground import CONTROL_PLANE, ROOT, Failed, Installation, end, installation, until
from benchmarks.meters import Load
from benchmarks.report import Row, arguments, say
from broker.topics import Topics
from edge_agent.simulated.control import tell
from inventory.authority import Authority
from inventory.db import Database
from inventory.ids import new_id

SOCKET = "control.sock"
CONNECT_S = 240.0

HOSTS = """
INSERT INTO host (id, name, title, labels, version, generation, observed_generation, desired_state, current_state, status, created_at,
                  updated_at, presence)
SELECT id, 'edge-' || n, '', jsonb_build_object('line', (n % 100)::text), nextval('versions'), 1, 1, 'onboarded', 'onboarded',
       '{"indicator": "idle", "reason": "Reconciled", "message": "", "halted": false}', now(), now(), 'never'
FROM unnest($1::text[]) WITH ORDINALITY AS t (id, n)
"""
LABELS = "INSERT INTO host_labels (host, labels) SELECT id, labels FROM host WHERE id = ANY ($1::text[])"
STREAMS = """
INSERT INTO device_stream (host, seq, retired, retired_epochs, keepalive_s, heartbeat_s, flaps)
SELECT id, 0, '[]', '[]', 30, 30, 0 FROM unnest($1::text[]) AS id
"""
IDENTITIES = """
INSERT INTO device_identity (host, fingerprint, incarnation, certificate, certificate_serial, expires_at, fence, evidence, created_at)
SELECT host, fingerprint, 1, '', '', $3, 0, '{}', now() FROM unnest($1::text[], $2::text[]) AS t (host, fingerprint)
"""


@dataclass(frozen=True, slots=True)
class Simulator:
    """The one process that plays the fleet."""

    process: "subprocess.Popen[bytes]"
    directory: Path
    count: int

    def ask(self, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(tell(self.directory / SOCKET, json.dumps(request)))
        if not answer.get("ok"):
            raise Failed(f"the simulator refuses {request}: {answer}")
        return answer

    def connected(self) -> int:
        return int(self.ask(op="stats")["connected"])

    def settled(self) -> bool:
        """Everybody connected, and everything they had to say acknowledged."""
        stats = self.ask(op="stats")
        return bool(stats["connected"] == self.count and stats["unacked"] == 0)


async def enroll(ground: Installation, count: int) -> None:
    """Make devices 0 to `count` - 1 known to the installation and to the simulator."""
    ids = [new_id("host") for _ in range(count)]
    folder = ground.data.simulator / "devices"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority(ground.data.secrets)
    (folder / "ca.crt").write_text(authority.ca_pem)
    prints = [_identity(authority, folder, index, id, ground) for index, id in enumerate(ids)]
    db = await ground.open_database()
    try:
        await _insert(db, ids, prints)
    finally:
        await db.close()


def _identity(authority: Authority, folder: Path, index: int, id: str, ground: Installation) -> str:
    """The simulator's two files for a device; the fingerprint of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    issued = authority.issue_device(request.public_bytes(serialization.Encoding.PEM).decode(), id)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{index:06d}.pem").write_bytes(pem + issued.pem.encode())
    kept = {
        "device": id,
        "prefix": Topics().device_prefix(id),
        **{name: value for name, value in authority.introduction().items() if name != "ca"},
        "channel_key": authority.channel_key(id, 1).hex(),
        "broker": {"host": ground.host, "port": ground.broker_port},
        "server": ground.url,
    }
    (folder / f"{index:06d}.json").write_text(json.dumps(kept))
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


async def _insert(db: Database, ids: Sequence[str], prints: Sequence[str]) -> None:
    async with db.transaction() as tx:
        await tx.raw.execute(HOSTS, list(ids))
        await tx.raw.execute(LABELS, list(ids))
        await tx.raw.execute(STREAMS, list(ids))
        await tx.raw.execute(IDENTITIES, list(ids), list(prints), datetime.now(UTC) + timedelta(days=30))
    async with db.acquire() as connection:
        await connection.execute("ANALYZE host, host_labels, device_stream, device_identity")


@contextmanager
def simulated(ground: Installation, count: int, *through: str) -> Iterator[Simulator]:
    """Devices that `enroll` has made, playing; not waited for. `through`: a command that runs the simulator's."""
    where = ["--state-dir", str(ground.data.simulator), "--server", ground.url]
    if ground.url.startswith("https"):
        where += ["--ca-fingerprint", Authority(ground.data.secrets).ca_fingerprint]
    command = [*through, sys.executable, "-m", "edge_agent.simulator", "--count", str(count), *where, "--log", "warning"]
    with (ground.data.log / "simulator.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        until(lambda: (ground.data.simulator / SOCKET).exists() or process.poll() is not None, 30, "the simulator")
        yield Simulator(process, ground.data.simulator, count)
    finally:
        end(process)


def until_settled(simulator: Simulator, seconds: float = CONNECT_S) -> float:
    """Wait until the fleet is there and has said everything; seconds."""
    return until(simulator.settled, seconds, f"{simulator.count} agents connected and acknowledged")


@dataclass(frozen=True, slots=True)
class Standing:
    """An installation whose whole fleet is connected and idle. `arrived_s`: how long its first arrival, with all its facts, took."""

    ground: Installation
    simulator: Simulator
    broker: str
    arrived_s: float

    @property
    def agents(self) -> int:
        return self.simulator.count

    def load(self) -> Load:
        """Everything that runs."""
        names = (*CONTROL_PLANE, "broker", "postgres")
        return Load({name: self.ground.pid(name) for name in names} | {"simulator": self.simulator.process.pid})


@contextmanager
def standing(options: argparse.Namespace) -> Iterator[Standing]:
    """The fleet of `--agents` and `--broker`."""
    with installation(options.broker) as ground:
        asyncio.run(enroll(ground, options.agents))
        with simulated(ground, options.agents) as simulator:
            arrived = until_settled(simulator)
            print(f"{options.agents} agents on {options.broker}: there with all their facts after {arrived:.0f} s", flush=True)
            yield Standing(ground, simulator, options.broker, arrived)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")


def alone(doc: str | None, measure: Callable[[Standing], Row]) -> None:
    """A script that measures one row on a standing fleet. `doc`: its docstring."""
    parser = arguments(doc)
    add_flags(parser)
    with standing(parser.parse_args()) as stand:
        say(measure(stand))

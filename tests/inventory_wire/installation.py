"""An installation as `fleetward up` starts it, as far as the wire goes: secrets, database, broker process, Inventory process.

The broker is Mosquitto where there is one, else the embedded one; TLS with client certificates and access rules either way.
"""

import asyncio
import os
import signal
import ssl
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.mosquitto import find_mosquitto
from inventory.authority import Authority
from tests.ports import free_port
from tests.waiting import Deadline, patience

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0


async def until(predicate: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
    """What the predicate (or the awaitable it gives) is, once it is true."""
    deadline = Deadline(seconds)
    while True:
        found = predicate()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert not deadline.over(), f"{what} took more than {seconds} s"
        await asyncio.sleep(0.02)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def request(key: ec.EllipticCurvePrivateKey, name: str = "x") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(slots=True)
class Installation:
    """Directories and addresses; `start` starts one of its processes."""

    directory: Path
    database: str
    kind: str = field(default_factory=lambda: "mosquitto" if find_mosquitto() else "embedded")
    """Of the broker."""
    port: int = field(default_factory=free_port)
    """Of the broker, also after it was killed and started again."""
    processes: dict[str, Process] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    """The line by which each said that it is ready."""

    @property
    def secrets(self) -> Path:
        return self.directory / "secrets"

    def environment(self, name: str = "inventory") -> dict[str, str]:
        """A further replica has a secrets directory of its own, as on a machine of its own."""
        number = name.partition(".")[2]
        secrets = self.directory / f"{name}-secrets" if number else self.secrets
        if number:
            Authority(self.secrets).equip(f"svc-{name}", secrets)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}
        return kept | {
            "FLEETWARD_DATABASE": self.database,
            "FLEETWARD_BROKER": f"mqtts://127.0.0.1:{self.port}",
            "FLEETWARD_SECRETS": str(secrets),
            "FLEETWARD_REPLICA": number or "1",
            "PYTHONUNBUFFERED": "1",
        }

    async def start(self, name: str) -> Process:
        """Start it, such as `inventory` or `web.2`, and wait until it says `ready`."""
        command, environment = self.command(name), self.environment(name)
        with (self.directory / f"{name}.log").open("ab") as out:
            process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE, stderr=out)
        self.processes[name] = process
        assert process.stdout is not None
        async with patience(DEADLINE_S):
            line = await process.stdout.readline()
        assert line.startswith((b"ready", b"listening")), f"{name} said {line!r}: {self.log(name)[-3000:]}"
        self.said[name] = line.decode().strip()
        return process

    def command(self, name: str) -> list[str]:
        role = name.partition(".")[0]
        command = [sys.executable, "-m", role]
        if role == "broker":
            command += [
                "--kind",
                self.kind,
                "--port",
                str(self.port),
                "--secrets",
                str(self.secrets),
                "--data",
                str(self.directory / "broker"),
            ]
        return command + (["--port", "0"] if role == "web" else [])

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """End it by a signal; its exit code."""
        process = self.processes.pop(name)
        process.send_signal(number)
        async with patience(DEADLINE_S):
            return await process.wait()

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    async def close(self) -> None:
        for name in list(self.processes):
            if self.processes[name].returncode is None:
                await self.kill(name)

    def write_identity(self, name: str, certificate: str, key: ec.EllipticCurvePrivateKey) -> None:
        """A client's files."""
        (self.directory / f"{name}.crt").write_text(certificate)
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        (self.directory / f"{name}.key").write_bytes(pem)

    def context(self, name: str) -> ssl.SSLContext:
        """To connect with that name's certificate."""
        context = ssl.create_default_context(cafile=str(self.secrets / "ca.crt"))
        context.load_cert_chain(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        return context

    def client(self, name: str, will: aiomqtt.Will | None = None) -> aiomqtt.Client:
        """A client with that name's certificate."""
        return aiomqtt.Client("127.0.0.1", self.port, identifier=name, tls_context=self.context(name), will=will, keepalive=20)


@asynccontextmanager
async def installation(database: str) -> AsyncIterator[Installation]:
    """With its keys; the database is migrated already. Nothing runs yet, and what was started is ended at the end."""
    with tempfile.TemporaryDirectory(prefix="fleetward-wire-", dir="/tmp") as directory:
        made = Installation(Path(directory), database)
        Authority(made.secrets).bootstrap()
        (made.directory / "broker").mkdir(exist_ok=True)
        try:
            yield made
        finally:
            await made.close()

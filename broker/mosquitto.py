"""Mosquitto as the broker: its configuration and ACL rendered, its process run and kept from outliving ours.

The rules are those of `broker.acl`. Devices get theirs by patterns; each integration needs a section of its own, so the ACL file is written
again, and Mosquitto told to read it, when the list of integrations changes. Every promise about durability and authenticity is kept without
the broker, so nothing is persisted. `broker.__main__` runs it.

Two differences from the embedded broker, which Mosquitto 2.0 leaves no way around: one connection a certificate
(`use_username_as_clientid`; a service's replicas need certificates of their own, such as `svc-inventory.2`), and a persistent session
is accepted, though never kept through a restart.

Source: mosquitto.conf(5) of Mosquitto 2.0.
"""

import asyncio
import ctypes
import getpass
import json
import logging
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from broker.acl import Acl, Class, Identity, mosquitto_acl
from broker.messages import MAX_BYTES

log = logging.getLogger(__name__)

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_WATCH_S = 0.25
"""How often the list of integrations and the certificates are looked at, in seconds: a new integration is deaf until then."""
_START_S = 10.0
"""For Mosquitto to listen."""
_STOP_S = 3.0
"""Between SIGTERM and SIGKILL."""


class MosquittoMissing(Exception):
    """There is no `mosquitto` on PATH, or it does not start."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where things are: what we read (`secrets`), what we write for Mosquitto (`run`), and the list of integrations."""

    secrets: Path
    run: Path

    @property
    def acl(self) -> Path:
        return self.run / "mosquitto.acl"

    @property
    def config(self) -> Path:
        return self.run / "mosquitto.conf"

    @property
    def integrations(self) -> Path:
        """Written by Inventory: a JSON list of {"name", "scoped"}."""
        return self.secrets.parent / "broker" / "integrations.json"


def render(files: Files, host: str, port: int, user: str) -> str:
    """The configuration. Paths must hold no line break; Mosquitto takes the rest of a line as it is."""
    return f"""\
# Rendered by broker/mosquitto.py.
user {user}
persistence false
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false

# A service is sent the whole fleet's messages, and the fleet a service's. Without a bound in bytes, a client that does not acknowledge is
# kept everything for: what is in flight does not count as queued.
max_inflight_messages 0
max_inflight_bytes 33554432
max_queued_messages 100000
max_queued_bytes 67108864
max_packet_size {MAX_BYTES + 4096}
retain_available false

listener {port} {host}
allow_anonymous false
cafile {files.secrets / "ca.crt"}
certfile {files.secrets / "broker.crt"}
keyfile {files.secrets / "broker.key"}
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
# Without it a certificate could take over the connection of another by using its client id.
use_username_as_clientid true
acl_file {files.acl}
"""


def read_integrations(path: Path) -> list[Identity]:
    """The listed integrations; none where there is no list. Raises ValueError for a list that is none, or a name unfit for an ACL."""
    try:
        listed = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    found = []
    for each in listed:
        match each:
            case {"name": str(name), "scoped": bool(scoped)} if name.isprintable() and not set(name) & set(" #+/"):
                found.append(Identity(name, Class.INTEGRATION_SCOPED if scoped else Class.INTEGRATION))
            case _:
                raise ValueError(f"{path}: an entry is not an integration: {each!r}")
    return found


class Mosquitto:
    """The `mosquitto` on PATH as a child of this process."""

    def __init__(self, acl: Acl, *, secrets: Path, data: Path) -> None:
        self._acl = acl
        self._files = Files(secrets, data)
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._run: Callable[[], Awaitable[None]]
        self._exchanging = False

    async def start(self, host: str, port: int) -> int:
        """Returns the port once it is listened on. Raises MosquittoMissing, or OSError where the port is taken or a file is missing."""
        binary = find_mosquitto()
        if binary is None:
            raise MosquittoMissing("there is no mosquitto on PATH: install it (apt install mosquitto), or use --broker embedded")
        for name in ("ca.crt", "broker.crt", "broker.key"):
            (self._files.secrets / name).stat()
        port = _free_port(host, port)
        self._files.run.mkdir(parents=True, exist_ok=True)
        seen = self._seen()
        self._write_acl()
        _write(self._files.config, render(self._files, host, port, getpass.getuser()))
        self._run = lambda: self._begin(binary, host, port)
        await self._run()
        self._watch = asyncio.create_task(self._follow(seen))
        return port

    async def _begin(self, binary: str, host: str, port: int) -> None:
        self._process = await asyncio.create_subprocess_exec(binary, "-c", str(self._files.config), preexec_fn=_die_with(os.getpid()))
        await self._listening(host, port)

    async def _begin_again(self) -> None:
        """It reads its CAs when it starts, and at no other time (measured on 2.0.11: SIGHUP leaves them). Everybody connects anew."""
        log.info("mosquitto is started again: other CAs are trusted")
        self._exchanging = True
        try:
            await self._end()
            await self._run()
        finally:
            self._exchanging = False

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def ended(self) -> None:
        """Wait for the process to end by itself. Raises MosquittoMissing then."""
        assert self._process is not None
        while True:
            code = await self._process.wait()
            if not self._exchanging:
                break
            await asyncio.sleep(_WATCH_S)
        raise MosquittoMissing(f"mosquitto ended by itself with status {code}; its messages are above")

    async def _listening(self, host: str, port: int) -> None:
        assert self._process is not None
        ended = asyncio.create_task(self._process.wait())
        try:
            async with asyncio.timeout(_START_S):
                while not ended.done():
                    if await _answers(host, port):
                        return
                    await asyncio.wait([ended], timeout=0.05)
        except TimeoutError:
            self._process.kill()
        finally:
            ended.cancel()
        raise MosquittoMissing("mosquitto does not start; its messages are above")

    async def _follow(self, seen: tuple[int, ...]) -> None:
        """Tell Mosquitto of changed integrations and certificates: SIGHUP makes it read both, apart from the CAs."""
        while True:
            await asyncio.sleep(_WATCH_S)
            now = self._seen()
            if now == seen or self._process is None:
                continue
            try:
                self._write_acl()
            except (ValueError, OSError) as error:
                log.error("the list of integrations can't be used", extra={"reason": str(error)})
                continue
            if now[-1] != seen[-1]:
                await self._begin_again()
            elif self._process.returncode is None:
                self._process.send_signal(signal.SIGHUP)
                log.info("mosquitto reads its rules again")
            seen = now

    def _write_acl(self) -> None:
        _write(self._files.acl, mosquitto_acl(self._acl, read_integrations(self._files.integrations)))

    def _seen(self) -> tuple[int, ...]:
        watched = (self._files.integrations, self._files.secrets / "broker.crt", self._files.secrets / "ca.crt")
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in watched)


def find_mosquitto() -> str | None:
    """On PATH, or where Debian puts it, which is not on every user's PATH."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


def _write(path: Path, text: str) -> None:
    """Replaced as a whole: Mosquitto never reads half a file."""
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.replace(path)


def _free_port(host: str, port: int) -> int:
    """The port, or one that the system chooses. Raises OSError where it is taken: Mosquitto would only log that."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as found:
        return int(found.getsockname()[1])


async def _answers(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1" if host in ("0.0.0.0", "::") else host, port)
    except OSError:
        return False
    writer.close()
    return True


def _die_with(parent: int) -> Callable[[], None]:
    """For the child, before it becomes Mosquitto: the kernel kills it when its parent dies, also by kill -9. Source: prctl(2)."""

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare

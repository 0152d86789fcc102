"""Mosquitto as the broker: its configuration and ACL rendered, its process run and kept from outliving ours.

The rules are those of `broker.acl`. Devices get theirs by patterns; each integration needs a section of its own, so the ACL file is written
again, and Mosquitto told to read it, when the list of integrations changes. Certificates that are revoked are refused by a CRL, and their
connections cut (`broker.following`). Every promise about durability and authenticity is kept without
the broker, so nothing is persisted. `broker.__main__` runs it.

Two differences from the embedded broker, which Mosquitto 2.0 leaves no way around: one connection a certificate
(`use_username_as_clientid`; a service's replicas need certificates of their own, such as `svc-inventory.2`), and a persistent session
is accepted, though never kept through a restart.

Source: mosquitto.conf(5) of Mosquitto 2.0.
"""

import asyncio
import ctypes
import getpass
import glob
import json
import logging
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from broker.acl import BROKER, Acl, Class, Identity, mosquitto_acl
from broker.client import Settings
from broker.following import Following
from broker.messages import MAX_BYTES
from broker.revocations import RevocationList

log = logging.getLogger(__name__)

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_WATCH_S = 0.25
"""How often the list of integrations and the certificates are looked at, in seconds: a new integration is deaf until then."""
_START_S = 10.0
"""For Mosquitto to listen."""
_STOP_S = 3.0
"""Between SIGTERM and SIGKILL."""
_PLUGIN = "mosquitto_dynamic_security.so"
_PLUGIN_PLACES = ("/usr/lib/*/", "/usr/lib/", "/usr/lib64/", "/usr/local/lib/", "/usr/local/lib/*/", "/opt/*/lib/")

READS = ("ca.crt", "ca.crl", "broker.crt", "broker.key", f"{BROKER}.crt", f"{BROKER}.key")
"""Of the secrets."""


class MosquittoMissing(Exception):
    """There is no `mosquitto` on PATH, or no plugin of it, or it does not start."""


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
    def crl(self) -> Path:
        """The one that Mosquitto reads: the newest that Inventory has told, or the secrets' own, which takes nothing back."""
        return self.run / "mosquitto.crl"

    @property
    def plugin(self) -> Path:
        """What the dynamic-security plugin keeps: nothing, but it wants a file."""
        return self.run / "mosquitto-clients.json"

    @property
    def revoked(self) -> Path:
        return self.run / "revoked.json"

    @property
    def integrations(self) -> Path:
        """Written by Inventory: a JSON list of {"name", "scoped"}."""
        return self.secrets.parent / "broker" / "integrations.json"


PLUGIN_CLIENTS = {
    "defaultACLAccess": {"publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": False},
    "clients": [],
    "groups": [],
    "roles": [],
}
"""For the plugin: nobody is known to it and nothing granted, so that it leaves every decision to the ACL file."""


def render(files: Files, host: str, port: int, user: str, plugin: str) -> str:
    """The configuration; `plugin` is the path of the dynamic-security plugin. Paths must hold no line break: Mosquitto takes the rest of a
    line as it is."""
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

# It cuts the connections of certificates that are revoked; who may do what is in the ACL file.
plugin {plugin}
plugin_opt_config_file {files.plugin}

listener {port} {host}
allow_anonymous false
cafile {files.secrets / "ca.crt"}
crlfile {files.crl}
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
        self._run: Callable[[], Awaitable[None]]
        self._exchanging = False
        self._following: Following | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def revoked(self) -> RevocationList:
        """What it has been told is."""
        return self._following.revoked if self._following is not None else RevocationList()

    async def start(self, host: str, port: int) -> int:
        """Returns the port once it is listened on. Raises MosquittoMissing, or OSError where the port is taken or a file is missing."""
        binary = find_mosquitto()
        if binary is None:
            raise MosquittoMissing("there is no mosquitto on PATH: install it (apt install mosquitto), or use --broker embedded")
        plugin = find_plugin()
        if plugin is None:
            raise MosquittoMissing(f"Mosquitto's {_PLUGIN} is nowhere to be found: install it (it is in Debian's mosquitto)")
        for name in READS:
            (self._files.secrets / name).stat()
        port = _free_port(host, port)
        self._files.run.mkdir(parents=True, exist_ok=True)
        seen = self._seen()
        self._write_acl()
        self._following = following = self._follower(host, port)
        self._write_crl(following.restore().crl)
        _write(self._files.plugin, json.dumps(PLUGIN_CLIENTS))
        _write(self._files.config, render(self._files, host, port, getpass.getuser(), plugin))
        self._run = lambda: self._begin(binary, host, port)
        await self._run()
        self._tasks = [asyncio.create_task(self._follow(seen)), asyncio.create_task(following.run())]
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
        """Wait for the process to end by itself: raises MosquittoMissing then; or what one of our tasks has failed with."""
        assert self._process is not None
        process = asyncio.create_task(self._ended_by_itself())
        done, _ = await asyncio.wait([process, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {process}:
            task.result()
        raise MosquittoMissing(f"mosquitto ended by itself with status {await process}; its messages are above")

    async def _ended_by_itself(self) -> int:
        assert self._process is not None
        while True:
            code = await self._process.wait()
            if not self._exchanging:
                return code
            await asyncio.sleep(_WATCH_S)

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
                self._write_crl(self.revoked.crl)
            except (ValueError, OSError) as error:
                log.error("mosquitto's rules can't be written", extra={"reason": str(error)})
                continue
            if now[-1] != seen[-1]:
                await self._begin_again()
            else:
                self._read_again()
            seen = now

    def _read_again(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)
            log.info("mosquitto reads its rules again")

    def _follower(self, host: str, port: int) -> Following:
        at = _reachable(host)
        url = f"mqtts://[{at}]:{port}" if ":" in at else f"mqtts://{at}:{port}"
        settings = Settings.from_url(url, BROKER, self._files.secrets, self._acl.topics)
        return Following(settings, self._acl.topics, self._files.revoked, self._install)

    def _install(self, crl: str) -> None:
        self._write_crl(crl)
        self._read_again()

    def _write_crl(self, crl: str) -> None:
        """Beside the secrets' own: a CA that has no list there yet would be believed nothing. Of two of one CA the newer counts."""
        _write(self._files.crl, crl + (self._files.secrets / "ca.crl").read_text())

    def _write_acl(self) -> None:
        _write(self._files.acl, mosquitto_acl(self._acl, read_integrations(self._files.integrations)))

    def _seen(self) -> tuple[int, ...]:
        names = ("broker.crt", "ca.crl", "ca.crt")
        watched = (self._files.integrations, *(self._files.secrets / name for name in names))
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in watched)


def find_mosquitto() -> str | None:
    """On PATH, or where Debian puts it, which is not on every user's PATH."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


def find_plugin() -> str | None:
    """The dynamic-security plugin, where distributions put it."""
    return next((found for place in _PLUGIN_PLACES for found in sorted(glob.glob(place + _PLUGIN))), None)


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


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


async def _answers(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(_reachable(host), port)
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

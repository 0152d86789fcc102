"""Mosquitto as the broker: its files rendered (`broker.mosquitto_files`), its process run and kept from outliving ours.

The rules are those of `broker.acl`. Devices get theirs by patterns; each integration needs a section of its own, so the ACL file is written
again, and Mosquitto told to read it, when the list of integrations changes. Certificates that are revoked are refused by a CRL, and their
connections cut (`broker.following`). Every promise about durability and authenticity is kept without the broker, so nothing is persisted.
`broker.__main__` runs it; a Mosquitto that somebody else runs is kept up to date by `broker.beside`.

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
from pathlib import Path

from broker.acl import BROKER, Acl
from broker.client import Settings
from broker.following import Following
from broker.mosquitto_files import PLUGIN_CLIENTS, Files, render, write
from broker.revocations import RevocationList
from broker.stamps import Stamps

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
        seen = self._files.seen()
        self._following = following = self._follower(host, port)
        self._files.write_rules(self._acl, following.restore().crl)
        write(self._files.plugin, json.dumps(PLUGIN_CLIENTS))
        write(self._files.config, render(self._files, host, port, getpass.getuser(), plugin))
        self._run = lambda: self._begin(binary, host, port)
        await self._run()
        self._tasks = [asyncio.create_task(self._follow(seen)), asyncio.create_task(following.run())]
        return port

    async def _begin(self, binary: str, host: str, port: int) -> None:
        self._process = await asyncio.create_subprocess_exec(binary, "-c", str(self._files.config), preexec_fn=_die_with(os.getpid()))
        await self._listening(host, port)

    async def _begin_again(self) -> None:
        """It reads its CAs when it starts, and at no other time (measured on 2.0.11: SIGHUP leaves them). Everybody connects anew. It is
        told nothing meanwhile: one that has only begun is ended by a SIGHUP."""
        assert self._following is not None
        async with self._following.reading:
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

    async def _follow(self, seen: Stamps) -> None:
        """Tell Mosquitto of changed integrations and certificates: SIGHUP makes it read both, apart from the CAs."""
        while True:
            await asyncio.sleep(_WATCH_S)
            now = self._files.seen()
            if now == seen or self._following is None:
                continue
            try:
                await self._following.read_again(self._write)
            except (ValueError, OSError) as error:
                log.error("mosquitto's rules can't be written", extra={"reason": str(error)})
                continue
            if now[-1] != seen[-1]:
                await self._begin_again()
            seen = now

    def _write(self) -> None:
        self._files.write_rules(self._acl, self.revoked.crl)

    async def _reload(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)
            log.info("mosquitto reads its rules again")

    def _follower(self, host: str, port: int) -> Following:
        at = _reachable(host)
        url = f"mqtts://[{at}]:{port}" if ":" in at else f"mqtts://{at}:{port}"
        settings = Settings.from_url(url, BROKER, self._files.secrets, self._acl.topics)
        return Following(settings, self._acl.topics, self._files, self._reload)


def find_mosquitto() -> str | None:
    """On PATH, or where Debian puts it, which is not on every user's PATH."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


def find_plugin() -> str | None:
    """The dynamic-security plugin, where distributions put it."""
    return next((found for place in _PLUGIN_PLACES for found in sorted(glob.glob(place + _PLUGIN))), None)


def _free_port(host: str, port: int) -> int:
    """The port, or one that the system chooses. Raises OSError where it is taken: Mosquitto would only log that."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as found:
        return int(found.getsockname()[1])


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


async def _answers(host: str, port: int) -> bool:
    """Whether Mosquitto does, by closing what says nothing: the system accepts connections before it does, and before it takes signals."""
    try:
        reader, writer = await asyncio.open_connection(_reachable(host), port)
        try:
            writer.write_eof()
            await reader.read()
        finally:
            writer.close()
    except OSError:
        return False
    return True


def _die_with(parent: int) -> Callable[[], None]:
    """For the child, before it becomes Mosquitto: the kernel kills it when its parent dies, also by kill -9. Source: prctl(2)."""

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare

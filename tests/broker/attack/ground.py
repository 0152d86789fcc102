"""What the attacks are made on: the embedded broker as a process of its own, and others on it, who want nothing but to be left alone.

`Ground` starts `python -m broker` with certificates, reads its log and measures its memory. `watched` runs an attack while a device and
Inventory exchange messages and one device after the other connects, and tells whether any of them was harmed, what the broker's memory
grew by, and what was left behind.
"""

import asyncio
import json
import random
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.acl import Class
from broker.topics import DeviceTopic, Topics
from tests.broker.certificates import CertFactory
from tests.broker.wire import Wire, until
from tests.waiting import Stopwatch, patience

T = Topics()
MIB = 1024 * 1024

CONNECT_S = 1.0
"""A legitimate client has its CONNACK within that, whatever goes on."""
EXCHANGE_S = 1.0
"""And its message at the other end."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of an attack's report: what was looked at, what was seen, and whether it is as promised."""

    what: str
    seen: str
    held: bool


class Ground:
    """`calm`: seconds are counted without what other processes of the machine took (tests); else by the clock."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, certs: CertFactory | None, calm: bool) -> None:
        self.process, self.port, self.calm = process, port, calm
        self.log: list[dict[str, Any]] = []
        self._certs = certs
        self._reading = asyncio.create_task(self._read())

    @property
    def certs(self) -> CertFactory:
        assert self._certs is not None, "this broker has no TLS"
        return self._certs

    def wire(self, name: str, kind: Class = Class.DEVICE) -> Wire:
        return Wire("127.0.0.1", self.port, None if self._certs is None else self._certs.client_context(name, kind))

    def seconds(self, watch: Stopwatch) -> float:
        return max(0.0, watch.seconds()) if self.calm else watch.wall()

    def memory(self) -> int:
        """Bytes that the broker's process has resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def tasks(self) -> dict[str, int]:
        """asyncio's, by coroutine: a session that was left behind has some."""
        seen = len(self.said("vitals"))
        self.process.send_signal(signal.SIGUSR1)
        await until(lambda: len(self.said("vitals")) > seen, 10.0)
        return dict(self.said("vitals")[-1]["most"])

    def said(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["message"] == message]

    def failures(self) -> list[str]:
        """What the broker's log has of errors, and its end."""
        ended = [f"the broker ended with {self.process.returncode}"] if self.process.returncode is not None else []
        return ended + [json.dumps(line) for line in self.log if line["level"] == "error" or "traceback" in line]

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            async with patience(10):
                await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(json.loads(line))


@asynccontextmanager
async def standing(directory: Path, *, calm: bool = False) -> AsyncIterator[Ground]:
    """The embedded broker as it is run, with TLS, ACL and its usual limits."""
    (directory / "secrets").mkdir()
    certs = CertFactory(directory / "secrets")
    command = ("broker", "--port", "0", "--secrets", str(certs.directory), "--data", str(directory / "data"))
    async with _started(command, certs, calm) as ground:
        yield ground


@asynccontextmanager
async def standing_open(*, calm: bool = False) -> AsyncIterator[Ground]:
    """The same without TLS and ACL."""
    async with _started(("tests.broker.open_broker",), None, calm) as ground:
        yield ground


@asynccontextmanager
async def _started(command: tuple[str, ...], certs: CertFactory | None, calm: bool) -> AsyncIterator[Ground]:
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *command, stdout=pipe, stderr=pipe, limit=MIB)
    assert process.stdout is not None
    async with patience(20):
        line = (await process.stdout.readline()).decode()
    ground = Ground(process, int(re.findall(r"\d+", line)[-1]), certs, calm)
    try:
        yield ground
    finally:
        await ground.end()


@dataclass
class Others:
    """Who is not to be harmed. `harm`: what went wrong for them, in words."""

    ground: Ground
    exchanges: int = 0
    slowest_exchange: float = 0.0
    connects: int = 0
    slowest_connect: float = 0.0
    harm: list[str] = field(default_factory=list)

    async def talk(self, ending: asyncio.Event) -> None:
        """A device and Inventory, in both directions, over connections that stand the whole time."""
        device, inventory = self.ground.wire("bystander"), self.ground.wire("svc-inventory", Class.SERVICE)
        up, down = (T.build(DeviceTopic("bystander", channel)) for channel in ("up/log", "down/ack"))
        try:
            assert await device.let_in("bystander") == await inventory.let_in("bystanders") == 0
            assert await inventory.subscribe(up) == await device.subscribe(down) == [1]
            while not ending.is_set():
                watch, payload = Stopwatch(), str(self.exchanges).encode()
                await device.publish(up, payload)
                assert (await inventory.message(30)).payload == payload, "another message came"
                await inventory.publish(down, payload)
                assert (await device.message(30)).payload == payload, "another message came"
                self.slowest_exchange = max(self.slowest_exchange, self.ground.seconds(watch))
                self.exchanges += 1
                await asyncio.sleep(0.01)  # their pace
        except (AssertionError, EOFError, TimeoutError, OSError) as error:
            self.harm.append(f"after {self.exchanges} exchanges: {type(error).__name__} {error}")
        finally:
            await device.abort()
            await inventory.abort()

    async def arrive(self, ending: asyncio.Event) -> None:
        """Devices that connect, one after the other."""
        while not ending.is_set():
            watch = Stopwatch()
            try:
                device = await self._admitted(watch)
                self.slowest_connect = max(self.slowest_connect, self.ground.seconds(watch))
                self.connects += 1
                await device.abort()
            except (AssertionError, EOFError, TimeoutError, OSError) as error:
                self.harm.append(f"a connect failed: {type(error).__name__} {error}")
            await asyncio.sleep(0.1)  # their pace

    async def _admitted(self, watch: Stopwatch) -> Wire:
        """As an agent does it: who loses its place in a crowd because this machine was too busy (docs/adr/0019) comes again at once; all of
        it is the one connect that has to be quick."""
        while True:
            device = self.ground.wire("newcomer")
            try:
                assert await device.connect("newcomer", within=30) == 0, "refused"
                return device
            except (EOFError, ConnectionError, ssl.SSLError):
                await device.abort()
                if self.ground.seconds(watch) > 30:
                    raise

    def findings(self) -> list[Finding]:
        quick = self.slowest_connect <= CONNECT_S and self.slowest_exchange <= EXCHANGE_S and self.exchanges > 0 and self.connects > 0
        exchanges = f"{self.exchanges:,} exchanges, at most {self.slowest_exchange:.2f} s"
        connects = f"{self.connects} connects, at most {self.slowest_connect:.2f} s"
        return [
            Finding("others: a connect and an exchange within 1 s", f"{exchanges}; {connects}", quick),
            Finding("others: nothing lost, nobody cut", "; ".join(self.harm) or "none harmed", not self.harm),
        ]


async def watched(ground: Ground, attack: Callable[[], Awaitable[list[Finding]]], memory_mib: float) -> list[Finding]:
    """An attack's own findings, then what it did to the broker and to others, once it is over."""
    others, ending, peak = Others(ground), asyncio.Event(), [0]
    at_ease = [asyncio.create_task(others.talk(ending)), asyncio.create_task(others.arrive(ending))]
    await until(lambda: (others.exchanges > 3 and others.connects > 1) or others.harm, 20)
    before, tasks = ground.memory(), await ground.tasks()
    sampling = asyncio.create_task(_sample(ground, peak))
    findings = await attack()
    sampling.cancel()
    left = await _left(ground, tasks)
    ending.set()
    await asyncio.gather(*at_ease)
    grown = (peak[0] - before) / MIB
    findings.append(Finding(f"the broker's memory: at most {memory_mib:g} MiB more", f"{grown:.1f} MiB more at most", grown <= memory_mib))
    findings.append(Finding("nothing left behind", left or "no task, no connection", not left))
    failures = ground.failures()
    findings.append(Finding("no error of the broker", "; ".join(failures[:3]) or "none", not failures))
    return findings + others.findings()


async def _sample(ground: Ground, peak: list[int]) -> None:
    while True:
        peak[0] = max(peak[0], ground.memory())
        await asyncio.sleep(0.02)  # the sampling's pace


async def _left(ground: Ground, before: dict[str, int]) -> str:
    """Tasks that the attack began and that have not ended within 10 s; a connecting newcomer's come and go."""
    more: dict[str, int] = {}
    for _ in range(40):
        now = await ground.tasks()
        more = {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0) + _NEWCOMER}
        if not more:
            return ""
        await asyncio.sleep(0.25)  # between two looks
    return ", ".join(f"{count} × {name}" for name, count in more.items())


_NEWCOMER = 3
"""Tasks of one coroutine that one client may have."""


def chance_of(seed: int, name: str) -> random.Random:
    """Each attack has its own, so that one alone does what it does among all."""
    return random.Random(f"{seed} {name}")

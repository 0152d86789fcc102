"""Mosquitto as a child process: its configuration, its rules read again, and its end with ours."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from broker.acl import Acl, Class, Identity
from broker.client import Session, Settings
from broker.mosquitto import Mosquitto, MosquittoMissing, _answers
from broker.mosquitto_files import Files, read_integrations, render, write
from broker.topics import DeviceTopic, EventTopic, Topics
from broker.turns import Share
from tests.broker.certificates import CertFactory
from tests.broker.wire import Wire, publish, until
from tests.waiting import patience

T = Topics()

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def secrets(certs: CertFactory, tmp_path: Path) -> Path:
    """A copy in an installation of its own, so that each test has its own list of integrations."""
    certs.client("svc-inventory", Class.SERVICE)
    return Path(shutil.copytree(certs.directory, tmp_path / "secrets"))


@pytest.fixture
def broker(secrets: Path, tmp_path: Path) -> Mosquitto:
    return Mosquitto(Acl(T), secrets=secrets, data=tmp_path / "broker")


@pytest.fixture
async def port(broker: Mosquitto) -> AsyncIterator[int]:
    yield await broker.start("127.0.0.1", 0)
    await broker.stop()


MOST_FOR_A_CLIENT = 240 * 1024 * 1024
"""In flight, queued, and what the allocator adds."""


def memory(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def test_the_configuration_is_the_golden_one() -> None:
    """Every line of it is a promise: certificates only, identity from them, bounds, nothing kept."""
    golden = Path(__file__).parents[1] / "golden" / "broker" / "mosquitto.conf"
    assert render(Files(Path("/d/secrets"), Path("/d/broker")), "127.0.0.1", 8883, "fleet", "/usr/lib/plugin.so") == golden.read_text()


def test_a_file_in_anothers_place_is_seen_within_a_tick(tmp_path: Path) -> None:
    """The kernel counts a file's time in steps of milliseconds: two lists one after the other may have one time and one size."""
    files = Files(tmp_path / "secrets", tmp_path / "run")
    files.integrations.parent.mkdir()
    files.integrations.write_text("[1]")
    before, found = files.seen(), files.integrations.stat()
    write(files.integrations, "[2]")
    os.utime(files.integrations, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert files.seen() != before


async def test_one_that_only_begins_is_told_nothing(broker: Mosquitto, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIGHUP would end it: what there is to tell waits until it answers, and is told then."""
    begun, may, done = asyncio.Event(), asyncio.Event(), list[str]()
    begin = broker._run

    async def run() -> None:
        begun.set()
        await may.wait()
        await begin()
        done.append("it answers")

    monkeypatch.setattr(broker, "_run", run)
    assert broker._following is not None
    exchange = asyncio.create_task(broker._begin_again())
    async with patience(10):
        await begun.wait()
    telling = asyncio.create_task(broker._following.read_again(lambda: done.append("another list")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert done == []
    may.set()
    await asyncio.gather(exchange, telling)
    assert done == ["it answers", "another list"]


async def test_a_port_that_is_only_listened_on_does_not_answer() -> None:
    """The system accepts connections for a Mosquitto that takes no signals yet; it answers when it has dealt with one itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        asked = asyncio.create_task(_answers("127.0.0.1", listener.getsockname()[1]))
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not asked.done()
        accepted.close()
        assert await asked


@pytest.mark.parametrize(
    "listed",
    ['[{"name": "a b", "scoped": true}]', '[{"name": "+", "scoped": true}]', '["erp"]', "{", '[{"name": "a\\nuser x", "scoped": true}]'],
)
def test_a_list_of_integrations_that_is_none(tmp_path: Path, listed: str) -> None:
    """A name that would become a wildcard or a second line of the ACL is refused with the file's name, and so is what is no list."""
    (tmp_path / "integrations.json").write_text(listed)
    with pytest.raises(ValueError):
        read_integrations(tmp_path / "integrations.json")


def test_the_list_of_integrations(tmp_path: Path) -> None:
    """Names with their class; no file is an empty list."""
    path = tmp_path / "integrations.json"
    assert read_integrations(path) == []
    path.write_text('[{"name": "erp", "scoped": false}, {"name": "line4", "scoped": true}]')
    assert read_integrations(path) == [Identity("erp", Class.INTEGRATION), Identity("line4", Class.INTEGRATION_SCOPED)]


async def test_a_new_integration_gets_its_rights_without_a_restart(certs: CertFactory, secrets: Path, port: int) -> None:
    """Once it is listed, the ACL is read again and events arrive on its standing connection."""
    wire = Wire("127.0.0.1", port, certs.client_context("crm", Class.INTEGRATION))
    await wire.connect("crm")
    await wire.subscribe(T.events())
    async with Session(Settings.from_url(f"mqtts://127.0.0.1:{port}", "svc-inventory", secrets, T)) as inventory:
        await inventory.connected()
        await inventory.publish(T.build(EventTopic("host", "a")), b"before")
        listed = secrets.parent / "broker" / "integrations.json"
        listed.parent.mkdir(exist_ok=True)
        listed.write_text(json.dumps([{"name": "crm", "scoped": False}]))
        acl = listed.parent / "mosquitto.acl"
        await until(lambda: "user crm" in acl.read_text())

        async def events() -> None:
            while True:
                await inventory.publish(T.build(EventTopic("host", "a")), b"after")
                await asyncio.sleep(0.05)

        publishing = asyncio.create_task(events())
        assert (await wire.message()).payload == b"after"
        publishing.cancel()
    await wire.abort()


async def test_a_burst_to_a_service_is_queued_and_not_dropped(certs: CertFactory, secrets: Path, port: int) -> None:
    """3,000 messages at once, more than Mosquitto's default queue of 1,000: all arrive."""
    device = Wire("127.0.0.1", port, certs.client_context("host-a", Class.DEVICE))
    await device.connect("host-a")
    wide = Share(items=3000, size=1 << 30, burst=3000, a_second=1000.0)
    settings = replace(Settings.from_url(f"mqtts://127.0.0.1:{port}", "svc-inventory", secrets, T), of_device=wide)
    async with Session(settings) as inventory:
        await inventory.connected()
        await inventory.subscribe(T.uplinks())
        topic = T.build(DeviceTopic("host-a", "up/facts"))
        for n in range(3000):
            device.send(publish(topic, str(n).encode(), packet_id=n + 1))
        taken: list[bytes] = []
        async with patience(20):
            while len(taken) < 3000:
                taken += [received.payload for received in await inventory.batch(1000)]
    assert taken == [str(n).encode() for n in range(3000)]
    await device.abort()


async def test_a_reader_that_never_acknowledges_costs_a_bound_of_memory(
    certs: CertFactory, secrets: Path, port: int, broker: Mosquitto
) -> None:
    """375 MiB of events at QoS 1 for somebody who reads and acknowledges none: what is beyond the bound is dropped for them alone."""
    reader = Wire("127.0.0.1", port, certs.client_context("idle", Class.INTEGRATION))
    integrations = secrets.parent / "broker" / "integrations.json"
    integrations.parent.mkdir(exist_ok=True)
    integrations.write_text(json.dumps([{"name": "idle", "scoped": False}]))
    await until(lambda: "user idle" in (integrations.parent / "mosquitto.acl").read_text())
    await reader.connect("idle")
    await reader.subscribe(T.events())
    async with Session(Settings.from_url(f"mqtts://127.0.0.1:{port}", "svc-inventory", secrets, T)) as inventory:
        await inventory.connected()
        topic = T.build(EventTopic("host", "host-a"))
        assert broker._process is not None
        before = memory(broker._process.pid)
        for _ in range(30):
            await asyncio.gather(*(inventory.publish(topic, b"x" * 128 * 1024) for _ in range(100)))
        grown = memory(broker._process.pid) - before
    await reader.abort()
    assert grown < MOST_FOR_A_CLIENT


async def test_mosquitto_does_not_outlive_a_killed_parent(secrets: Path, tmp_path: Path) -> None:
    """kill -9 of `python -m broker` takes Mosquitto along, so the next start finds its port free."""
    command = [
        sys.executable,
        "-m",
        "broker",
        "--kind",
        "mosquitto",
        "--port",
        "0",
        "--secrets",
        str(secrets),
        "--data",
        str(tmp_path / "b"),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    async with patience(10):
        assert (await process.stdout.readline()).startswith(b"listening mqtts://127.0.0.1:")
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await until(lambda: _has_ended(int(child)))


def _has_ended(pid: int) -> bool:
    """A zombie that init has still to collect has as well."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_without_the_binary_it_says_what_to_do(secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the two ways on."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(MosquittoMissing, match=r"install it .* or use --broker embedded"):
        await Mosquitto(Acl(T), secrets=secrets, data=tmp_path).start("127.0.0.1", 0)


async def test_its_own_end_is_reported(secrets: Path, tmp_path: Path) -> None:
    """Mosquitto killed: `ended` raises, so that the wrapper ends and is started again."""
    broker = Mosquitto(Acl(T), secrets=secrets, data=tmp_path / "broker")
    await broker.start("127.0.0.1", 0)
    assert broker._process is not None
    broker._process.kill()
    with pytest.raises(MosquittoMissing, match="ended by itself"):
        async with patience(5):
            await broker.ended()
    await broker.stop()

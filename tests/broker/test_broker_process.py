"""`python -m broker` as a process: what it prints, how it ends, and what it says when it can't start."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.acl import Class
from broker.topics import Topics
from tests.broker.certificates import CertFactory
from tests.broker.wire import Wire
from tests.waiting import patience

KINDS = ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


@asynccontextmanager
async def started(secrets: Path, data: Path, *arguments: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "broker", "--secrets", str(secrets), "--data", str(data), *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def port_of(process: Process) -> int:
    assert process.stdout is not None
    async with patience(15):
        line = (await process.stdout.readline()).decode()
    assert line.startswith("listening mqtts://127.0.0.1:"), line
    return int(line.rpartition(":")[2])


@pytest.mark.parametrize("kind", KINDS)
async def test_it_listens_and_ends_on_sigterm_with_clients_connected(certs: CertFactory, tmp_path: Path, kind: str) -> None:
    """One line when it can be connected to; on SIGTERM status 0 within 5 s, however many clients there are."""
    async with started(certs.directory, tmp_path, "--kind", kind, "--port", "0") as process:
        port = await port_of(process)
        clients = [Wire("127.0.0.1", port, certs.client_context(f"host-{n}", Class.DEVICE)) for n in range(20)]
        for n, client in enumerate(clients):
            assert await client.connect(f"host-{n}") == 0
        process.send_signal(signal.SIGTERM)
        async with patience(5):
            assert await process.wait() == 0
        for client in clients:
            assert await client.closed()
            await client.abort()


async def test_another_topic_root(certs: CertFactory, tmp_path: Path) -> None:
    """Rights are those under the root that was asked for."""
    async with started(certs.directory, tmp_path, "--port", "0", "--topic-root", "plant") as process:
        device = Wire("127.0.0.1", await port_of(process), certs.client_context("host-a", Class.DEVICE))
        await device.connect("host-a")
        assert await device.subscribe(Topics("plant").downlinks("host-a"), Topics().downlinks("host-a")) == [1, 0x80]
        await device.abort()


async def test_what_was_refused_is_in_the_log_with_its_fields(certs: CertFactory, tmp_path: Path) -> None:
    """Whoever looks for why a client gets nothing finds who it was and what it may not do, on one line."""
    async with started(certs.directory, tmp_path, "--port", "0") as process:
        device = Wire("127.0.0.1", await port_of(process), certs.client_context("host-a", Class.DEVICE))
        await device.connect("host-a")
        assert await device.subscribe(Topics().downlinks("host-b")) == [0x80]
        await device.abort()
        process.send_signal(signal.SIGTERM)
        async with patience(15):
            _, said = await process.communicate()
    log = said.decode()
    (line,) = [line for line in map(json.loads, log.splitlines()) if line["message"] == "denied"]
    assert line["client"] == "host-a" and line["topic"] == Topics().downlinks("host-b")
    assert "Logging error" not in log and "Traceback" not in log, log


async def _refusal(secrets: Path, data: Path, *arguments: str) -> str:
    async with started(secrets, data, *arguments) as process, patience(15):
        _, said = await process.communicate()
        assert process.returncode == 2
        (line,) = said.decode().splitlines()
        return line


@pytest.mark.parametrize("kind", KINDS)
async def test_a_port_in_use(certs: CertFactory, tmp_path: Path, kind: str) -> None:
    """One line that names the port and what to do, status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = await _refusal(certs.directory, tmp_path, "--kind", kind, "--port", port)
    assert line.startswith(f"broker: can't listen on 127.0.0.1:{port} (")
    assert "choose another with --port" in line


async def test_an_address_that_is_not_the_machines(certs: CertFactory, tmp_path: Path) -> None:
    """One line as well. The address is one for documentation (RFC 5737)."""
    line = await _refusal(certs.directory, tmp_path, "--host", "192.0.2.1", "--port", "0")
    assert "can't listen on 192.0.2.1:0 (192.0.2.1 is no address of this machine)" in line


async def test_localhost_is_listened_on(certs: CertFactory, tmp_path: Path) -> None:
    """By name, whichever of its addresses there are."""
    async with started(certs.directory, tmp_path, "--host", "localhost", "--port", "0") as process:
        assert process.stdout is not None
        async with patience(15):
            port = int((await process.stdout.readline()).rpartition(b":")[2])
        client = Wire("localhost", port, certs.client_context("host-a", Class.DEVICE))
        assert await client.connect("host-a") == 0
        await client.abort()


@pytest.mark.parametrize("kind", KINDS)
async def test_missing_secrets(tmp_path: Path, kind: str) -> None:
    """The file is named, and what makes it."""
    line = await _refusal(tmp_path, tmp_path, "--kind", kind, "--port", "0")
    assert "is missing: make the secrets first (python -m inventory bootstrap)" in line


async def test_a_key_that_does_not_fit(certs: CertFactory, tmp_path: Path) -> None:
    """A certificate and a key that don't belong together are said to be unusable."""
    secrets = Path(shutil.copytree(certs.directory, tmp_path / "secrets"))
    shutil.copy(secrets / "ca.key", secrets / "broker.key")
    assert "can't be used" in await _refusal(secrets, tmp_path, "--port", "0")

"""`python -m web` as a supervisor and the outside world meet it: start, TLS, enrollment, a database that goes and comes, the end."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleetward import launch, postgres
from inventory import parts
from inventory.authority import Authority
from inventory.changes import Relay
from inventory.db import Database, migrate
from tests.waiting import Stopwatch, patience
from tests.web.site_under_test import PASSWORD, people, until
from tests.web.web_process import process
from web import serving
from web.__main__ import Misconfigured, options_from, settings_from


async def test_a_loop_that_fails_is_begun_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it, so nobody else would notice; the log says why."""
    monkeypatch.setattr(parts, "BROKEN_S", 0.0)
    begun, runs_on = [], asyncio.Event()

    async def run() -> None:
        begun.append(True)
        if len(begun) == 1:
            raise RuntimeError("deadlock detected")
        runs_on.set()
        await asyncio.Event().wait()

    keeping = asyncio.create_task(parts.keep("tidy", run))
    try:
        async with patience(30):
            await runs_on.wait()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert "deadlock detected" in caplog.text and keeping.cancelled()


def test_it_serves_and_ends_quickly_with_streams_open(web_url: str) -> None:
    """SIGTERM ends it within 5 s and with 0, though somebody is watching and somebody holds a connection."""
    headers = {"Authorization": "Bearer admin"}
    with process(web_url) as (url, child), httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
        assert client.get("/livez").text == "ok\n"
        with client.stream("GET", "/api/v1/events/stream") as answer:
            lines = answer.iter_lines()
            next(lines)
            watch = Stopwatch()
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(httpx.HTTPError):
                list(lines)
        assert child.wait(60) == 0
        assert watch.seconds() < 5


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ((), {}, "FLEETWARD_DATABASE"),
        ((), {"FLEETWARD_DATABASE": "mysql://x"}, "postgresql://"),
        (("--host", "0.0.0.0"), {"FLEETWARD_DATABASE": "postgresql:///x"}, "--tls"),
        (("--host", "::"), {"FLEETWARD_DATABASE": "postgresql:///x"}, "--tls"),
        ((), {"FLEETWARD_DATABASE": "postgresql:///x", "FLEETWARD_MQTT_ADVERTISE": "nowhere"}, "HOST:PORT"),
        ((), {"FLEETWARD_DATABASE": "postgresql:///x", "FLEETWARD_MQTT_ADVERTISE": "host:99999"}, "HOST:PORT"),
    ],
)
def test_settings_that_can_not_be_say_what_to_do(arguments: tuple[str, ...], environment: dict[str, str], words: str) -> None:
    """Each is refused before anything is opened."""
    with pytest.raises(Misconfigured, match=words):
        settings_from(options_from(arguments), environment)


def test_a_start_that_can_not_be_says_in_a_line_why() -> None:
    """A port in use: exit code 2, and one line on standard error that names it, before anything else is looked at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = os.environ | {"FLEETWARD_DATABASE": "postgresql:///x"}
        command = [sys.executable, "-m", "web", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "in use" in ended.stderr


def _request_for_a_certificate(key: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anything")])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def test_over_https_a_device_enrolls_and_cookies_are_bound_to_the_host(web_url: str, tmp_path: Path) -> None:
    """The whole of enrollment with a real CA; a lost answer is repeated; the session cookie has the `__Host-` prefix."""
    secrets = tmp_path / "secrets"
    Authority(secrets).bootstrap(("fleet.example",))
    trust = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
    names = {"FLEETWARD_SECRETS": str(secrets), "FLEETWARD_MQTT_ADVERTISE": "[::1]:1883"}
    with (
        process(web_url, "--tls", environment=names) as (url, _),
        httpx.Client(base_url=url, verify=trust, trust_env=False, timeout=60) as client,
    ):
        assert url.startswith("https://")
        bearer = {"Authorization": "Bearer admin"}
        made = client.post("/api/v1/enrollment-tokens", json={"name": "line-4", "approve": True}, headers=bearer).json()
        csr = _request_for_a_certificate(ec.generate_private_key(ec.SECP256R1()))
        asked = {"token": made["token"], "csr": csr, "evidence": {"hostname": "press-4"}, "agent_version": "1"}
        answer = client.post("/api/v1/enroll", json=asked)
        assert answer.status_code == 200, answer.text
        identity = answer.json()
        assert identity["broker"] == {"host": "::1", "port": 1883}
        certificate = x509.load_pem_x509_certificate(identity["certificate"].encode())
        assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == identity["device"]
        assert client.post("/api/v1/enroll", json=asked).json() == identity
        other = _request_for_a_certificate(ec.generate_private_key(ec.SECP256R1()))
        assert client.post("/api/v1/enroll", json=asked | {"csr": other}).status_code == 403
        host = client.get(f"/api/v1/hosts/{identity['device']}", headers=bearer).json()
        assert (host["name"], host["desired_state"]) == ("press-4", "onboarded")
        cookie = client.post("/login", json={"username": "admin", "password": PASSWORD}).headers["Set-Cookie"]
        assert cookie.startswith("__Host-fleetward-session=")
        assert "secure" in cookie.lower()


def test_over_https_it_ends_quickly_though_a_client_says_no_goodbye(web_url: str, tmp_path: Path) -> None:
    """TLS ends by both sides' word; whoever holds a connection and reads nothing does not hold the process."""
    secrets = tmp_path / "secrets"
    Authority(secrets).bootstrap(("fleet.example",))
    trust = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
    with process(web_url, "--tls", environment={"FLEETWARD_SECRETS": str(secrets)}, stderr=tmp_path / "web.log") as (url, child):
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as plain, trust.wrap_socket(plain, server_hostname="127.0.0.1") as held:
            held.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert held.recv(100).startswith(b"HTTP/1.1 200")
            watch = Stopwatch()
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) == 0
            assert watch.seconds() < serving.LONGEST_END_S
    assert "Traceback" not in (tmp_path / "web.log").read_text()


class Postgres:
    """A server of this test's own, that may be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.cluster = postgres.prepare(home / "postgres", postgres.throwaway())
        self._log = (home / "postgres.log").open("wb")
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._begin()
        until(self._ready, 60)

    def _begin(self) -> None:
        self.cluster.clear_stale()
        command = launch.through(self.cluster.command(), user=self.cluster.owner.user, death=signal.SIGQUIT)
        self._server = subprocess.Popen(command, cwd="/", stdout=self._log, stderr=self._log, start_new_session=True)

    def _ready(self) -> bool:
        """One that ends again, as what the one before has left is still in its way, is begun again, as `up` does it."""
        if self._server is None or self._server.poll() is not None:
            print(Path(self._log.name).read_text()[-2000:])
            self._begin()
        return self.cluster.ready()

    def stop(self) -> None:
        """At once, as a crash does: connections are cut, the next start recovers."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(60)
            self._server = None


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    home = tmp_path_factory.mktemp("pg")
    for directory in (home, home.parent, home.parent.parent):
        directory.chmod(0o711)
    found = Postgres(home)
    found.start()
    found.cluster.ensure_database()
    try:
        yield found
    finally:
        found.stop()


def _collect(url: str, seen: list[dict[str, Any]], begun: threading.Event, ended: threading.Event) -> None:
    """Read the stream as a browser does: come back with the last id when it ends. begun: from here on all is seen."""
    last: dict[str, str] = {}
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer admin"}, trust_env=False, timeout=5) as client:
        while not ended.is_set():
            with contextlib.suppress(httpx.HTTPError), client.stream("GET", "/api/v1/events/stream", headers=last) as answer:
                for line in answer.iter_lines() if answer.status_code == 200 else ():
                    if line.startswith("id: "):
                        last = {"Last-Event-ID": line[4:]}
                        begun.set()
                    if line.startswith("data: "):
                        seen.append(json.loads(line[6:]))
            ended.wait(0.1)


async def test_a_database_that_goes_is_503_and_when_it_is_back_everything_goes_on(own_postgres: Postgres) -> None:
    """While it is away: 503 with Retry-After, problem documents, live but not ready. Then: reads, writes, and the stream without a hole."""
    database = own_postgres.cluster.url()
    await migrate(database)
    await people(database)
    db = await Database.open(database, application="test-relay", pool_size=2)
    relay = asyncio.create_task(Relay(db).run())
    seen: list[dict[str, Any]] = []
    begun, ended = threading.Event(), threading.Event()
    try:
        with process(database) as (url, _):
            reader = threading.Thread(target=_collect, args=(url, seen, begun, ended))
            reader.start()
            await asyncio.to_thread(until, begun.is_set, 20)
            async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer admin"}, trust_env=False, timeout=20) as client:
                await _goes_and_comes(client, own_postgres, seen)
            ended.set()
        reader.join(20)
    finally:
        ended.set()
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        await db.close()


async def _goes_and_comes(client: httpx.AsyncClient, server: Postgres, seen: list[dict[str, Any]]) -> None:
    def names() -> list[str]:
        return [event["resource"]["name"] for event in seen]

    async def wait_for(wanted: list[str]) -> None:
        async with patience(20):
            while names() != wanted:
                await asyncio.sleep(0.02)

    async def status(path: str) -> int:
        return (await client.get(path)).status_code

    async with patience(20):
        while await status("/readyz") != 200:
            await asyncio.sleep(0.05)
    first = await client.post("/api/v1/regions", json={"name": "before"})
    assert first.status_code == 201
    await wait_for(["before"])
    await asyncio.to_thread(server.stop)
    for method, path, body in (
        ("GET", "/api/v1/regions", None),
        ("POST", "/api/v1/regions", {"name": "during"}),
        ("GET", "/api/v1/events", None),
    ):
        refused = await client.request(method, path, json=body)
        assert refused.status_code == 503, refused.text
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert int(refused.headers["Retry-After"]) >= 1
    assert (await status("/livez"), await status("/readyz"), await status("/metrics")) == (200, 503, 200)
    await asyncio.to_thread(server.start)
    async with patience(20):
        while await status("/readyz") != 200:
            await asyncio.sleep(0.05)
    assert (await client.post("/api/v1/regions", json={"name": "after"})).status_code == 201
    listed = (await client.get("/api/v1/regions")).json()["items"]
    assert sorted(item["name"] for item in listed) == ["after", "before"]
    await wait_for(["before", "after"])

"""Real agents with a real broker, Inventory and web: renewal, sleep past the end, rotation, cloned disks. Instead of waiting, certificates
are made older: dated by a clock of the past, on the device and in the database alike."""

import asyncio
import hashlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from broker.mosquitto import find_mosquitto
from edge_agent import certificates, identity
from fleetward import launch
from inventory import rotation
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.certificates import fingerprint
from inventory.db import Database
from inventory.listing import ListQuery
from inventory.store import Store
from tests.inventory_wire.installation import ROOT, Installation, installation, until

MOSQUITTO = pytest.param("mosquitto", marks=pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto here"))


class Agent:
    """One with a state directory of its own, as a process."""

    def __init__(self, house: "House", state: Path) -> None:
        self.house, self.state = house, state
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def device(self) -> str:
        return identity.load(self.state).device

    @property
    def serial(self) -> str:
        return f"{x509.load_pem_x509_certificate((self.state / 'device.crt').read_bytes()).serial_number:x}"

    @property
    def log(self) -> str:
        return (self.state / "agent.log").read_text()

    def command(self, word: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "edge_agent", word, *more, "--state-dir", str(self.state)]

    def start(self, *prefix: str) -> None:
        with (self.state / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(launch.through([*prefix, *self.command("run")]), cwd=ROOT, stdout=log, stderr=log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    async def age(self, days: float) -> None:
        """Its certificate was issued so many days ago."""
        key_file = self.state / "device.key"
        key = certificates.read_key(key_file.read_bytes(), key_file)
        past = Authority(self.house.secrets, lambda: datetime.now(UTC) - timedelta(days=days))
        csr = certificates.request(key, (self.state / "device.crt").read_bytes(), key).csr
        issued = past.issue_device(csr, self.device)
        (self.state / "device.crt").write_text(issued.pem)
        await self.house.execute(
            "UPDATE device_identity SET fingerprint = $2, certificate = $3, certificate_serial = $4, expires_at = $5 WHERE host = $1",
            *(self.device, fingerprint(key.public_key()), issued.pem, issued.serial, issued.expires_at),
        )

    async def host(self) -> dict[str, Any]:
        return await self.house.store.get("host", self.device)

    async def online(self) -> bool:
        return bool((await self.host())["presence"] == "online")

    async def lasts(self, days: float) -> bool:
        """Whether the server says that its certificate is good for so long, and it is the one on the device."""
        async with self.house.db.acquire() as connection:
            row = await connection.fetchrow("SELECT certificate_serial, expires_at FROM device_identity WHERE host = $1", self.device)
        assert row is not None
        left = row["expires_at"] - datetime.now(UTC)
        return bool(left > timedelta(days=days) and row["certificate_serial"] == self.serial)


class House:
    """Broker, Inventory and web, and agents that have enrolled."""

    def __init__(self, made: Installation, db: Database) -> None:
        self.made, self.db, self.store = made, db, Store(db)
        self.authority = Authority(made.secrets)
        self.agents: list[Agent] = []

    @property
    def secrets(self) -> Path:
        return self.made.secrets

    async def enroll(self) -> Agent:
        secret = f"token-{len(self.agents)}"
        extra = {"token_hash": hashlib.sha256(secret.encode()).hexdigest()}
        await self.store.create("enrollment-token", {"approve": True}, Actor.user("admin", "admin"), extra=extra)
        agent = Agent(self, self.made.directory / f"agent-{len(self.agents)}")
        agent.state.mkdir()
        (agent.state / "agent.toml").write_text("drift_interval_s = 60\n")
        url = self.made.said["web"].split()[-1]
        words = ("--server", url, "--token", secret, "--broker", f"127.0.0.1:{self.made.port}")
        done = await asyncio.to_thread(subprocess.run, agent.command("enroll", *words), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.agents.append(agent)
        return agent

    async def execute(self, sql: str, *params: Any) -> None:
        async with self.db.acquire() as connection:
            await connection.execute(sql, *params)

    async def keys(self, agent: Agent) -> int | None:
        async with self.db.acquire() as connection:
            found: int | None = await connection.fetchval("SELECT keys FROM device_trust WHERE host = $1", agent.device)
            return found

    async def told(self, type: str) -> bool:
        return any(note["type"] == type for note in (await self.store.list("notification", ListQuery())).items)


@pytest.fixture
async def house(request: pytest.FixtureRequest, inventory_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    if request.param == "embedded":
        monkeypatch.setattr("tests.inventory_wire.installation.find_mosquitto", lambda: None)
    async with installation(inventory_url) as made:
        for name in ("broker", "inventory", "web"):
            await made.start(name)
        db = await Database.open(inventory_url, application="tests", pool_size=4)
        found = House(made, db)
        try:
            yield found
        finally:
            for agent in found.agents:
                agent.stop()
            await db.close()


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
async def test_an_agent_renews_sleeps_past_its_end_and_oversleeps(house: House) -> None:
    """On the 25th day over its connection, with another key; after 40 days over HTTP; after 70 it says that it needs a new token, and gets
    in with one."""
    agent = await house.enroll()
    await agent.age(25)
    before = ((agent.state / "device.key").read_bytes(), agent.serial)
    agent.start()
    await until(lambda: agent.lasts(29), "the renewal")
    assert (agent.state / "device.key").read_bytes() != before[0] and agent.serial != before[1]
    await until(agent.online, "online")
    assert agent.log.count("disconnected") == 0, "over the connection that there was"
    agent.stop()

    await agent.age(40)
    agent.start()
    await until(lambda: agent.lasts(29), "the way back in")
    await until(agent.online, "online again")
    assert "the broker does not let this device in" in agent.log
    assert await house.told("CertificateRenewedLate")
    agent.stop()

    await agent.age(70)
    agent.start()
    await until(lambda: "the server denies another certificate" in agent.log, "the denial")
    assert "enroll it anew with a new token" in agent.log and await house.told("CertificateLapsed")
    agent.stop()
    doctor = await asyncio.to_thread(subprocess.run, agent.command("doctor"), cwd=ROOT, capture_output=True, text=True)
    assert doctor.returncode == 1 and "the certificate ended on" in doctor.stdout and "fleetward-agent enroll" in doctor.stdout
    device = agent.device
    await _enroll_again(house, agent)
    agent.start()
    await until(lambda: agent.lasts(29), "a certificate by the token")
    assert agent.device == device


async def _enroll_again(house: House, agent: Agent) -> None:
    extra = {"token_hash": hashlib.sha256(b"token-again").hexdigest()}
    await house.store.create("enrollment-token", {"approve": True}, Actor.user("admin", "admin"), extra=extra)
    words = ("--server", house.made.said["web"].split()[-1], "--token", "token-again", "--broker", f"127.0.0.1:{house.made.port}")
    done = await asyncio.to_thread(subprocess.run, agent.command("enroll", *words), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("house", [MOSQUITTO], indirect=True)
async def test_everybody_follows_a_rotation(house: House) -> None:
    """Broker, Inventory and a connected agent, without a restart of ours or a token; one that slept through all of it comes back too."""
    agent, sleeper = await house.enroll(), await house.enroll()
    for each in (agent, sleeper):
        each.start()
    for each in (agent, sleeper):
        await until(each.online, "online")
    sleeper.stop()
    old = house.authority.ca_fingerprint

    await asyncio.to_thread(rotation.begin, house.authority)
    await until(lambda: _is(house.keys(agent), 2), "the new keys are trusted")
    serial = agent.serial
    await asyncio.to_thread(rotation.advance, house.authority)
    await until(lambda: agent.serial != serial, "a certificate of the new CA")
    await asyncio.to_thread(rotation.advance, house.authority)
    await until(lambda: _is(house.keys(agent), 4), "the old ones are dropped")
    assert old not in (agent.state / "ca.crt").read_text() and house.authority.ca_fingerprint != old
    assert (agent.state / "ca.crt").read_text() == house.authority.ca_pem

    agent.stop()
    await until(lambda: _is(_presence(agent), "offline"), "offline")
    for each in (agent, sleeper):
        each.start()
    for each in (agent, sleeper):
        await until(each.online, f"online after the rotation: {each.log[-2000:]}")
    assert (sleeper.state / "ca.crt").read_text() == house.authority.ca_pem
    assert "the delegation" not in agent.log + sleeper.log, "nobody was told anything that it could not believe"


async def _presence(agent: Agent) -> str:
    return str((await agent.host())["presence"])


async def _is(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)


@pytest.mark.parametrize("house", [MOSQUITTO], indirect=True)
async def test_a_cloned_disk_is_noticed(house: House) -> None:
    """Two machines with one state directory take turns on the broker: people are told what it is."""
    agent = await house.enroll()
    copy = Agent(house, house.made.directory / "copy")
    shutil.copytree(agent.state, copy.state)
    house.agents.append(copy)
    agent.start()
    await until(agent.online, "online")
    boot = house.made.directory / "boot_id"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    copy.start("unshare", "--mount", "sh", "-c", f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"', "sh")
    await until(lambda: house.told("IdentityShared"), "the notification", 60)

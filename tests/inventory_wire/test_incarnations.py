"""A machine that enrolls anew is another incarnation: nothing of the one before is good for anything, however often that happens."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.messages import Facts
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.certificates import as_issued
from inventory.db import SQL, Connection, Database
from inventory.enrollment import Admitted, redeem
from inventory.inbound import Opener
from inventory.ingest import Ingest
from inventory.signing import CommandSigner
from inventory.store import Store
from tests.inventory_wire.device import TOPICS, Device, Sent, make_device
from tests.inventory_wire.installation import new_key, request, until

ADMIN = Actor.user("admin", "admin")
MACHINES = 20
ROUNDS = 50
"""Of each machine: a thousand together."""
SAMPLE = 10
"""Rounds of them in `make test`."""
DELETED_EVERY = 10


@dataclass
class Machine:
    """One machine with one key, through its incarnations."""

    csr: str
    device: Device = field(default_factory=lambda: Device("host-none", b"0" * 32))
    serials: list[str] = field(default_factory=list)
    version: int = 0

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> "Machine":
        return cls(request(key))


class Place:
    """Where they enroll, by two tokens in turns, and report."""

    def __init__(self, db: Database, store: Store, authority: Authority) -> None:
        self.db, self.store, self.authority = db, store, authority
        self.sent = Sent()
        self.mono = 0.0
        signer = CommandSigner(authority.directory)
        self.ingest = Ingest(db, TOPICS, authority, signer, self.sent, mono=lambda: self.mono)

    async def token(self, secret: str, rounds: int) -> None:
        extra = {"token_hash": hashlib.sha256(secret.encode()).hexdigest()}
        await self.store.create("enrollment-token", {"uses": MACHINES * rounds, "approve": True}, ADMIN, extra=extra)

    async def enroll(self, machine: Machine, number: int) -> Device:
        """Its next incarnation, which begins with an empty journal."""
        asked = {"token": f"t-{number % 2}", "csr": machine.csr, "evidence": {}, "agent_version": "0.1.0"}
        outcome = await redeem(self.db, self.store, self.authority, asked, broker=("localhost", 8883))
        assert isinstance(outcome, Admitted)
        answer = outcome.answer
        machine.serials.append(as_issued(answer["certificate"]).serial)
        return Device(answer["device"], bytes.fromhex(answer["channel_key"]), epoch=f"e{number}", session=f"s{number}")

    async def hear(self, before: list[Device], now: list[Device]) -> None:
        """The incarnations before speak on, before and after those of now."""
        self.sent.messages.clear()
        self.mono += 10.0
        old = [device.inbound(device.facts(os={"kernel": "of the one before"})) for device in before]
        new = [message for device in now for message in (device.inbound(device.presence()), device.inbound(_kernel(device)))]
        late = [device.inbound(device.facts(os={"kernel": "of the one before, late"})) for device in before]
        await self.ingest.process(await self.ingest.open([*old, *new, *late]))


def _kernel(device: Device) -> Facts:
    return device.facts(os={"kernel": device.epoch})


@pytest.mark.sampled
async def test_a_thousand_incarnations(db: Database, store: Store, authority: Authority, now: datetime, full: bool) -> None:
    """In each round every machine enrolls anew, sometimes after its host was deleted: only what the newest incarnation says is taken and
    acknowledged, only its certificate is good, and versions never fall."""
    place, rounds = Place(db, store, authority), ROUNDS if full else SAMPLE
    machines = [Machine.of(new_key()) for _ in range(MACHINES)]
    for secret in ("t-0", "t-1"):
        await place.token(secret, rounds)
    for number in range(rounds):
        before = [machine.device for machine in machines if number]
        if number % DELETED_EVERY == DELETED_EVERY - 1:
            for machine in machines[::2]:
                await store.delete("host", machine.device.id, ADMIN, force=True)
        devices = await asyncio.gather(*(place.enroll(machine, number) for machine in machines))
        await place.hear(before, devices)
        hosts = await store.read_many("host", [device.id for device in devices])
        for machine, device in zip(machines, devices, strict=True):
            host = hosts[device.id]
            assert host["version"] > machine.version
            machine.device, machine.version = device, host["version"]
            assert place.sent.acks(device) == [(device.epoch, 1)]
        assert {(await store.get("host", device.id))["kernel"] for device in devices} == {f"e{number}"}
        assert len(place.sent.messages) == 2 * MACHINES, "an acknowledgement and a checkpoint each, and nothing to anybody else"
    async with db.acquire() as connection:
        revoked = {row["serial"] for row in await connection.fetch(SQL["revoked_certificates"], now)}
    assert revoked == {serial for machine in machines for serial in machine.serials[:-1]}
    assert sum(len(machine.serials) for machine in machines) == MACHINES * rounds
    assert MACHINES * ROUNDS == 1000
    # Of a host that is gone the key is remembered for a while, but there is no stream any more that its word could be added to.
    assert place.ingest.refused.bad_mac + place.ingest.counts.ignored == 2 * MACHINES * (rounds - 1)


class Slow:
    """A database that may be asked, and whose answers wait until they are let through."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.asked, self.through = 0, asyncio.Event()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        async with self._db.acquire() as connection:
            yield connection
        self.asked += 1
        await self.through.wait()


async def test_whoever_is_looked_up_anew_is_known_meanwhile(db: Database, store: Store, authority: Authority) -> None:
    """The next batch is being opened just then: its messages of that device, such as its first presence, are not an unknown device's."""
    slow, known = Slow(db), await make_device(db, store, authority)
    slow.through.set()
    opener = Opener(cast(Database, slow), authority)
    assert len(await opener.open([known.inbound(known.presence())])) == 1
    slow.through.clear()
    message, stranger = known.inbound(known.presence()), Device("host-none", b"0" * 32)
    opening = asyncio.create_task(opener.open([stranger.inbound(stranger.presence()), message]))
    await until(lambda: slow.asked == 2, "the next batch")
    anew = asyncio.create_task(opener.load_anew([known.id]))
    await until(lambda: slow.asked == 3, "the look-up")
    slow.through.set()
    assert await opening == [message]
    await anew

"""What is taken back, and how brokers are told: on a real database, without a broker."""

import asyncio
import hashlib
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from broker.revocations import Follower, RevocationList
from broker.topics import IntentTopic
from inventory import integrations, revocation
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.certificates import Issued, as_issued
from inventory.db import SQL, Database
from inventory.enrollment import Admitted, redeem
from inventory.errors import Conflict, NotFound
from inventory.ingest import Ingest
from inventory.intents import Intents
from inventory.presence import sweep
from inventory.publisher import Undelivered
from inventory.revocation_list import AGAIN_S, Teller
from inventory.signing import CommandSigner
from inventory.store import Store
from tests.inventory_wire.device import TOPICS, Device, Sent
from tests.inventory_wire.installation import new_key, request, until

ADMIN = Actor.user("admin", "admin")
BROKER = ("fleet.example", 8883)


class Trust:
    """An installation that enrolls devices and integrations, and a broker that follows its list."""

    def __init__(self, db: Database, store: Store, authority: Authority, now: datetime, file: Path) -> None:
        self.db, self.store, self.authority, self.now = db, store, authority, now
        self.mono = 0.0
        self.connections = 1
        self.away = False
        self.told: list[RevocationList] = []
        self.crls: list[x509.CertificateRevocationList] = []
        self.follower = Follower(file, lambda new, _: self.told.append(new))
        self.published = 0
        self.teller = Teller(db, authority, self._publish, lambda: self.connections, lambda: self.now, lambda: self.mono)

    async def _publish(self, payload: bytes) -> None:
        if self.away:
            raise Undelivered("away")
        self.published += 1
        self.follower.take(payload)

    async def enroll(self, key: ec.EllipticCurvePrivateKey, secret: str = "t") -> tuple[str, Issued, Device]:
        """A device by a token of its own: its host, its certificate, and itself on the wire."""
        extra = {"token_hash": hashlib.sha256(secret.encode()).hexdigest()}
        await self.store.create("enrollment-token", {"approve": True}, ADMIN, extra=extra)
        asked = {"token": secret, "csr": request(key), "evidence": {}, "agent_version": "0.1.0"}
        outcome = await redeem(self.db, self.store, self.authority, asked, broker=BROKER)
        assert isinstance(outcome, Admitted)
        answer = outcome.answer
        device = Device(answer["device"], bytes.fromhex(answer["channel_key"]))
        return answer["device"], as_issued(answer["certificate"]), device

    async def revoked(self) -> dict[str, str]:
        """What the broker has been told by now: serial numbers, with whose they are. List and CRL say the same."""
        await self.teller.look()
        known = self.follower.known
        crl = x509.load_pem_x509_crl(known.crl.encode())
        ca = x509.load_pem_x509_certificate(self.authority.ca_pem.encode())
        assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
        assert {f"{entry.serial_number:x}" for entry in crl} == known.serials
        self.crls.append(crl)
        return {one.serial: one.name for one in known.revoked}

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        async with self.db.acquire() as connection:
            return list(await connection.fetch(sql, *values))


@pytest.fixture
def trust(db: Database, store: Store, authority: Authority, now: datetime, tmp_path: Path) -> Trust:
    return Trust(db, store, authority, now, tmp_path / "revoked.json")


async def test_a_host_s_state_takes_its_certificate_back(trust: Trust) -> None:
    """Untrusted: on the list; trusted again: off it; deleted, first wanted and then gone: on it until it ends."""
    host, issued, _ = await trust.enroll(new_key())
    assert await trust.revoked() == {}
    await trust.store.patch("host", host, {"desired_state": "untrusted"}, ADMIN)
    assert await trust.revoked() == {issued.serial: host}
    await trust.store.patch("host", host, {"desired_state": "onboarded"}, ADMIN)
    assert await trust.revoked() == {}
    await trust.store.delete("host", host, ADMIN)
    assert await trust.revoked() == {issued.serial: host}
    await trust.store.remove("host", host, Actor.manager("host"))
    assert await trust.revoked() == {issued.serial: host}
    trust.now = issued.expires_at + timedelta(seconds=1)
    assert await trust.revoked() == {}


async def test_a_forced_delete_takes_it_back_in_the_same_commit(trust: Trust) -> None:
    """No manager has to run, nor anything else."""
    host, issued, _ = await trust.enroll(new_key())
    await trust.store.delete("host", host, ADMIN, force=True)
    assert await trust.revoked() == {issued.serial: host}


async def test_each_list_is_newer_than_the_one_before(trust: Trust) -> None:
    """By number, and to the second, by which OpenSSL tells CRLs apart; also within one second, and after the clock was set back."""
    host, _, _ = await trust.enroll(new_key())
    for state in ("untrusted", "onboarded") * 3:
        await trust.store.patch("host", host, {"desired_state": state}, ADMIN)
        await trust.revoked()
    await trust.fetch("UPDATE cursors SET position = position + 3600 WHERE name = 'revocation'")
    await trust.store.patch("host", host, {"desired_state": "untrusted"}, ADMIN)
    await trust.revoked()
    times = [crl.last_update_utc for crl in trust.crls]
    assert times == sorted(set(times)) and len(times) == 7
    assert [told.number for told in trust.told] == sorted({told.number for told in trust.told})
    first = x509.load_pem_x509_crl((trust.authority.directory / "ca.crl").read_bytes())
    assert first.last_update_utc < times[0], "the one that a broker starts with counts for less"


async def test_when_it_is_told(trust: Trust) -> None:
    """On a difference, a new connection, a question, and after a minute; not otherwise. A broker that is away hears it later."""
    await trust.teller.look()
    await trust.teller.look()
    assert trust.published == 1
    trust.connections += 1
    await trust.teller.look()
    assert trust.published == 2
    trust.teller.ask()
    await trust.teller.look()
    assert trust.published == 3
    trust.mono += AGAIN_S
    await trust.teller.look()
    await trust.teller.look()
    assert trust.published == 4
    host, issued, _ = await trust.enroll(new_key())
    await trust.store.patch("host", host, {"desired_state": "untrusted"}, ADMIN)
    trust.away = True
    await trust.teller.look()
    trust.away = False
    assert await trust.revoked() == {issued.serial: host}


async def test_who_asks_amid_a_list_is_told_all_of_it(trust: Trust, db: Database) -> None:
    """It may have missed the parts before its question, so the whole list is told once more; and no more often."""
    published: list[bytes] = []

    async def publish(payload: bytes) -> None:
        published.append(payload)
        if len(published) == 1:
            teller.ask()

    teller = Teller(db, trust.authority, publish, lambda: 1, lambda: trust.now, lambda: trust.mono)
    for _ in range(3):
        await teller.look()
    assert len(published) == 2


async def test_without_the_ca_s_key_the_list_has_no_crl(trust: Trust, db: Database, tmp_path: Path) -> None:
    """As in a secrets directory that an earlier release has made: the list is told all the same."""
    told: list[bytes] = []

    async def publish(payload: bytes) -> None:
        told.append(payload)

    (tmp_path / "ca.crt").write_text(trust.authority.ca_pem)
    await Teller(db, Authority(tmp_path), publish, lambda: 1, lambda: trust.now).look()
    trust.follower.take(told[0])
    assert trust.told[-1].crl == ""


async def test_a_device_s_certificate_is_revoked_by_a_person(trust: Trust) -> None:
    """By serial, or by the host's id or name: its key gets no other, and its host waits for a device anew."""
    for by in ("serial", "id", "name"):
        id, issued, _ = await trust.enroll(new_key(), f"t-{by}")
        known = await trust.store.get("host", id) | {"serial": issued.serial}
        [shown] = await revocation.revoke(trust.db, known[by], trust.now)
        assert (shown["serial"], shown["why"], shown["host"]) == (issued.serial, "revoked", id)
        assert (await trust.revoked())[issued.serial] == id
        assert await trust.fetch("SELECT 1 FROM device_identity WHERE host = $1 AND revoked_at IS NOT NULL", id)
        assert await trust.fetch("SELECT 1 FROM work WHERE manager = 'host' AND key = $1 AND due_at <= clock_timestamp()", id)


async def test_a_certificate_that_is_being_renewed_is_taken_back_with_the_other(trust: Trust) -> None:
    """By the host's name, all that it has: it does not get away with the one that it is given at that moment."""
    host, issued, _ = await trust.enroll(new_key())
    renewed = trust.authority.issue_device(request(new_key()), host)

    async def is_waited_for() -> bool:
        sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await trust.fetch(sql))

    async with trust.db.transaction() as tx:
        await tx.raw.fetchrow(SQL["lock_identity"], host)
        revoking = asyncio.create_task(revocation.revoke(trust.db, host, trust.now))
        await until(is_waited_for, "the revocation")
        await tx.raw.execute(SQL["exchange_certificate"], host, "print", renewed.pem, renewed.serial, renewed.expires_at)
    assert {row["serial"] for row in await revoking} == {issued.serial, renewed.serial}
    assert await trust.revoked() == dict.fromkeys((issued.serial, renewed.serial), host)
    assert await trust.fetch("SELECT 1 FROM device_identity WHERE host = $1 AND revoked_at IS NOT NULL", host)


async def test_a_name_of_several_is_not_guessed(trust: Trust, tmp_path: Path) -> None:
    """An integration named as a host: 409 that says so, and nothing is revoked. An integration's certificate goes with it alone."""
    host, _, _ = await trust.enroll(new_key())
    await trust.store.patch("host", host, {"name": "erp"}, ADMIN)
    made = await integration(trust, "erp")
    with pytest.raises(Conflict, match=r"device .*, integration erp"):
        await revocation.revoke(trust.db, "erp", trust.now)
    with pytest.raises(Conflict, match="delete the integration"):
        await revocation.revoke(trust.db, made.serial, trust.now)
    with pytest.raises(NotFound):
        await revocation.revoke(trust.db, "nobody", trust.now)
    assert await trust.revoked() == {}


async def integration(trust: Trust, name: str, key: ec.EllipticCurvePrivateKey | None = None) -> Issued:
    body = {"name": name, "write": "signed", "csr": request(key or new_key(), name)}
    made = await integrations.create(trust.db, trust.authority, body, broker=BROKER, now=trust.now)
    return as_issued(made["certificate"])


async def test_a_deleted_integration_is_out_and_its_name_free(trust: Trust) -> None:
    """Its certificate is on the list, what it asks is refused, Mosquitto's list of names lacks it; the next of that name is let in."""
    made = await integration(trust, "mes")
    listed = trust.authority.directory.parent / "broker" / "integrations.json"
    assert '"mes"' in listed.read_text()
    await integrations.delete(trust.db, trust.authority.directory, "mes", trust.now)
    assert await trust.revoked() == {made.serial: "mes"}
    assert '"mes"' not in listed.read_text()
    async with trust.db.acquire() as connection:
        assert await integrations.find(connection, "mes") is None
    with pytest.raises(NotFound):
        await integrations.delete(trust.db, trust.authority.directory, "mes", trust.now)
    again = await integration(trust, "mes")
    assert again.serial != made.serial and await trust.revoked() == {made.serial: "mes"}


async def test_an_integration_from_before_the_list_is_taken_back_too(trust: Trust) -> None:
    """One that was let in by a release that noted no certificates."""
    made = await integration(trust, "old")
    await trust.fetch("DELETE FROM certificate")
    await integrations.delete(trust.db, trust.authority.directory, "old", trust.now)
    assert await trust.revoked() == {made.serial: "old"}


async def test_a_service_gets_another_certificate_and_loses_the_one(trust: Trust, tmp_path: Path) -> None:
    """All that it had by its name, those in the secrets directory included; a new key keeps no old certificate."""
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    await revocation.note_services(trust.db, authority, trust.now)
    before = dict(authority.services_issued())["svc-web"]
    [shown] = await revocation.revoke(trust.db, "svc-web", trust.now)
    assert (shown["serial"], shown["unit"]) == (before.serial, "service")
    authority.equip("svc-web", anew=True)
    after = dict(authority.services_issued())["svc-web"]
    assert after.serial != before.serial
    await revocation.note_services(trust.db, authority, trust.now)
    assert set(await trust.revoked()) == {before.serial}
    rows = await revocation.listed(trust.db, trust.now, "", 100)
    assert {row["why"] for row in rows if row["name"] == "svc-web"} == {"revoked", None}


async def test_what_a_host_that_is_not_trusted_says_is_not_taken(trust: Trust) -> None:
    """Whatever the broker does: facts and heartbeats are dropped, nothing is acknowledged, and it is shown offline within a sweep."""
    sent = Sent()
    ingest = Ingest(trust.db, TOPICS, trust.authority, CommandSigner(trust.authority.directory), sent)
    host, _, device = await trust.enroll(new_key())
    take = partial(_take, ingest)
    await take(device.inbound(device.presence()), device.inbound(device.facts(os={"kernel": "1"})))
    assert (await trust.store.get("host", host))["presence"] == "online"
    await trust.store.patch("host", host, {"desired_state": "untrusted"}, ADMIN)
    await take(device.inbound(device.facts(os={"kernel": "2"})), device.inbound(device.heartbeat()))
    await ingest.flush()
    await sweep(trust.db, lambda: trust.now)
    shown = await trust.store.get("host", host)
    assert (shown["kernel"], shown["presence"]) == ("1", "offline")
    assert sent.acks(device) == [("e1", 1)]
    await trust.store.patch("host", host, {"desired_state": "onboarded"}, ADMIN)
    device.seq = 1
    await take(device.inbound(device.presence(session="s2")), device.inbound(device.facts(os={"kernel": "3"})))
    shown = await trust.store.get("host", host)
    assert (shown["kernel"], shown["presence"]) == ("3", "online")


async def _take(ingest: Ingest, *messages: Any) -> None:
    await ingest.process(await ingest.open(messages))


async def test_intents_of_a_deleted_integration_are_refused(trust: Trust) -> None:
    """Also where a broker still brings them."""
    replies: list[bytes] = []

    async def publish(topic: str, payload: bytes) -> None:
        replies.append(payload)

    await integration(trust, "mes")
    await integrations.delete(trust.db, trust.authority.directory, "mes", trust.now)
    body = b'{"patch": {}, "correlation": "c-1", "not_after": "2099-01-01T00:00:00Z"}'
    await Intents(trust.store, TOPICS, publish).handle(IntentTopic("mes", "host", "x"), body)
    assert b'"status":403' in replies[0]


async def test_what_ended_long_ago_is_forgotten(trust: Trust) -> None:
    """Certificates are remembered for a while after their end, and then go."""
    await trust.enroll(new_key())
    assert await trust.fetch(SQL["forget_certificates"], trust.now, 100) == []
    await trust.fetch("UPDATE certificate SET expires_at = $1", trust.now - timedelta(seconds=1))
    assert len(await trust.fetch(SQL["forget_certificates"], trust.now, 100)) == 1

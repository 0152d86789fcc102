"""Renewal of devices' certificates: the decision, and what becomes of it in a real database, over ingest and over HTTP."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from broker.messages import CertificateAnswer, CertificateRequest, Denial, Keys, decode, encode, now_text
from broker.topics import Topics
from edge_agent import certificates as device_side
from inventory import endings, integrations, rotation, trusting
from inventory.authority import DEVICE_LIFETIME, Authority
from inventory.bulk import BulkWriter
from inventory.certificates import fingerprint, requested_key
from inventory.db import Database, loads
from inventory.errors import Forbidden, Invalid
from inventory.ingest import Ingest
from inventory.listing import ListQuery
from inventory.readmission import Readmission
from inventory.renewal import GRACE, Asked, Deny, Held, Issue, Renewals, Repeat, decide
from inventory.signing import CommandSigner
from inventory.store import Store
from tests.inventory_wire.device import TOPICS, Device, Sent, make_device

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
HELD = Held("print-1", "aa", None, (), NOW - timedelta(days=20), NOW + timedelta(days=10), current_ca=True, trusted=True)
ASKED = Asked("print-2", "aa", proven=True)
RENEWED = replace(HELD, fingerprint="print-2", serial="bb", replaces="aa", former=("print-1",), issued_at=NOW)


@pytest.mark.parametrize(
    ("held", "asked", "decision"),
    [
        (HELD, ASKED, Issue()),
        (HELD, replace(ASKED, fingerprint="print-1"), Issue()),
        (HELD, replace(ASKED, proven=False), Deny(Denial.INVALID)),
        (replace(HELD, trusted=False), ASKED, Deny(Denial.UNTRUSTED)),
        (replace(HELD, expires_at=NOW - timedelta(days=29)), ASKED, Issue(timedelta(days=29))),
        (replace(HELD, expires_at=NOW - GRACE), ASKED, Issue(GRACE)),
        (replace(HELD, expires_at=NOW - GRACE - timedelta(seconds=1)), ASKED, Deny(Denial.LAPSED)),
        (replace(HELD, issued_at=NOW - timedelta(days=14, hours=23)), ASKED, Deny(Denial.TOO_SOON)),
        (replace(HELD, issued_at=NOW, current_ca=False), ASKED, Issue()),
        (RENEWED, ASKED, Repeat()),
        (RENEWED, replace(ASKED, proven=False), Repeat()),
        (replace(RENEWED, current_ca=False), ASKED, Issue()),
        (replace(RENEWED, expires_at=NOW - timedelta(days=1), issued_at=NOW - timedelta(days=31)), ASKED, Issue(timedelta(days=1))),
        (RENEWED, replace(ASKED, fingerprint="print-x"), Deny(Denial.REPLACED, copied=True)),
        (RENEWED, replace(ASKED, fingerprint="print-1"), Deny(Denial.REPLACED)),
        (RENEWED, replace(ASKED, replaces="00"), Deny(Denial.REPLACED)),
        (RENEWED, replace(ASKED, replaces="00", fingerprint="print-x"), Deny(Denial.REPLACED, copied=True)),
    ],
    ids=[
        *("with another key", "with the same key", "without proof", "untrusted", "late", "at the last moment", "too late", "too soon"),
        *(
            "at once by another CA",
            "a lost answer",
            "a lost answer needs no proof",
            "a lost answer by the old CA",
            "a lost answer long ago",
        ),
        *("a copy", "a replay of the first key", "a replay of long ago", "a copy of long ago"),
    ],
)
def test_what_is_decided(held: Held, asked: Asked, decision: Issue | Repeat | Deny) -> None:
    """Each case once; only a key that nobody has seen, about a certificate that was replaced, is a copy."""
    assert decide(held, asked, NOW) == decision


class Machine:
    """A device with its key and certificate, as its state directory would have them."""

    def __init__(self, device: Device, key: ec.EllipticCurvePrivateKey, certificate: str) -> None:
        self.device, self.key, self.certificate = device, key, certificate
        self.next = device_side.new_key()

    @property
    def serial(self) -> str:
        return f"{x509.load_pem_x509_certificate(self.certificate.encode()).serial_number:x}"

    def request(self) -> CertificateRequest:
        return device_side.request(self.key, self.certificate.encode(), self.next)

    def install(self, answer: CertificateAnswer | None) -> None:
        assert answer is not None and answer.certificate is not None, answer
        self.key, self.certificate, self.next = self.next, answer.certificate, device_side.new_key()

    def copy(self) -> "Machine":
        return Machine(self.device, self.key, self.certificate)


class Ground:
    """An installation with one machine, and a clock that tests move. `sent`: what was said over MQTT."""

    def __init__(self, db: Database, store: Store, secrets: Path) -> None:
        self.now = NOW
        self.db, self.store = db, Store(db, lambda: self.now)
        self.authority = Authority(secrets, lambda: self.now)
        self.authority.bootstrap()
        self.renewals = Renewals(self.store, self.authority)
        self.sent = Sent()
        self.mono = 1000.0
        signer = CommandSigner(secrets)
        self.ingest = Ingest(db, TOPICS, self.authority, signer, self.sent, clock=lambda: self.now, mono=lambda: self.mono)
        self.machine: Machine

    async def enroll(self) -> Machine:
        """As enrollment leaves it, at this moment."""
        device = await make_device(self.db, self.store, self.authority)
        key = device_side.new_key()
        issued = self.authority.issue_device(device_side.request(key, self.authority.ca_pem.encode(), key).csr, device.id)
        await self.execute(
            "UPDATE device_identity SET fingerprint = $2, certificate = $3, certificate_serial = $4, expires_at = $5 WHERE host = $1",
            device.id,
            fingerprint(key.public_key()),
            issued.pem,
            issued.serial,
            issued.expires_at,
        )
        return Machine(device, key, issued.pem)

    async def answer(self, machine: Machine | None = None) -> CertificateAnswer:
        found = await self.renewals.answer((machine or self.machine).device.id, (machine or self.machine).request())
        assert found is not None
        return found

    async def over_mqtt(self, *, flushes: int = 1) -> list[CertificateAnswer]:
        device = self.machine.device
        await self.ingest.process(await self.ingest.open([device.inbound(self.machine.request(), at=self.mono)]))
        for _ in range(flushes):
            self.mono += 1
            await self.ingest.flush()
        return [m for m in self.sent.to(device) if isinstance(m, CertificateAnswer)]

    async def notes(self) -> list[tuple[str, str]]:
        return [(n["type"], n["severity"]) for n in (await self.store.list("notification", ListQuery(order_by="id"))).items]

    async def expires_at(self) -> datetime:
        host = await self.store.get("host", self.machine.device.id)
        return datetime.fromisoformat(host["certificate_expires_at"])

    async def audited(self) -> list[tuple[str, str, str, Any]]:
        """What stands in the change log for the audit alone."""
        async with self.db.acquire() as connection:
            rows = await connection.fetch(
                "SELECT kind, op, resource_id, resource::text FROM changes_in WHERE kind IN ('certificate', 'installation') ORDER BY id"
            )
        return [(row["kind"], row["op"], row["resource_id"], loads(row["resource"])) for row in rows]

    async def execute(self, sql: str, *params: Any) -> None:
        async with self.db.acquire() as connection:
            await connection.execute(sql, *params)


@pytest.fixture
async def ground(db: Database, store: Store, tmp_path: Path) -> AsyncIterator[Ground]:
    made = Ground(db, store, tmp_path / "secrets")
    made.machine = await made.enroll()
    yield made


async def test_a_device_lives_for_a_year_without_anybodys_help(ground: Ground) -> None:
    """Every twenty days another key and another certificate, by the same CA, for the same name; the host shows its end."""
    machine, keys = ground.machine, set()
    for _ in range(18):
        ground.now += timedelta(days=20)
        machine.install(await ground.answer())
        device_side.check(machine.certificate, machine.key, machine.device.id, ground.authority.ca_pem.encode())
        assert await ground.expires_at() == ground.now + DEVICE_LIFETIME
        keys.add(fingerprint(machine.key.public_key()))
    assert len(keys) == 18 and await ground.notes() == []


async def test_a_lost_answer_costs_nothing(ground: Ground) -> None:
    """The same request again: the same certificate, however often."""
    ground.now += timedelta(days=20)
    first = await ground.answer()
    assert [await ground.answer() for _ in range(3)] == [first] * 3


async def test_a_copy_of_the_disk_is_noticed_when_it_renews(ground: Ground) -> None:
    """Whoever comes second is denied, and people are told, once; the first one goes on."""
    copy = ground.machine.copy()
    ground.now += timedelta(days=20)
    ground.machine.install(await ground.answer())
    for _ in range(3):
        denied = await ground.answer(copy)
        assert (denied.certificate, denied.reason) == (None, Denial.REPLACED) and "enroll it anew" in denied.message
    assert await ground.notes() == [("IdentityShared", "error")]
    assert await ground.audited() == [("certificate", "refused", copy.device.id, {"denied": "Replaced"})]
    ground.now += timedelta(days=20)
    ground.machine.install(await ground.answer())


async def test_what_was_undone_was_not_told(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadlock undoes the notification with all else; it is written when the transaction goes again."""
    copy, transaction = ground.machine.copy(), ground.store.transaction
    undone: list[bool] = []

    @asynccontextmanager
    async def undone_once() -> AsyncIterator[BulkWriter]:
        async with transaction() as w:
            yield w
            if not undone:
                undone.append(True)
                raise asyncpg.DeadlockDetectedError("deadlock detected")

    ground.now += timedelta(days=20)
    ground.machine.install(await ground.answer())
    monkeypatch.setattr(ground.store, "transaction", undone_once)
    for _ in range(2):
        assert (await ground.answer(copy)).reason is Denial.REPLACED
    assert undone and await ground.notes() == [("IdentityShared", "error")]


async def test_a_replay_is_no_copy(ground: Ground) -> None:
    """A broker that keeps a request and brings it later gets nothing, and nobody is alarmed."""
    ground.now += timedelta(days=20)
    kept = ground.machine.request()
    ground.machine.install(await ground.answer())
    ground.now += timedelta(days=20)
    ground.machine.install(await ground.answer())
    found = await ground.renewals.answer(ground.machine.device.id, kept)
    assert found is not None and found.reason is Denial.REPLACED
    assert await ground.notes() == []


async def test_only_the_key_of_the_certificate_gets_another_one(ground: Ground) -> None:
    """Who has the channel key alone, or a stranger's proof, gets none; nor does a request that is none."""
    ground.now += timedelta(days=20)
    good, thief = ground.machine.request(), device_side.new_key()
    proof = base64.b64encode(thief.sign(good.csr.encode(), ec.ECDSA(hashes.SHA256()))).decode()
    for request in (replace(good, proof=proof), replace(good, proof="AAAA"), replace(good, csr="nonsense")):
        found = await ground.renewals.answer(ground.machine.device.id, request)
        assert found is not None and (found.certificate, found.reason) == (None, Denial.INVALID)
    assert await ground.renewals.answer("host-nobody", good) is None


async def test_one_that_slept_gets_back_within_the_grace_period(ground: Ground) -> None:
    """People are told that it had ended, and that it is back; later than that it needs a new token, and they are told so."""
    ground.now += timedelta(days=30 + 29)
    ground.machine.install(await ground.answer())
    assert await ground.expires_at() == ground.now + DEVICE_LIFETIME
    ground.now += timedelta(days=30 + 31)
    denied = await ground.answer()
    assert denied.reason is Denial.LAPSED and "new token" in denied.message
    assert await ground.notes() == [("CertificateRenewedLate", "info"), ("CertificateLapsed", "warning")]


@pytest.mark.parametrize("change", ["UPDATE host SET desired_state = 'untrusted'", "UPDATE device_identity SET revoked_at = now()"])
async def test_what_people_distrust_gets_none(ground: Ground, change: str) -> None:
    """A person's decision, or a revocation."""
    await ground.execute(change)
    ground.now += timedelta(days=20)
    assert (await ground.answer()).reason is Denial.UNTRUSTED


async def test_people_are_told_when_one_ends_while_its_device_is_away(ground: Ground) -> None:
    """Once, with the day until which it gets back in by itself; many at once in one message."""
    ground.now += timedelta(days=30, seconds=1)
    assert await endings.tell(ground.store, GRACE) == 1
    assert await endings.tell(ground.store, GRACE) == 0
    note = (await ground.store.list("notification", ListQuery())).items[0]
    assert note["type"] == "CertificateEnded" and note["host"] == ground.machine.device.id
    assert "2026-12-22" in note["message"] and "2027-01-21" in note["message"]
    for _ in range(endings.FEW + 1):
        await ground.enroll()
    ground.now += timedelta(days=30, seconds=1)
    assert await endings.tell(ground.store, GRACE) == endings.FEW + 1
    assert [type for type, _ in await ground.notes()] == ["CertificateEnded"] * 2


# --- over MQTT --------------------------------------------------------------------------------------------------------------------


async def test_it_is_answered_over_mqtt(ground: Ground) -> None:
    """With the device's MAC; asked twice before it was answered, once."""
    ground.now += timedelta(days=20)
    await ground.over_mqtt(flushes=0)
    [found] = await ground.over_mqtt()
    ground.machine.install(found)


async def test_a_broker_gets_no_certificate_for_a_key_of_its_own(ground: Ground) -> None:
    """It can't make the MAC: nothing is answered, and people are told."""
    ground.now += timedelta(days=20)
    device = ground.machine.device
    forged = encode(ground.machine.request(), sent_at=now_text(ground.now), topic=device.topic("up/csr"), key=b"x" * 32)
    await ground.ingest.process(await ground.ingest.open([device.raw("up/csr", forged, at=ground.mono)]))
    await ground.ingest.flush()
    assert ground.sent.messages == [] and ground.ingest.refused.bad_mac == 1
    assert await ground.notes() == [("MessageForged", "warning")]


async def test_a_device_that_is_behind_is_sent_the_keys(ground: Ground) -> None:
    """With its presence, before the checkpoint; one that is up to date, or knows no lists, is not."""
    device = ground.machine.device
    rotation.begin(ground.authority)
    for keys, expected in ((None, 0), (2, 0), (1, 1)):
        ground.sent.messages.clear()
        presence = replace(device.presence(session=f"s-{keys}"), keys=keys)
        await ground.ingest.process(await ground.ingest.open([device.inbound(presence, at=ground.mono)]))
        said = [type(m).__name__ for m in ground.sent.to(device)]
        assert said == ["Keys"] * expected + ["Checkpoint"]


async def test_connected_devices_are_told_of_a_rotation(ground: Ground) -> None:
    """Within seconds; again after a minute to one that does not follow; never again once it does."""
    device = ground.machine.device
    presence = replace(device.presence(), keys=1)
    await ground.ingest.process(await ground.ingest.open([device.inbound(presence, at=ground.mono)]))
    rotation.begin(ground.authority)

    async def told(seconds: float) -> int:
        ground.sent.messages.clear()
        ground.mono += seconds
        await ground.ingest.flush()
        return sum(isinstance(m, Keys) for m in ground.sent.to(device))

    assert (await told(6), await told(6)) == (1, 0)
    await ground.execute("UPDATE device_trust SET told_at = now() - interval '2 minutes'")
    assert await told(6) == 1
    await ground.ingest.process(await ground.ingest.open([device.inbound(replace(presence, keys=2), at=ground.mono)]))
    assert await told(6) == 0
    rotation.advance(ground.authority)
    assert await told(6) == 1, "the next step is told at once to those who have followed"


async def test_a_step_of_a_rotation_stands_in_the_audit(ground: Ground) -> None:
    """Who is trusted since, and where it stands; looking at it is no step."""
    before = ground.authority.keychain
    await trusting.recorded(ground.db, before, before, ground.now)
    rotation.begin(ground.authority)
    await trusting.recorded(ground.db, before, ground.authority.keychain, ground.now)
    [(kind, op, id, after)] = await ground.audited()
    assert (kind, op, id, after["phase"], len(after["authorities"])) == ("installation", "updated", "keys", "announced", 2)


async def test_the_next_step_would_leave_somebody_behind(ground: Ground) -> None:
    """Counted are those that may come back: who trusts the list, then who has a certificate of the new CA; integrations too."""
    device = ground.machine.device

    async def left() -> str:
        found = await trusting.followers(ground.db, ground.authority, ground.now)
        return found.left_behind(ground.authority.keychain.phase)

    async def says(keys: int) -> None:
        presence = replace(device.presence(), keys=keys)
        await ground.ingest.process(await ground.ingest.open([device.inbound(presence, at=ground.mono)]))

    assert await left() == ""
    rotation.begin(ground.authority)
    assert await left() == "1 of 1 devices don't trust the new keys yet"
    await says(2)
    assert await left() == ""
    ground.now += timedelta(hours=2)
    rotation.advance(ground.authority)
    await says(3)
    assert await left() == "1 of 1 devices have not followed yet"
    ground.machine.install(await ground.answer())
    assert await left() == ""
    certificate = Authority(ground.authority.directory.parent / "other", lambda: ground.now)
    certificate.bootstrap()
    issued = certificate.issue_integration(requested_key(ground.machine.request().csr), "press")
    await ground.execute("INSERT INTO integrations VALUES ('i-1', 'press', 'none', $1, now())", issued.pem)
    assert await left() == "integrations with certificates of the old CA: press"
    rotation.advance(ground.authority)
    found = await trusting.followers(ground.db, ground.authority, ground.now)
    assert (found.devices, found.renewed, found.informed) == (1, 1, 0), "it counts since the CA took over, not since the last step"
    ground.now += timedelta(days=61)
    assert (await trusting.followers(ground.db, ground.authority, ground.now)).devices == 0


async def test_an_integration_gets_another_one_for_its_key(ground: Ground) -> None:
    """Once it has a third of its year left, or the CA has changed; before, the one that it has."""
    key = device_side.new_key()
    csr = device_side.request(key, ground.authority.ca_pem.encode(), key).csr

    async def created() -> str:
        body = {"name": "press", "csr": csr}
        made = await integrations.create(ground.db, ground.authority, body, broker=("b", 1), now=ground.now)
        return str(made["certificate"])

    first = await created()
    ground.now += timedelta(days=240)
    assert await created() == first
    ground.now += timedelta(days=4)
    second = await created()
    assert second != first and await created() == second
    for step in (rotation.begin, rotation.advance):
        assert await created() == second
        step(ground.authority)
    assert await created() != second


# --- over HTTP --------------------------------------------------------------------------------------------------------------------


def readmission(ground: Ground) -> Readmission:
    return Readmission(ground.db, ground.store, ground.authority, Topics())


def handed_in(ground: Ground, machine: Machine | None = None, key: bytes | None = None) -> dict[str, str]:
    device = (machine or ground.machine).device
    request = (machine or ground.machine).request()
    payload = encode(request, sent_at=now_text(ground.now), topic=device.topic("up/csr"), key=key or device.key)
    return {"device": device.id, "request": payload.decode()}


async def test_the_way_back_in(ground: Ground) -> None:
    """The same answer as over MQTT, with its MAC, and the newest lists of keys."""
    rotation.begin(ground.authority)
    ground.now += timedelta(days=40)
    said = await readmission(ground).answer(handed_in(ground))
    device = ground.machine.device
    found = decode("down/certificate", said["answer"].encode(), topic=device.topic("down/certificate"), key=device.key)
    assert isinstance(found, CertificateAnswer)
    ground.machine.install(found)
    assert decode("down/keys", said["keys"].encode()) == ground.authority.keychain.message


async def test_strangers_learn_nothing(ground: Ground) -> None:
    """An unknown device, a revoked one, a bad MAC, no JSON, no id: one text for all of them."""
    body = handed_in(ground)
    strange = [body | {"device": "host-nobody"}, body | {"device": "a/b"}, body | {"request": "{}"}, handed_in(ground, key=b"x" * 32)]
    refusals = set()
    for each in strange:
        with pytest.raises(Forbidden) as refused:
            await readmission(ground).answer(each)
        refusals.add(str(refused.value))
    await ground.execute("UPDATE device_identity SET revoked_at = now()")
    with pytest.raises(Forbidden) as refused:
        await readmission(ground).answer(body)
    assert len(refusals | {str(refused.value)}) == 1
    nothings: tuple[Any, ...] = ({}, {"device": 7, "request": "x"}, {"device": body["device"]}, [], None)
    for nothing in nothings:
        with pytest.raises(Invalid):
            await readmission(ground).answer(nothing)


async def test_a_notification_names_its_host(ground: Ground) -> None:
    """So that it stands on the host's page, and in its scope."""
    ground.now += timedelta(days=40)
    ground.machine.install(await ground.answer())
    [note] = (await ground.store.list("notification", ListQuery())).items
    assert note["host"] == ground.machine.device.id and note["about"] == {"kind": "host", "id": note["host"]}
    assert "10 days" in note["message"]

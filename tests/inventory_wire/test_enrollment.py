"""Enrollment against a real database: who gets an identity, how often, and what hostile input does."""

import asyncio
import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.topics import Topics, shard_of
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.db import Database
from inventory.enrollment import host_name, redeem
from inventory.errors import Forbidden, Invalid
from inventory.store import Store

BROKER = ("fleet.example", 8883)


def csr(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


class Enrolling:
    """One installation that devices enroll with."""

    def __init__(self, db: Database, store: Store, authority: Authority) -> None:
        self.db, self.store, self.authority = db, store, authority

    async def token(self, secret: str = "t-1", **body: Any) -> dict[str, Any]:
        extra = {"token_hash": hashlib.sha256(secret.encode()).hexdigest()}
        return await self.store.create("enrollment-token", body, Actor.user("admin", "admin"), extra=extra)

    async def redeem(self, request: Any) -> dict[str, Any]:
        return await redeem(self.db, self.store, self.authority, request, broker=BROKER)

    async def enroll(self, secret: str = "t-1", key: ec.EllipticCurvePrivateKey | None = None, **evidence: Any) -> dict[str, Any]:
        return await self.redeem({"token": secret, "csr": csr(key), "evidence": evidence, "agent_version": "0.1.0"})


@pytest.fixture
def enrolling(db: Database, store: Store, authority: Authority) -> Enrolling:
    return Enrolling(db, store, authority)


async def test_the_answer_is_what_the_contract_says(enrolling: Enrolling) -> None:
    """Each member of it, and that the certificate is for the device and by our CA."""
    await enrolling.token()
    answer = await enrolling.enroll(hostname="Press-Line-4.plant.example", serial="S1", macs=["aa:bb:cc:dd:ee:ff"], uuid="U1")
    members = {"device", "prefix", "certificate", "ca", "command_root", "command_roots", "keys", "channel_key", "broker"}
    assert set(answer) == members
    device = answer["device"]
    assert answer["prefix"] == f"fleet/v1/devices/{shard_of(device)}/{device}" == Topics().device_prefix(device)
    assert answer["broker"] == {"host": "fleet.example", "port": 8883}
    assert bytes.fromhex(answer["channel_key"]) == enrolling.authority.channel_key(device, 1)
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(answer["ca"].encode()))
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == device
    host = await enrolling.store.get("host", device)
    assert (host["name"], host["desired_state"], host["presence"]) == ("press-line-4", "registered", "never")
    assert host["certificate_expires_at"] is not None


async def test_the_token_gives_site_labels_and_approval(enrolling: Enrolling) -> None:
    """What whoever made the token wants for its devices."""
    site = await enrolling.store.create("site", {"name": "plant"}, Actor.user("admin", "admin"))
    await enrolling.token(site="plant", given_labels={"line": "4"}, approve=True)
    host = await enrolling.store.get("host", (await enrolling.enroll())["device"])
    assert (host["site"], host["labels"], host["desired_state"]) == (site["id"], {"line": "4"}, "onboarded")


async def test_a_taken_name_gets_a_number(enrolling: Enrolling) -> None:
    """Two machines of one name are two hosts."""
    await enrolling.token(uses=3)
    hosts = [await enrolling.store.get("host", (await enrolling.enroll(hostname="edge"))["device"]) for _ in range(3)]
    assert [host["name"] for host in hosts] == ["edge", "edge-2", "edge-3"]


async def test_a_lost_answer_burns_nothing(enrolling: Enrolling) -> None:
    """The same token and key: the same answer, however often, and one use."""
    token = await enrolling.token()
    key = ec.generate_private_key(ec.SECP256R1())
    first, second = await enrolling.enroll(key=key), await enrolling.enroll(key=key, hostname="another")
    assert first == second
    assert (await enrolling.store.get("enrollment-token", token["id"]))["used"] == 1


async def test_a_used_up_token_refuses_another_key(enrolling: Enrolling) -> None:
    """403, in words that tell a guess nothing."""
    await enrolling.token()
    await enrolling.enroll()
    with pytest.raises(Forbidden, match="not known, has expired, or is used up"):
        await enrolling.enroll()
    with pytest.raises(Forbidden, match="not known, has expired, or is used up"):
        await enrolling.enroll("no such token")


async def test_an_expired_token_refuses_a_new_key_but_repeats_its_answer(enrolling: Enrolling, now: datetime) -> None:
    """The answer may have been lost just before the end."""
    token = await enrolling.token(uses=5, expires_at=(now + timedelta(hours=1)).isoformat())
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await enrolling.enroll(key=key)
    async with enrolling.db.acquire() as connection:
        await connection.execute("UPDATE enrollment_token SET expires_at = now() - interval '1 s' WHERE id = $1", token["id"])
    with pytest.raises(Forbidden):
        await enrolling.enroll()
    assert await enrolling.enroll(key=key) == answer


async def test_another_token_enrolls_a_known_key_again(enrolling: Enrolling) -> None:
    """The same host, a new certificate and another channel key; then that answer is repeated."""
    await enrolling.token("t-1")
    await enrolling.token("t-2")
    key = ec.generate_private_key(ec.SECP256R1())
    first, second = await enrolling.enroll("t-1", key), await enrolling.enroll("t-2", key)
    assert first["device"] == second["device"]
    assert first["certificate"] != second["certificate"]
    assert bytes.fromhex(second["channel_key"]) == enrolling.authority.channel_key(first["device"], 2)
    assert await enrolling.enroll("t-2", key) == second


async def test_a_token_that_approves_onboards_a_known_host(enrolling: Enrolling) -> None:
    """One that was enrolled without approval; but not one that a person distrusts."""
    await enrolling.token("t-1")
    await enrolling.token("t-2", approve=True)
    await enrolling.token("t-3", approve=True)
    key = ec.generate_private_key(ec.SECP256R1())
    device = (await enrolling.enroll("t-1", key))["device"]
    assert (await enrolling.store.get("host", device))["desired_state"] == "registered"
    await enrolling.enroll("t-2", key)
    assert (await enrolling.store.get("host", device))["desired_state"] == "onboarded"
    await enrolling.store.patch("host", device, {"desired_state": "untrusted"}, Actor.user("admin", "admin"))
    await enrolling.enroll("t-3", key)
    assert (await enrolling.store.get("host", device))["desired_state"] == "untrusted"


async def test_a_revoked_key_is_refused(enrolling: Enrolling) -> None:
    """Even with its own token, and with a fresh one."""
    await enrolling.token("t-1")
    await enrolling.token("t-2")
    key = ec.generate_private_key(ec.SECP256R1())
    await enrolling.enroll("t-1", key)
    async with enrolling.db.acquire() as connection:
        await connection.execute("UPDATE device_identity SET revoked_at = now()")
    for secret in ("t-1", "t-2"):
        with pytest.raises(Forbidden, match="revoked"):
            await enrolling.enroll(secret, key)


async def test_a_hundred_at_once_get_one_identity_from_a_token_of_one_use(enrolling: Enrolling) -> None:
    """Uses are counted atomically: ninety-nine are refused, and one host exists."""
    token = await enrolling.token()
    answers = await asyncio.gather(*(enrolling.enroll() for _ in range(100)), return_exceptions=True)
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert sum(isinstance(answer, Forbidden) for answer in answers) == 99
    async with enrolling.db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM host") == 1
        assert await connection.fetchval("SELECT count(*) FROM device_identity") == 1
    assert (await enrolling.store.get("enrollment-token", token["id"]))["used"] == 1


async def test_one_device_asking_a_hundred_times_at_once_is_one_device(enrolling: Enrolling) -> None:
    """Whoever retries too eagerly gets the same answer each time."""
    token = await enrolling.token(uses=5)
    key = ec.generate_private_key(ec.SECP256R1())
    answers = await asyncio.gather(*(enrolling.enroll(key=key) for _ in range(50)))
    assert all(answer == answers[0] for answer in answers)
    assert (await enrolling.store.get("enrollment-token", token["id"]))["used"] == 1


async def test_what_a_device_does_not_know_may_be_null(enrolling: Enrolling) -> None:
    """Evidence, or any of its members, as a program writes them that has nothing to say."""
    await enrolling.token(uses=2)
    unknown = {"serial": None, "uuid": None, "macs": None, "hostname": None}
    for evidence in (None, unknown):
        answer = await enrolling.redeem({"token": "t-1", "csr": csr(), "evidence": evidence, "agent_version": None})
        assert (await enrolling.store.get("host", answer["device"]))["name"].startswith("host")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"token": None}, "/token"),
    ({"token": ""}, "/token"),
    ({"token": 7}, "/token"),
    ({"csr": "nonsense"}, "/csr"),
    ({"csr": "x" * 100_000}, "/csr"),
    ({"evidence": []}, "/evidence"),
    ({"evidence": {"hostname": "a\0b"}}, "/evidence/hostname"),
    ({"evidence": {"hostname": "\ud800"}}, "/evidence/hostname"),
    ({"evidence": {"serial": "x" * 1000}}, "/evidence/serial"),
    ({"evidence": {"uuid": 5}}, "/evidence/uuid"),
    ({"evidence": {"macs": ["a" * 100]}}, "/evidence/macs/0"),
    ({"evidence": {"macs": ["aa"] * 1000}}, "/evidence/macs"),
    ({"agent_version": "1\n2"}, "/agent_version"),
    ({"more": 1}, "/more"),
]


async def test_bad_input_names_its_member_and_burns_nothing(enrolling: Enrolling) -> None:
    """422 with a pointer; the token is as good as before."""
    await enrolling.token()
    for change, pointer in BAD:
        with pytest.raises(Invalid) as refused:
            await enrolling.redeem({"token": "t-1", "csr": csr(), "evidence": {}} | change)
        assert pointer in {problem.pointer for problem in refused.value.errors}
    nothings: tuple[Any, ...] = (None, [], "text", 5, {})
    for nothing in nothings:
        with pytest.raises(Invalid):
            await enrolling.redeem(nothing)
    assert "device" in await enrolling.enroll()


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("press-line-4", "press-line-4"), ("Press Line.plant", "press-line"), ("", "host"), (None, "host"), ("---", "host"), ("ünï", "n"),
        ("../../etc", "host"), ("a" * 500, "a" * 200),
        ("'; DROP TABLE host; --", "drop-table-host"), ("<script>", "script"), ("x_y", "x_y"),
    ],
)  # fmt: skip
def test_a_host_name_becomes_a_name(hostname: str | None, name: str) -> None:
    """Whatever a machine calls itself, its host has a name that the contract allows."""
    assert host_name(hostname) == name


async def test_evidence_is_kept(enrolling: Enrolling) -> None:
    """For the people who decide about the device later."""
    await enrolling.token()
    await enrolling.enroll(serial="S1", hostname="edge")
    async with enrolling.db.acquire() as connection:
        kept = await connection.fetchval("SELECT evidence::text FROM device_identity")
    assert '"serial": "S1"' in kept and '"agent_version": "0.1.0"' in kept


def test_nothing_of_the_authority_is_in_the_working_directory(secrets_dir: Path) -> None:
    """The session's authority lives where tests can't mix it up with a real one."""
    assert Path.cwd() not in secrets_dir.parents

"""Enrollment against a real database: who gets an identity, how often, and what hostile input does."""

import asyncio
import base64
import hashlib
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.topics import Topics, shard_of
from inventory import tokens
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.certificates import fingerprint
from inventory.db import Database
from inventory.enrollment import Admitted, Outcome, host_name, redeem
from inventory.errors import Forbidden, Invalid, Unavailable
from inventory.store import Store
from tests.waiting import patience

BROKER = ("fleet.example", 8883)
ADDRESS = "192.0.2.7"
ADMIN = Actor.user("admin", "admin")


def csr(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


class Enrolling:
    """One installation that devices enroll with."""

    def __init__(self, db: Database, store: Store, authority: Authority) -> None:
        self.db, self.store, self.authority = db, store, authority

    async def token(self, secret: str = "t-1", **body: Any) -> dict[str, Any]:
        """One that approves, where nothing else is said."""
        extra = {"token_hash": hashlib.sha256(secret.encode()).hexdigest()}
        return await self.store.create("enrollment-token", {"approve": True, **body}, ADMIN, extra=extra)

    async def redeem(self, request: Any) -> Outcome:
        """Whoever finds the database too busy comes back, as a device does."""
        async with patience(60):
            while True:
                with suppress(Unavailable):
                    return await redeem(self.db, self.store, self.authority, request, broker=BROKER, address=ADDRESS)

    async def ask(self, secret: str = "t-1", key: ec.EllipticCurvePrivateKey | None = None, **evidence: Any) -> Outcome:
        return await self.redeem({"token": secret, "csr": csr(key), "evidence": evidence, "agent_version": "0.1.0"})

    async def enroll(self, secret: str = "t-1", key: ec.EllipticCurvePrivateKey | None = None, **evidence: Any) -> dict[str, Any]:
        """The identity, where it is given at once."""
        outcome = await self.ask(secret, key, **evidence)
        assert isinstance(outcome, Admitted)
        return outcome.answer


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
    assert (host["name"], host["desired_state"], host["presence"]) == ("press-line-4", "onboarded", "never")
    assert host["certificate_expires_at"] is not None


async def test_the_token_gives_site_labels_and_approval(enrolling: Enrolling) -> None:
    """What whoever made the token wants for its devices."""
    site = await enrolling.store.create("site", {"name": "plant"}, ADMIN)
    await enrolling.token(site="plant", given_labels={"line": "4"})
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
    """One that its owner had taken out of service; but not one that a person distrusts."""
    for secret in ("t-1", "t-2", "t-3"):
        await enrolling.token(secret)
    key = ec.generate_private_key(ec.SECP256R1())
    device = (await enrolling.enroll("t-1", key))["device"]
    await enrolling.store.patch("host", device, {"desired_state": "registered"}, ADMIN)
    await enrolling.enroll("t-2", key)
    assert (await enrolling.store.get("host", device))["desired_state"] == "onboarded"
    await enrolling.store.patch("host", device, {"desired_state": "untrusted"}, ADMIN)
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
        outcome = await enrolling.redeem({"token": "t-1", "csr": csr(), "evidence": evidence, "agent_version": None})
        assert isinstance(outcome, Admitted)
        assert (await enrolling.store.get("host", outcome.answer["device"]))["name"].startswith("host")


ABSENT = object()

BAD: list[tuple[dict[str, Any], str]] = [
    ({"token": ABSENT}, "/token"),
    ({"csr": ABSENT}, "/csr"),
    ({"evidence": ABSENT}, "/evidence"),
    ({"evidence": "SN1"}, "/evidence"),
    ({"evidence": {"serial": ["SN1"]}}, "/evidence/serial"),
    ({"evidence": {"macs": ["52:54:00:12:34"]}}, "/evidence/macs/0"),
    ({"evidence": {"macs": ["52:54:00:12:34:56", "no MAC"]}}, "/evidence/macs/1"),
    ({"evidence": {"macs": "52:54:00:12:34:56"}}, "/evidence/macs"),
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
    ({"evidence": {"macs": ["52:54:00:12:34:56"] * 1000}}, "/evidence/macs"),
    ({"agent_version": "1\n2"}, "/agent_version"),
    ({"more": 1}, "/more"),
]


async def test_bad_input_names_its_member_and_burns_nothing(enrolling: Enrolling) -> None:
    """422 with a pointer; the token is as good as before."""
    await enrolling.token()
    for change, pointer in BAD:
        body = {name: value for name, value in ({"token": "t-1", "csr": csr(), "evidence": {}} | change).items() if value is not ABSENT}
        with pytest.raises(Invalid) as refused:
            await enrolling.redeem(body)
        assert pointer in {problem.pointer for problem in refused.value.errors}, change
        assert "\n" not in refused.value.detail and "pydantic" not in refused.value.detail
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


async def test_evidence_is_kept_and_shown(enrolling: Enrolling) -> None:
    """For the people who look into it later: what the device said, by which key, with which token, from where."""
    token = await enrolling.token()
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await enrolling.enroll(key=key, serial=" S1 ", uuid="", hostname="edge", macs=["52-54-00-12-34-AB"])
    came = (await enrolling.store.get("host", answer["device"]))["enrollment"]
    said = {"serial": "S1", "hostname": "edge", "macs": ["52:54:00:12:34:ab"], "agent_version": "0.1.0", "address": ADDRESS}
    assert came.pop("since").endswith("Z")
    assert came == {"waiting": False, "token": token["id"], "fingerprint": fingerprint(key.public_key()), "evidence": said}


async def test_a_token_is_never_logged(enrolling: Enrolling, caplog: pytest.LogCaptureFixture) -> None:
    """Neither where it is good nor where it is refused; its id may be."""
    caplog.set_level("DEBUG")
    await enrolling.token("fwt_very-secret")
    await enrolling.enroll("fwt_very-secret")
    for secret in ("fwt_very-secret", "fwt_never-made"):
        with pytest.raises(Forbidden):
            await enrolling.enroll(secret)
    assert "enrolled" in caplog.text and "fwt_" not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


def test_tokens_are_strong(enrolling: Enrolling) -> None:
    """256 random bits, no two alike; derived ones, for idempotency keys, as many."""
    made = {tokens.random_secret() for _ in range(1000)}
    made.add(tokens.derived_secret(b"k" * 32, "claim", datetime(2026, 1, 1)))  # noqa: DTZ001 - any time will do
    assert len(made) == 1001
    assert all(len(base64.urlsafe_b64decode(secret.removeprefix(tokens.PREFIX) + "=")) * 8 == 256 for secret in made)


async def test_a_token_ends_after_a_quarter_of_an_hour(enrolling: Enrolling, now: datetime) -> None:
    """Where nothing is said of it."""
    token = await enrolling.token()
    assert abs(datetime.fromisoformat(token["expires_at"]) - now - timedelta(minutes=15)) < timedelta(minutes=1)


def test_nothing_of_the_authority_is_in_the_working_directory(secrets_dir: Path) -> None:
    """The session's authority lives where tests can't mix it up with a real one."""
    assert Path.cwd() not in secrets_dir.parents

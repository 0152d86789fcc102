"""The waiting room against a real database: who waits, what people decide, and what becomes of the host that is replaced."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from inventory import enrollment
from inventory.authority import Authority
from inventory.certificates import fingerprint
from inventory.db import Database
from inventory.enrollment import Admitted, Waiting, retry_after
from inventory.errors import Conflict, Forbidden, Invalid
from inventory.store import Store
from tests.inventory_wire.test_enrollment import ADDRESS, ADMIN, Enrolling

SERIAL, UUID = "5CG1234ABC", "4c4c4544-004b-5210-8051-b4c04f4a4d32"
Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


class Room(Enrolling):
    """The same, by the decisions of people. Its tokens do not approve."""

    async def token(self, secret: str = "t-1", **body: Any) -> dict[str, Any]:
        return await super().token(secret, **{"approve": False, **body})

    async def waits(self, secret: str = "t-1", key: Key | None = None, **evidence: Any) -> dict[str, Any]:
        """The host that waits."""
        outcome = await self.ask(secret, key, **evidence)
        assert isinstance(outcome, Waiting)
        return await self.store.get("host", outcome.request)

    async def set(self, host: dict[str, Any] | str, **values: Any) -> dict[str, Any]:
        return await self.store.patch("host", host if isinstance(host, str) else host["id"], values, ADMIN)

    async def count(self, table: str) -> int:
        async with self.db.acquire() as connection:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))


@pytest.fixture
def room(db: Database, store: Store, authority: Authority) -> Room:
    return Room(db, store, authority)


async def test_a_device_waits_with_its_evidence(room: Room) -> None:
    """A host that nobody has approved, with all that a person goes by; no certificate, no identity."""
    token, key = await room.token(given_labels={"line": "4"}), new_key()
    host = await room.waits(key=key, serial=SERIAL, uuid=UUID, macs=["52:54:00:12:34:56"], hostname="press-9")
    assert (host["name"], host["desired_state"], host["current_state"]) == ("press-9", "registered", "discovered")
    assert host["labels"] == {"line": "4"} and host["replaces"] is None
    came = host["enrollment"]
    assert (came["waiting"], came["token"], came["fingerprint"]) == (True, token["id"], fingerprint(key.public_key()))
    told = {"serial": SERIAL, "uuid": UUID, "macs": ["52:54:00:12:34:56"], "hostname": "press-9"}
    assert came["evidence"] == {**told, "agent_version": "0.1.0", "address": ADDRESS}
    assert await room.count("device_identity") == 0


async def test_it_goes_on_waiting_and_costs_one_use(room: Room) -> None:
    """However often it asks, also after the token's end, it is the same host; another key with that token is refused."""
    token, key = await room.token(), new_key()
    host = await room.waits(key=key)
    async with room.db.acquire() as connection:
        await connection.execute("UPDATE enrollment_token SET expires_at = now() - interval '1 s'")
    for _ in range(3):
        assert (await room.waits(key=key))["id"] == host["id"]
    with pytest.raises(Forbidden):
        await room.ask()
    assert (await room.store.get("enrollment-token", token["id"]))["used"] == 1
    assert await room.count("host") == 1


async def test_a_hundred_at_once_with_one_use_are_one_who_waits(room: Room) -> None:
    """And, approved, exactly one identity."""
    await room.token()
    keys = [new_key() for _ in range(100)]
    outcomes = await asyncio.gather(*(room.ask(key=key) for key in keys), return_exceptions=True)
    waiting = [(key, outcome) for key, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, Waiting)]
    assert len(waiting) == 1 and sum(isinstance(outcome, Forbidden) for outcome in outcomes) == 99
    [(key, outcome)] = waiting
    await room.set(outcome.request, desired_state="onboarded")
    answers = await asyncio.gather(*(room.ask(key=key) for _ in range(20)))
    assert all(isinstance(answer, Admitted) and answer == answers[0] for answer in answers)
    assert (await room.count("device_identity"), await room.count("host"), await room.count("enrollment_request")) == (1, 1, 0)


async def test_approved_it_gets_its_identity(room: Room) -> None:
    """When it asks the next time; then it waits no more, and what it said stays."""
    await room.token()
    key = new_key()
    host = await room.waits(key=key, serial=SERIAL)
    await room.set(host, desired_state="onboarded")
    answer = await room.enroll(key=key, serial=SERIAL)
    assert answer["device"] == host["id"]
    after = await room.store.get("host", host["id"])
    assert after["enrollment"]["waiting"] is False and after["enrollment"]["evidence"]["serial"] == SERIAL
    assert await room.enroll(key=key, serial=SERIAL) == answer


async def test_refused_it_is_refused(room: Room) -> None:
    """With that token and with another; and whoever comes from that machine with a new key waits, also with a token that approves."""
    await room.token()
    await room.token("t-2", uses=5, approve=True)
    key = new_key()
    host = await room.waits(key=key, serial=SERIAL)
    await room.set(host, desired_state="untrusted")
    for secret in ("t-1", "t-2"):
        with pytest.raises(Forbidden, match="a person has refused"):
            await room.ask(secret, key, serial=SERIAL)
    again = await room.waits("t-2", serial=SERIAL)
    assert again["replaces"] == host["id"]
    await room.set(host, desired_state="onboarded")
    assert (await room.enroll(key=key, serial=SERIAL))["device"] == host["id"]


async def test_a_known_machine_waits_and_says_whom_it_replaces(room: Room) -> None:
    """By serial number or by UUID, however they are spelled, and whatever the token says."""
    await room.token("t-0", approve=True)
    known = (await room.enroll("t-0", serial=SERIAL, uuid=UUID, hostname="press-9"))["device"]
    await room.token(uses=10, approve=True)
    spellings: list[dict[str, Any]] = [{"serial": SERIAL.lower()}, {"serial": f" {SERIAL} "}, {"uuid": UUID.upper()}]
    for evidence in (*spellings, {"serial": "other-1", "uuid": UUID}):
        host = await room.waits(**evidence, hostname="press-9")
        assert host["replaces"] == known and host["enrollment"]["same_as"][0] == known
    reported = await room.enroll(serial="REPORTED-LATER")
    assert reported["device"] != known


async def test_placeholders_make_nobody_known(room: Room) -> None:
    """Two machines whose makers filled in nothing are two machines."""
    await room.token(uses=4, approve=True)
    names = ("To Be Filled By O.E.M.", "Default string", "0123456789")
    devices = {(await room.enroll(serial=serial, uuid="03000200-0400-0500-0006-000700080009"))["device"] for serial in names}
    devices.add((await room.enroll(serial=names[0]))["device"])
    assert len(devices) == 4


async def test_what_a_device_reported_later_makes_it_known(room: Room) -> None:
    """One that could not read its serial number when it enrolled, and told it in its facts."""
    await room.token(uses=2, approve=True)
    device = (await room.enroll())["device"]
    async with room.store.transaction() as w:
        await w.tx.raw.execute("UPDATE host SET serial = $2 WHERE id = $1", device, SERIAL)
    assert (await room.waits(serial=SERIAL))["replaces"] == device


async def test_approved_it_takes_the_place_of_the_host(room: Room) -> None:
    """The same id, name, site and labels; another key and channel key; a version that only rises. Its own host is gone."""
    await room.token("t-0", approve=True, given_labels={"line": "4"})
    former = await room.enroll("t-0", serial=SERIAL, hostname="press-9")
    before = await room.store.get("host", former["device"])
    await room.token()
    key = new_key()
    waiting = await room.waits(key=key, serial=SERIAL, hostname="press-9")
    assert waiting["name"] == "press-9-2"
    await room.set(waiting, desired_state="onboarded")
    answer = await room.enroll(key=key, serial=SERIAL, hostname="press-9")
    assert answer["device"] == former["device"]
    assert bytes.fromhex(answer["channel_key"]) == room.authority.channel_key(former["device"], 2)
    after = await room.store.get("host", former["device"])
    assert (after["name"], after["labels"], after["desired_state"]) == ("press-9", {"line": "4"}, "onboarded")
    assert after["enrollment"]["fingerprint"] == fingerprint(key.public_key()) and after["version"] >= before["version"]
    assert await room.count("host") == await room.count("device_identity") == 1
    with pytest.raises(Forbidden):
        await room.ask("t-0", serial=SERIAL)


async def test_it_may_become_a_host_of_its_own(room: Room) -> None:
    """Where a person says so: two machines share a serial number after all. What is found out meanwhile does not undo that."""
    await room.token("t-0", approve=True)
    former = (await room.enroll("t-0", serial=SERIAL))["device"]
    await room.token()
    key = new_key()
    waiting = await room.waits(key=key, serial=SERIAL)
    await room.set(waiting, replaces=None)
    assert (await room.waits(key=key, serial=SERIAL))["replaces"] is None
    await room.set(waiting, desired_state="onboarded")
    assert (await room.enroll(key=key, serial=SERIAL))["device"] == waiting["id"] != former


async def test_it_may_become_a_host_that_a_person_names(room: Room) -> None:
    """A board was changed: nothing of the machine is known, but its owner knows."""
    made = await room.store.create("host", {"name": "press-7", "desired_state": "onboarded"}, ADMIN)
    await room.token()
    key = new_key()
    waiting = await room.waits(key=key, serial=SERIAL)
    with pytest.raises(Invalid, match="there is no host"):
        await room.set(waiting, replaces="press-8")
    await room.set(waiting, replaces="press-7", desired_state="onboarded")
    assert (await room.enroll(key=key, serial=SERIAL))["device"] == made["id"]


async def test_whom_it_replaces_may_go_meanwhile(room: Room) -> None:
    """Then it is a host of its own, and the reference is gone with its target."""
    await room.token("t-0", approve=True)
    former = (await room.enroll("t-0", serial=SERIAL))["device"]
    await room.token()
    key = new_key()
    waiting = await room.waits(key=key, serial=SERIAL)
    await room.store.delete("host", former, ADMIN, force=True)
    assert (await room.store.get("host", waiting["id"]))["replaces"] is None
    await room.set(waiting, desired_state="onboarded")
    assert (await room.enroll(key=key, serial=SERIAL))["device"] == waiting["id"]


async def test_the_second_of_one_serial_sees_the_first(room: Room) -> None:
    """Two machines of one serial number with tokens that approve, at once: one is in, the other waits."""
    secrets = [f"t-{n}" for n in range(8)]
    for secret in secrets:
        await room.token(secret, approve=True)
    outcomes = await asyncio.gather(*(room.ask(secret, serial=SERIAL) for secret in secrets))
    assert sum(isinstance(outcome, Admitted) for outcome in outcomes) == 1


async def test_one_that_wiped_its_key_while_it_waited(room: Room) -> None:
    """It waits again, to replace itself; approved, it is that host, and the lost key is nobody."""
    await room.token(uses=2)
    lost, key = new_key(), new_key()
    first = await room.waits(key=lost, serial=SERIAL)
    second = await room.waits(key=key, serial=SERIAL)
    assert second["replaces"] == first["id"]
    await room.set(second, desired_state="onboarded")
    assert (await room.enroll(key=key, serial=SERIAL))["device"] == first["id"]
    with pytest.raises(Forbidden):
        await room.ask(key=lost, serial=SERIAL)


async def test_a_token_that_approves_lets_in_who_waits(room: Room) -> None:
    """The same key, by another token; but not one whose machine is known."""
    await room.token()
    await room.token("t-2", uses=2, approve=True)
    key = new_key()
    host = await room.waits(key=key, serial=SERIAL)
    assert (await room.enroll("t-2", key, serial=SERIAL))["device"] == host["id"]
    await room.token("t-3")
    other = new_key()
    assert (await room.waits("t-3", other, serial=SERIAL))["replaces"] == host["id"]
    assert (await room.waits("t-2", other, serial=SERIAL))["replaces"] == host["id"]


async def test_a_pre_registered_machine_comes_in(room: Room) -> None:
    """By serial number: as the host that was written down for it, with its name, labels and state; and once only."""
    body = {"name": "press-9", "labels": {"line": "4"}, "desired_state": "onboarded", "expected_serial": f" {SERIAL} "}
    expected = await room.store.create("host", body, ADMIN)
    assert expected["expected_serial"] == SERIAL
    await room.token(uses=3)
    answer = await room.enroll(serial=SERIAL.lower(), hostname="localhost")
    assert answer["device"] == expected["id"]
    host = await room.store.get("host", expected["id"])
    assert (host["name"], host["labels"], host["desired_state"]) == ("press-9", {"line": "4"}, "onboarded")
    assert (await room.waits(serial=SERIAL))["replaces"] == expected["id"]


async def test_one_that_waits_comes_in_when_it_is_written_down(room: Room) -> None:
    """By UUID: at its next question, as that host; the one that waited is gone."""
    await room.token()
    key = new_key()
    await room.waits(key=key, uuid=UUID)
    expected = await room.store.create("host", {"name": "press-9", "desired_state": "onboarded", "expected_uuid": UUID.upper()}, ADMIN)
    assert (await room.enroll(key=key, uuid=UUID))["device"] == expected["id"]
    assert await room.count("host") == 1


async def test_no_token_no_entry(room: Room) -> None:
    """A serial number that is expected opens nothing by itself: anybody may say it."""
    await room.store.create("host", {"name": "press-9", "expected_serial": SERIAL}, ADMIN)
    with pytest.raises(Forbidden):
        await room.ask("guessed", serial=SERIAL)


async def test_what_can_be_expected(room: Room) -> None:
    """No placeholder, no UUID that is none, and no machine for two hosts."""
    for body, pointer in (
        ({"expected_serial": "To Be Filled By O.E.M."}, "/expected_serial"),
        ({"expected_uuid": "03000200-0400-0500-0006-000700080009"}, "/expected_uuid"),
        ({"expected_uuid": "4711"}, "/expected_uuid"),
    ):
        with pytest.raises(Invalid) as refused:
            await room.store.create("host", {"name": "x", **body}, ADMIN)
        assert [problem.pointer for problem in refused.value.errors] == [pointer]
    await room.store.create("host", {"name": "x", "expected_serial": SERIAL, "expected_uuid": UUID}, ADMIN)
    for body, pointer in (({"expected_serial": SERIAL.lower()}, "/expected_serial"), ({"expected_uuid": UUID}, "/expected_uuid")):
        with pytest.raises(Conflict) as taken:
            await room.store.create("host", {"name": "y", **body}, ADMIN)
        assert [problem.pointer for problem in taken.value.errors] == [pointer]


async def test_who_waits_can_be_filtered_for(room: Room) -> None:
    """By whether it waits, by its token and by its key."""
    token, key = await room.token(uses=2), new_key()
    host = await room.waits(key=key)
    await room.token("t-2", approve=True)
    await room.enroll("t-2")
    for text in (
        "enrollment.waiting = true",
        f'enrollment.token = "{token["id"]}"',
        f'enrollment.fingerprint = "{fingerprint(key.public_key())}"',
    ):
        found = await room.store.list("host", enrollment_query(text))
        assert [each["id"] for each in found.items] == [host["id"]], text


def enrollment_query(text: str) -> Any:
    from inventory.store import ListQuery

    return ListQuery(text)


def test_the_longer_it_waits_the_seldomer_it_asks() -> None:
    """From every 5 s at first to once a minute."""
    pauses = [retry_after(timedelta(seconds=seconds)) for seconds in (0, 60, 200, 600, 86400)]
    assert pauses == [5, 5, 10, 30, 60]
    assert (enrollment.SOONEST_S, enrollment.LATEST_S) == (5, 60)

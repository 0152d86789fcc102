"""Commands to devices: when they are sent, sent again and ended; on the real store, with a clock that is moved."""

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import VerifyKey

from broker.client import NotConnected
from broker.messages import Command, CommandState, Mandate, decode, decode_text
from broker.topics import Topics
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.dispatching import DueCommand
from inventory.resource import Resource
from inventory.signing import CommandSigner
from inventory.vault import Vault
from managers import dispatch
from managers.dispatch import GRACE, RECHECK, RESEND, Dispatcher, End, Send, Step, Wait, next_step
from tests.managers.fleet import Fleet, eventually

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
NOT_AFTER = NOW + timedelta(minutes=10)
DUE = DueCommand(
    id="cmd-1",
    host="host-1",
    verb="config.apply",
    args={},
    resource=None,
    state="queued",
    attempt=1,
    timeout_s=60,
    not_after=NOT_AFTER,
    first_fence=None,
    sends=0,
    sent_session=None,
    session="s1",
    presence="online",
    host_state="onboarded",
    enrolled=True,
    now=NOW,
)
SENT = replace(DUE, state="sent", sends=1, sent_session="s1")
RUNNING = replace(SENT, state="running")
END = NOT_AFTER + timedelta(seconds=60) + GRACE

STEPS: list[tuple[str, DueCommand, datetime, bool, Step]] = [
    ("a new one is sent", DUE, NOW, True, Send(NOW + RESEND)),
    ("without an answer it is sent again", SENT, NOW, True, Send(NOW + RESEND)),
    ("never later than it may start", SENT, NOT_AFTER - timedelta(seconds=3), True, Send(NOT_AFTER)),
    ("the device is offline", replace(SENT, presence="offline"), NOW, True, Wait(NOW + RECHECK)),
    ("the broker is away", DUE, NOW, False, Wait(NOW + RECHECK)),
    ("a stale device may hear it", replace(DUE, presence="stale"), NOW, True, Send(NOW + RESEND)),
    ("it could not start in time", SENT, NOT_AFTER, True, End(CommandState.TIMED_OUT)),
    ("it has been taken", RUNNING, NOW, True, Wait(END)),
    ("it has been taken, and the device begins a new session", replace(RUNNING, session="s2"), NOW, True, Send(END)),
    ("it may run beyond the time it had to start by", RUNNING, NOT_AFTER, True, Wait(END)),
    ("no word of its end", RUNNING, END, True, End(CommandState.TIMED_OUT)),
    ("the host is no longer onboarded", replace(DUE, host_state="registered"), NOW, True, End(CommandState.CANCELLED)),
    ("what runs there is left to end", replace(RUNNING, host_state="untrusted"), NOW, True, Wait(END)),
    ("its identity is gone", replace(DUE, enrolled=False), NOW, True, End(CommandState.CANCELLED)),
    ("it was never connected", replace(DUE, session=None), NOW, True, Wait(NOW + RECHECK)),
]


@pytest.mark.parametrize(("what", "command", "now", "connected", "step"), STEPS, ids=[row[0] for row in STEPS])
def test_next_step(what: str, command: DueCommand, now: datetime, connected: bool, step: Step) -> None:
    """What is due for a command."""
    assert next_step(command, now, connected) == step, what


class Post:
    """A dispatcher on a fleet without managers, whose clock the test moves."""

    def __init__(self, fleet: Fleet, secrets: Path) -> None:
        self.fleet = fleet
        self.fleet.wire.answer = None
        self.now = datetime.now(UTC)
        self.dispatcher = Dispatcher(fleet.store, fleet.wire, CommandSigner(secrets), Vault(secrets), Topics(), clock=lambda: self.now)

    async def command(self, host: str, **more: Any) -> str:
        values = {
            "host": host,
            "verb": "config.apply",
            "args": {"files": []},
            "timeout_s": 60,
            "not_after": self.now + timedelta(minutes=10),
        }
        made = await self.fleet.store.make("command", values | {"due_at": self.now} | more, Actor.manager("config"))
        return str(made["id"])

    async def ready_host(self, name: str = "a") -> str:
        host = await self.fleet.host(name)
        await self.fleet.store.write("host", host, {"current_state": "onboarded"}, Actor.manager("host"))
        return host

    async def after(self, seconds: float) -> int:
        self.now += timedelta(seconds=seconds)
        return await self.dispatcher.step()

    async def get(self, id: str) -> Resource:
        return await self.fleet.store.get("command", id)

    async def row(self, sql: str, *values: Any) -> None:
        async with self.fleet.db.acquire() as connection:
            await connection.execute(sql, *values)


@pytest.fixture
def post(fleet: Fleet, command_secrets: Path) -> Post:
    return Post(fleet, command_secrets)


async def test_the_same_command_is_sent_until_it_is_taken(post: Post) -> None:
    """Every 10 s, signed anew with a higher fence, without a change or a version for it; then it is left alone."""
    host = await post.ready_host()
    id = await post.command(host)
    before = (await post.get(id))["version"]
    assert await post.dispatcher.step() == 1
    assert await post.after(9) == 0
    assert await post.after(1) == 1
    assert [(order.id, order.fence, order.first_fence) for order in post.fleet.wire.orders] == [(id, 1, 1), (id, 2, 1)]
    found = await post.get(id)
    assert (found["state"], found["sends"], found["version"]) == ("sent", 2, before)
    await post.row("UPDATE command SET state = 'accepted' WHERE id = $1", id)
    assert await post.after(10) == 1
    assert await post.after(300) == 0
    assert len(post.fleet.wire.orders) == 2


async def test_a_new_session_gets_it_again_at_once(post: Post) -> None:
    """Even what was taken: the device answers with what it knows."""
    host = await post.ready_host()
    id = await post.command(host)
    await post.dispatcher.step()
    await post.row("UPDATE command SET state = 'running' WHERE id = $1", id)
    await post.after(10)
    await post.row("UPDATE device_stream SET session = 'session-2' WHERE host = $1", host)
    await post.dispatcher._rouse()
    assert await post.after(0) == 1
    assert [order.id for order in post.fleet.wire.orders] == [id, id]
    assert (await post.get(id))["state"] == "running"


async def test_every_command_ends(post: Post) -> None:
    """Never taken: at the time it had to start by. Taken and never heard of again: when it can't be running any more."""
    host = await post.ready_host()
    silent, hung = await post.command(host), await post.command(host)
    await post.dispatcher.step()
    await post.row("UPDATE command SET state = 'running' WHERE id = $1", hung)
    await post.after(600)
    assert (await post.get(silent))["state"] == "timed_out"
    assert (await post.get(hung))["state"] == "running"
    await post.after(60 + GRACE.total_seconds())
    found = await post.get(hung)
    assert (found["state"], found["finished_at"] is not None) == ("timed_out", True)
    assert await post.after(10_000) == 0


async def test_a_clock_set_back_delays_no_command(post: Post) -> None:
    """Due tomorrow by a clock that was a day ahead: sent now."""
    host = await post.ready_host()
    id = await post.command(host, due_at=post.now + timedelta(days=1))
    assert await post.dispatcher.step() == 1
    assert [order.id for order in post.fleet.wire.orders] == [id]


async def test_an_end_is_final(post: Post) -> None:
    """What has ended is never looked at again, whatever its due time says."""
    host = await post.ready_host()
    id = await post.command(host)
    await post.row("UPDATE command SET state = 'succeeded' WHERE id = $1", id)
    assert await post.after(10_000) == 0
    assert (await post.get(id))["state"] == "succeeded"


async def test_a_host_that_is_no_longer_onboarded_gets_no_command(post: Post) -> None:
    """It is withdrawn before it was sent."""
    host = await post.ready_host()
    id = await post.command(host)
    await post.fleet.store.write("host", host, {"current_state": "registered"}, Actor.manager("host"))
    await post.dispatcher.step()
    assert (await post.get(id))["state"] == "cancelled"
    assert post.fleet.wire.orders == []


DISTRUST = {
    "untrusted": "UPDATE host SET desired_state = 'untrusted' WHERE id = $1",
    "deleted": "UPDATE host SET desired_state = 'deleted' WHERE id = $1",
    "revoked": "UPDATE device_identity SET revoked_at = now() WHERE host = $1",
}


@pytest.mark.parametrize("how", DISTRUST)
async def test_what_is_queued_for_who_is_trusted_no_more_is_cancelled_at_once(post: Post, how: str) -> None:
    """Before any manager has looked at the host, and though it was to be looked at only seconds later; what runs is left to end."""
    host = await post.ready_host()
    sent, running = await post.command(host), await post.command(host)
    await post.dispatcher.step()
    await post.row("UPDATE command SET state = 'running' WHERE id = $1", running)
    await post.row("UPDATE host SET presence = 'offline' WHERE id = $1", host)
    waiting = await post.command(host)
    await post.dispatcher.step()
    await post.row(DISTRUST[how], host)
    await post.dispatcher._rouse()
    await post.dispatcher.step()
    assert [(await post.get(id))["state"] for id in (sent, waiting, running)] == ["cancelled", "cancelled", "running"]


async def test_a_dispatcher_that_is_never_idle_looks_all_the_same(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """For new sessions and for who is trusted no more: with a full batch at every step it never would have."""
    host = await post.ready_host()
    id = await post.command(host)
    await post.dispatcher.step()
    await post.row("UPDATE host SET desired_state = 'untrusted' WHERE id = $1", host)
    monkeypatch.setattr(dispatch, "POLL_S", 0.05)
    step = post.dispatcher.step

    async def full() -> int:
        await step()
        await asyncio.sleep(0)
        return dispatch.BATCH

    monkeypatch.setattr(post.dispatcher, "step", full)
    running = asyncio.create_task(post.dispatcher.run())
    try:
        await eventually(lambda: _is_cancelled(post, id))
    finally:
        running.cancel()


async def _is_cancelled(post: Post, id: str) -> bool:
    return bool((await post.get(id))["state"] == "cancelled")


async def test_a_lost_publication_is_made_up_for(post: Post) -> None:
    """The broker goes away between the commit and the send: nothing is lost, and the fence is not used twice."""
    host = await post.ready_host()
    await post.command(host)

    async def broken(topic: str, payload: bytes, qos: int = 1) -> None:
        raise NotConnected("gone")

    wire = post.fleet.wire
    working, wire.send = wire.send, broken  # type: ignore[method-assign]
    await post.dispatcher.step()
    wire.send = working  # type: ignore[method-assign]
    await post.after(10)
    assert [order.fence for order in wire.orders] == [2]


async def test_fences_rise_over_all_commands_of_a_device(post: Post) -> None:
    """Several in one batch get numbers of their own; another device has its own numbers."""
    one, two = await post.ready_host("a"), await post.ready_host("b")
    for host in (one, one, two, one):
        await post.command(host)
    await post.dispatcher.step()
    fences = {host: sorted(order.fence for order in post.fleet.wire.orders if order.device == host) for host in (one, two)}
    assert fences == {one: [1, 2, 3], two: [1]}


async def test_two_dispatchers_share_the_work(post: Post, command_secrets: Path) -> None:
    """No command is sent twice by two replicas that look at the same moment."""
    host = await post.ready_host()
    ids = [await post.command(host) for _ in range(20)]
    second = Dispatcher(
        post.fleet.store, post.fleet.wire, CommandSigner(command_secrets), Vault(command_secrets), Topics(), clock=lambda: post.now
    )
    await asyncio.gather(post.dispatcher.step(), second.step())
    assert sorted(order.id for order in post.fleet.wire.orders) == sorted(ids)


async def test_what_is_sent_can_be_believed(post: Post, command_secrets: Path) -> None:
    """The signature is by the delegated key, over exactly the text sent."""
    host = await post.ready_host()
    id = await post.command(host)
    sent: list[bytes] = []
    inner = post.fleet.wire.send

    async def record(topic: str, payload: bytes, qos: int = 1) -> None:
        assert topic == Topics().device_prefix(host) + "/down/command"
        sent.append(payload)
        await inner(topic, payload, qos)

    post.fleet.wire.send = record  # type: ignore[method-assign]
    await post.dispatcher.step()
    [order] = post.fleet.wire.orders
    assert order.id == id
    _verify(sent[0], command_secrets)


def _verify(payload: bytes, secrets: Path) -> None:
    message = decode("down/command", payload)
    assert isinstance(message, Command)
    root = VerifyKey(base64.b64decode(Authority(secrets).command_root_b64))
    root.verify(message.delegation.signed.encode(), base64.b64decode(message.delegation.signature))
    mandate = decode_text(Mandate, message.delegation.signed)
    VerifyKey(base64.b64decode(mandate.public_key)).verify(message.signed.encode(), base64.b64decode(message.signature))


async def test_a_command_that_fits_no_message_ends(post: Post) -> None:
    """It would otherwise be tried for ever."""
    host = await post.ready_host()
    id = await post.command(host, args={"files": ["x" * 300_000]})
    await post.dispatcher.step()
    assert (await post.get(id))["state"] == "rejected"
    assert post.fleet.wire.orders == []

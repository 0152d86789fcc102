"""Mosquitto forgets a SIGHUP that comes while it reads for the one before, so it is told once at a time (`broker.following`).

It takes two within less than a millisecond, which no test makes happen each time; so what is tested is that they never are so close.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from broker.acl import BROKER
from broker.client import NotConnected, Received, Settings
from broker.following import Following
from broker.mosquitto_files import Files
from broker.revocations import RevocationList, Revoked, parts_of
from broker.topics import Topics
from tests.broker.certificates import CertFactory
from tests.broker.wire import until


class Busy:
    """A session with a Mosquitto that acknowledges when it is let."""

    def __init__(self, done: list[str]) -> None:
        self._done = done
        self.may = asyncio.Event()
        self.away = False

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        if self.away:
            raise NotConnected("it is away")
        await self.may.wait()
        self._done.append("acknowledged")


@pytest.fixture
def done() -> list[str]:
    """What has happened, in order."""
    return []


@pytest.fixture
def busy(done: list[str]) -> Busy:
    return Busy(done)


@pytest.fixture
def make(certs: CertFactory, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[object], Following]:
    """One with such a session; all of them with the same files."""
    monkeypatch.setattr("broker.following.AGAIN_S", 0.0)

    async def reload() -> None:
        done.append("told")

    def made(session: object) -> Following:
        settings = Settings.from_url("mqtts://127.0.0.1:1", BROKER, certs.directory, Topics())
        following = Following(settings, Topics(), Files(certs.directory, tmp_path), reload)
        monkeypatch.setattr(following, "_session", session)
        return following

    return made


@pytest.fixture
def following(make: Callable[[object], Following], busy: Busy) -> Following:
    return make(busy)


async def test_it_is_told_again_when_it_has_read(following: Following, busy: Busy, done: list[str]) -> None:
    """Two rounds of messages after it has been told, and not before; the next files are not even written until then."""
    both = [asyncio.create_task(following.read_again(partial(done.append, name))) for name in ("rules", "list")]
    for _ in range(20):
        await asyncio.sleep(0)
    assert done == ["rules", "told"]
    busy.may.set()
    await asyncio.gather(*both)
    assert done == [*("rules", "told", "acknowledged", "acknowledged"), *("list", "told", "acknowledged", "acknowledged")]


async def test_without_a_connection_it_is_given_time(
    following: Following, busy: Busy, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing shows when it has read; that keeps nobody from being told."""
    given: list[float] = []

    async def sleep(seconds: float) -> None:
        given.append(seconds)

    busy.away = True
    monkeypatch.setattr("broker.following.asyncio.sleep", sleep)
    await following.read_again(lambda: done.append("rules"))
    assert (done, given) == (["rules", "told"], [1.0])


async def test_what_can_not_be_written_is_not_told(following: Following, busy: Busy, done: list[str]) -> None:
    """And the next is."""

    def write() -> None:
        raise OSError("disk full")

    busy.may.set()
    with pytest.raises(OSError, match="disk full"):
        await following.read_again(write)
    assert done == []
    await following.read_again(lambda: done.append("rules"))
    assert done[:2] == ["rules", "told"]


class Cut(Busy):
    """A session that shows who is cut, and hears nothing."""

    async def __aenter__(self) -> "Cut":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def subscribe(self, *filters: str) -> None:
        pass

    async def connected(self) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Received]:
        await asyncio.Event().wait()
        yield  # type: ignore[misc]

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        await super().publish(topic, payload, qos)
        self._done.extend(command["username"] for command in json.loads(payload).get("commands", ()) if "username" in command)


async def test_who_was_to_be_cut_is_cut_by_the_next(make: Callable[[object], Following], done: list[str]) -> None:
    """One that is ended amid a cut has kept the list, which is no news to the next; so it has kept who was to be cut, too."""
    ended = make(Busy(done))
    for part in parts_of(RevocationList(1, (Revoked("a1", "host-a"), Revoked("b2", "host-b")), "a CRL")):
        ended._follower.take(part)
    cancelled = [task for task in ended._tasks if task.cancel()]
    await asyncio.gather(*cancelled, return_exceptions=True)
    assert cancelled and done == []
    session = Cut(done)
    session.may.set()
    following = make(session)
    assert following.restore().number == 1
    running = asyncio.create_task(following.run())
    await until(lambda: not following._tasks and {"host-a", "host-b"} <= set(done))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    again = make(Cut(done))
    again.restore()
    assert not again._uncut

"""Mosquitto forgets a SIGHUP that comes while it reads for the one before, so it is told once at a time (`broker.following`).

It takes two within less than a millisecond, which no test makes happen each time; so what is tested is that they never are so close.
"""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from broker.acl import BROKER
from broker.client import NotConnected, Settings
from broker.following import Following
from broker.mosquitto_files import Files
from broker.topics import Topics
from tests.broker.certificates import CertFactory


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
def following(certs: CertFactory, tmp_path: Path, done: list[str], busy: Busy, monkeypatch: pytest.MonkeyPatch) -> Following:
    async def reload() -> None:
        done.append("told")

    settings = Settings.from_url("mqtts://127.0.0.1:1", BROKER, certs.directory, Topics())
    following = Following(settings, Topics(), Files(certs.directory, tmp_path), reload)
    monkeypatch.setattr(following, "_session", busy)
    return following


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

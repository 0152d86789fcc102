"""Connections that are only held open: what they cost, when they end, and that who has something to say gets in."""

import asyncio
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.acl import Class
from broker.embedded import EmbeddedBroker
from broker.limits import Limits
from broker.refusals import SHOWN, Refusals
from tests.broker.certificates import CertFactory
from tests.broker.test_broker_process import port_of, started
from tests.broker.wire import Wire, until

Make = Callable[..., Wire]


async def strangers(broker: EmbeddedBroker, count: int, said: bytes = b"") -> list[Wire]:
    """Sockets without TLS that say so much and then nothing, all accepted in their order and heard by the broker, unless that has stopped
    accepting. At once: the places of those who have spoken are had for a short time only."""
    lobby, made = broker.guard._lobby, list[Wire]()
    accepted = broker.guard.counters.refused + _standing(broker) + count
    for _ in range(count):
        made.append(await Wire("127.0.0.1", broker.port, None).open())
        made[-1].send(said)
    await until(lambda: lobby._paused or broker.guard.counters.refused + _standing(broker) >= accepted)
    await until(lambda: lobby._paused or not said or not lobby._silent)
    return made


def _standing(broker: EmbeddedBroker) -> int:
    lobby = broker.guard._lobby
    return len(lobby._silent) + len(lobby._spoken) + len(lobby._places)


class TestTheSilent:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connect_s=60.0, unauthenticated=1)

    async def test_they_take_no_place(self, broker: EmbeddedBroker, wire: Make) -> None:
        """Fifty sockets that say nothing for a minute, one place for TLS: a device gets in all the same."""
        silent = await strangers(broker, 50)
        assert await wire("host-a").connect("host-a") == 0
        assert len(broker.guard._lobby._silent) == 50
        for each in silent:
            await each.abort()

    async def test_who_goes_without_a_word_is_forgotten_at_once(self, broker: EmbeddedBroker) -> None:
        """A port scan leaves nothing, neither a place nor a line in the log."""
        for each in await strangers(broker, 10):
            await each.abort()
        await until(lambda: not broker.guard._lobby._silent)
        assert broker.guard.counters.refused == 0


class TestTooManySilent:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connect_s=60.0, lobby=5)

    async def test_the_oldest_goes_first(self, broker: EmbeddedBroker, wire: Make) -> None:
        """Eight, where five may stand: the first three are ended at once, and a device ends one more."""
        silent = await strangers(broker, 8)
        for each in silent[:3]:
            assert await each.closed(5.0)
        assert await wire("host-a").connect("host-a") == 0
        assert await silent[3].closed(5.0)
        assert broker.guard.counters.refused == 4
        for each in silent:
            await each.abort()


class TestWhoBeginsAndStops:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connect_s=60.0, crowded_s=0.7, unauthenticated=2)

    async def test_a_device_is_before_most_of_them(self, broker: EmbeddedBroker, wire: Make) -> None:
        """Forty begin TLS and stop; two have places for a minute each were they alone. The device that comes last is among the next."""
        stopped = await strangers(broker, 40, b"\x16")
        lobby = broker.guard._lobby
        assert len(lobby._spoken) > 30
        assert await wire("host-a").let_in("host-a") == 0
        assert len(lobby._spoken) > 20, "it waited for most of them"
        for each in stopped:
            await each.abort()

    async def test_the_one_who_has_waited_longest_is_not_forgotten(self, broker: EmbeddedBroker) -> None:
        """Every other turn is the oldest's: in a storm each gets in, however many come after."""
        stopped = await strangers(broker, 2, b"\x16")
        lobby = broker.guard._lobby
        await until(lambda: len(lobby._places) == 2)
        oldest = (await strangers(broker, 1, b"\x16"))[0]
        await until(lambda: len(lobby._spoken) == 1)
        place = lobby._spoken[0]
        newer = await strangers(broker, 10, b"\x16")
        await until(lambda: place not in lobby._spoken)
        assert len(lobby._spoken) >= 5
        for each in (*stopped, oldest, *newer):
            await each.abort()


class TestAllHaveSpoken:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connect_s=60.0, crowded_s=0.3, unauthenticated=1, lobby=3)

    async def test_further_ones_wait_to_be_accepted(self, broker: EmbeddedBroker, wire: Make) -> None:
        """Nobody who has spoken is ended for somebody who has not: accepting stops, and goes on."""
        stopped = await strangers(broker, 10, b"\x16")
        await until(lambda: broker.guard._lobby._paused)
        assert await wire("host-a").let_in("host-a") == 0
        await until(lambda: not broker.guard._lobby._paused)
        for each in stopped:
            await each.abort()


class TestConnect:
    async def test_a_connect_larger_than_any_is_refused_from_its_length_field(self, wire: Make) -> None:
        """16 KiB and one byte, announced by who is not known yet."""
        made = await wire("host-a").open()
        made.send(b"\x10\x81\x80\x01")
        assert await made.closed(2.0)


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
async def test_without_file_descriptors_the_silent_give_way(certs: CertFactory, tmp_path: Path) -> None:
    """A broker that may have some thirty more files, a hundred silent sockets: devices get in, and the log says it."""
    async with started(certs.directory, tmp_path, "--port", "0") as process:
        port = await port_of(process)
        held = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (held + 30, held + 30))
        silent = [await Wire("127.0.0.1", port, None).open() for _ in range(100)]
        device = Wire("127.0.0.1", port, certs.client_context("host-a", Class.DEVICE))
        assert await device.let_in("host-a") == 0
        await device.ping()
        for each in (*silent, device):
            await each.abort()
        process.terminate()
        _, said = await process.communicate()
    lines = [json.loads(line) for line in said.decode().splitlines()]
    assert any(line["message"] == "can't accept" for line in lines)
    assert not any("traceback" in line for line in lines)


async def test_refusals_are_said_up_to_a_number(caplog: pytest.LogCaptureFixture) -> None:
    """Some with their peer and reason, then how many more; the next window begins anew."""
    refusals = Refusals(window_s=0.05)
    for n in range(SHOWN + 7):
        refusals.note("192.0.2.1", str(n))
    await until(lambda: len(caplog.records) == SHOWN + 1)
    assert [vars(record).get("refused") for record in caplog.records] == [None] * SHOWN + [7]
    refusals.note("192.0.2.1", "again")
    refusals.close()
    await asyncio.sleep(0)
    assert vars(caplog.records[-1])["reason"] == "again"

"""The proxy is a network: what it lets through is what was sent, in order; a hole keeps, a reset resets."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tests.chaos.proxy import FINE, Proxy, Weather, loopback


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(4096):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass  # what a reset is
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[Proxy, int]]:
    """A proxy before an echoing server, and its port."""
    server = await asyncio.start_server(_echo, sock=loopback())
    proxy = Proxy(server.sockets[0].getsockname()[1], random.Random(1))
    listener = loopback()
    port: int = listener.getsockname()[1]
    await proxy.listen(listener)
    yield proxy, port
    await proxy.close()
    server.close()


@pytest.mark.parametrize("weather", [FINE, Weather(latency_s=(0.001, 0.01)), Weather(bytes_s=200_000)])
async def test_what_comes_through_is_what_was_sent(proxy: tuple[Proxy, int], weather: Weather) -> None:
    """However late and slow, not a byte is lost or out of order."""
    proxy[0].set(weather)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy[1])
    sent = random.Random(2).randbytes(50_000)
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent
    writer.close()


async def test_a_hole_keeps_everything_until_it_ends(proxy: tuple[Proxy, int]) -> None:
    """Nobody is told of it, and nothing is lost by it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy[1])
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    passed = proxy[0].passed
    proxy[0].set(Weather(hole=True))
    writer.write(b"after")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader.read(1)
    assert proxy[0].passed == passed and not reader.at_eof()
    proxy[0].set(FINE)
    assert await reader.readexactly(5) == b"after"
    writer.close()


async def test_a_reset_reaches_the_client(proxy: tuple[Proxy, int]) -> None:
    """As an error, not as an orderly end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy[1])
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    assert proxy[0].reset_some(1.0) == 1
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)


async def test_without_a_broker_the_client_is_not_kept_waiting() -> None:
    """As if it had connected to the broker itself."""
    proxy = Proxy(1, random.Random(1))
    listener = loopback()
    port = listener.getsockname()[1]
    await proxy.listen(listener)
    reader, _ = await asyncio.open_connection("127.0.0.1", port)
    try:
        assert await reader.read(1) == b""
    except ConnectionError:
        pass
    await proxy.close()

"""A database that refuses the password: away for everybody, and left in peace."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from inventory.db import REFUSED_PAUSE_S, Database
from inventory.errors import Unavailable

REFUSAL = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "fleetward"\0\0'
"""The fields of an ErrorResponse (PostgreSQL documentation, 55.8)."""


@dataclass
class Refusing:
    port: int = 0
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Whatever the first packet asks: no. (A request for TLS first, which is declined with `N`.)"""
        self.connections += 1
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        packet = await reader.readexactly(length - 4)
        if packet[:4] == struct.pack("!i", 80877103):
            writer.write(b"N")
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            await reader.readexactly(length - 4)
        writer.write(b"E" + struct.pack("!i", len(REFUSAL) + 4) + REFUSAL)
        writer.close()


@pytest.fixture
async def refusing() -> AsyncIterator[Refusing]:
    made = Refusing()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


async def test_a_wrong_password_is_no_storm_of_connections(refusing: Refusing) -> None:
    """A hundred tasks that all want a connection, again and again for two seconds: a few attempts, and words that say what is wrong."""
    db = await Database.open(f"postgresql://fleetward:wrong@127.0.0.1:{refusing.port}/fleetward", application="test", pool_size=10)
    until, said = time.monotonic() + 2 * REFUSED_PAUSE_S, set[str]()

    async def ask() -> None:
        while time.monotonic() < until:
            with pytest.raises(Unavailable) as refused:
                async with db.acquire():
                    pass
            said.add(refused.value.detail)
            with pytest.raises(Unavailable):
                await db.connect()
            await asyncio.sleep(0.01)

    await asyncio.gather(*(ask() for _ in range(100)))
    assert refusing.connections <= 12
    assert all("refuses us" in words and "password" in words for words in said)
    await db.close()

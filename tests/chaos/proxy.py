"""A TCP proxy between agents and broker that can be a bad network: slow, narrow, a black hole, or one that resets connections.

It forwards bytes as they are (TLS goes end to end), a pair of tasks a connection. What it does to them is `weather`, which may change at
any time and holds for both directions. In a black hole nothing passes and nothing is closed; what was sent comes through afterwards, as
after TCP's retransmissions.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Weather:
    """`latency_s`: lowest and highest delay of a chunk. `bytes_s`: of each connection and direction, 0 for no limit. `hole`: nothing
    passes."""

    latency_s: tuple[float, float] = (0.0, 0.0)
    bytes_s: int = 0
    hole: bool = False


FINE = Weather()


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter

    def reset(self) -> None:
        """RST to both ends (SO_LINGER with no time, socket(7))."""
        for writer in (self.client, self.broker):
            found = writer.get_extra_info("socket")
            if found is not None:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass(slots=True)
class Proxy:
    """Listens on the sockets that it is given and connects to `port` on the loopback."""

    port: int
    random: random.Random
    clock: Callable[[], float] = field(default_factory=lambda: asyncio.get_running_loop().time)
    weather: Weather = FINE
    passed: int = 0
    """Bytes forwarded so far."""
    _clear: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set[_Connection] = field(default_factory=set)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _servers: list[asyncio.Server] = field(default_factory=list)

    async def listen(self, listener: socket.socket) -> None:
        self._clear.set()
        self._servers.append(await asyncio.start_server(self._accept, sock=listener))

    def set(self, weather: Weather) -> None:
        self.weather = weather
        if weather.hole:
            self._clear.clear()
        else:
            self._clear.set()

    def reset_some(self, share: float) -> int:
        """Reset that share of the connections; how many."""
        chosen = [c for c in self._connections if self.random.random() < share]
        for connection in chosen:
            connection.reset()
        return len(chosen)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            away, to = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, to)
        self._connections.add(connection)
        for source, target in ((reader, to), (away, writer)):
            task = asyncio.create_task(self._pump(connection, source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, connection: _Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Each chunk with its delay, in order; the end of the stream is passed on like a chunk."""
        try:
            while chunk := await source.read(CHUNK):
                await self._pass(chunk, target)
            await self._clear.wait()
        except OSError:
            pass  # reset by one end: so is the other
        finally:
            target.close()
            self._connections.discard(connection)

    async def _pass(self, chunk: bytes, target: asyncio.StreamWriter) -> None:
        weather = self.weather
        pause = self.random.uniform(*weather.latency_s) + (len(chunk) / weather.bytes_s if weather.bytes_s else 0.0)
        if pause:
            await asyncio.sleep(pause)
        await self._clear.wait()
        target.write(chunk)
        self.passed += len(chunk)
        await target.drain()


def loopback(port: int = 0) -> socket.socket:
    """A socket that listens on the loopback."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    listener.setblocking(False)
    return listener

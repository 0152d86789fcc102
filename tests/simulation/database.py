"""The database server of a simulated world, and the connections that the product's code gets from it.

`SimulatedDatabase` stands where `inventory.db.Database` does. Statements are executed by their models; transactions are serial. What can
go wrong: the server is away, a connection ends before a commit or after it (the caller can't tell which), a transaction takes its time, a
killed process leaves one half done.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import asyncpg
from tortoise.exceptions import IntegrityError

from inventory.db import SQL, Tx
from inventory.errors import Unavailable
from inventory.kind import Kind
from tests.simulation import rows
from tests.simulation.clockwork import VirtualLoop, later
from tests.simulation.memory import Memory, Row, Touched
from tests.simulation.statements import MODELS, Model, Rows

AT_ONCE = 0.6
"""How often a statement takes no time that anything else could use: it costs nothing to simulate then."""
GONE = "the database can't be reached"

_READS = frozenset({SQL["host_lives"], SQL["placed_configs"]})
"""The last of what the managers for hosts and for placement read before they decide."""
_STALL: ContextVar[float] = ContextVar("stall", default=0.0)
"""How long the next transaction of a task takes to get to the server."""


@dataclass(eq=False)
class Process:
    """A simulated operating system process. `paused_until`: it is stopped (SIGSTOP) until then."""

    name: str
    alive: bool = True
    paused_until: float = 0.0
    pauses_with_keys_s: float = 0.0
    """The next time that it has claimed keys of the work queue it is stopped for so long, with these in its hands."""
    stalls_s: float = 0.0
    """The next time that a manager in it has read what its keys need, what it decides takes so long to get to the server."""


@dataclass
class Moods:
    """How the server treats transactions: seconds before each, and how often connections end around a commit."""

    delay_s: tuple[float, float] = (0.0, 0.003)
    slow: float = 0.0
    slow_s: tuple[float, float] = (0.5, 20.0)
    cut_before: float = 0.0
    cut_after: float = 0.0
    fine: bool = False
    """It is well from now on, and so is the way to it."""


@dataclass(frozen=True)
class Asked:
    """One entry of the record: a statement (or the write of a row) and what it gave, or the end of a transaction."""

    what: str
    args: tuple[Any, ...]
    now: datetime
    clock: datetime
    result: Rows | None = None


class Server:
    """`watch`: told of each commit, with the rows as they were before. `record`: filled where it is a list."""

    def __init__(self, loop: VirtualLoop, dice: Random) -> None:
        self.loop, self.dice = loop, dice
        self.memory = Memory(loop.wall)
        self.moods = Moods()
        self.up = True
        self.turn = asyncio.Lock()
        self.connections: dict[Connection, None] = {}
        self.locks: dict[int, Connection] = {}
        self.watch: list[Callable[[Touched, Connection], None]] = []
        self.began: Callable[[], object] = lambda: None
        self.record: list[Asked] | None = None
        self._models: dict[str, Model] = dict(MODELS)

    def model(self, sql: str) -> Model:
        model = self._models.get(sql)
        if model is None:
            model = rows.model_of(sql)
            if model is None:
                raise NotImplementedError(f"no model of this statement: {sql}")
            self._models[sql] = model
        return model

    def note(self, what: str, args: Sequence[Any] = (), result: Rows | None = None) -> None:
        if self.record is not None:
            self.record.append(Asked(what, tuple(args), self.memory.now, self.memory.clock(), result))

    def begin(self) -> None:
        self.memory.begin()
        self.began()
        self.note("BEGIN")

    def commit(self, connection: "Connection") -> None:
        self.note("COMMIT")
        written, notified = self.memory.commit()
        if written:
            for look in self.watch:
                look(written, connection)
        for channel, payload in notified:
            for each in [c for c in self.connections if channel in c.listeners]:
                later(self.dice.uniform(0.0, 0.01), each.hear, channel, payload)

    def undo(self) -> None:
        self.note("ROLLBACK")
        self.memory.undo()

    def crash(self, seconds: float) -> None:
        """Away for so long; what had not committed is gone, and so is each connection."""
        self.up = False
        for connection in list(self.connections):
            connection.end()
        later(seconds, self._back)

    def _back(self) -> None:
        self.up = True


class Connection:
    """Stands where an asyncpg connection does. `decided`: what a check wants to know of a transaction (see `checks`)."""

    def __init__(self, server: Server, process: Process) -> None:
        self._server, self.process = server, process
        self.open = True
        self.in_transaction = False
        self.listeners: dict[str, Callable[..., object]] = {}
        self.decided: Any = None
        self._ended: list[Callable[[Any], object]] = []
        server.connections[self] = None

    # --- statements ---

    async def fetch(self, sql: str, *args: Any) -> Rows:
        if sql == "SELECT pg_try_advisory_lock($1)":
            return [{"locked": self._lock(*args)}]
        if self.in_transaction:
            return self.run(sql, args)
        async with self._server.turn:
            self.check()
            self._server.begin()
            try:
                found = self.run(sql, args)
            except BaseException:
                self._server.undo()
                raise
            self._server.commit(self)
            return found

    async def fetchrow(self, sql: str, *args: Any) -> Row | None:
        found = await self.fetch(sql, *args)
        return found[0] if found else None

    async def fetchval(self, sql: str, *args: Any) -> Any:
        found = await self.fetch(sql, *args)
        return next(iter(found[0].values())) if found else None

    async def execute(self, sql: str, *args: Any) -> None:
        await self.fetch(sql, *args)

    def run(self, sql: str, args: Sequence[Any]) -> Rows:
        self.check()
        found = self._server.model(sql)(self._server.memory, *args)
        self._server.note(sql, args, found)
        if found and self.process.pauses_with_keys_s and sql == SQL["claim_work"]:
            self.process.paused_until = self._server.loop.now + self.process.pauses_with_keys_s
            self.process.pauses_with_keys_s = 0.0
        if self.process.stalls_s and sql in _READS:
            _STALL.set(self.process.stalls_s)
            self.process.stalls_s = 0.0
        return found

    def write_row(self, act: str, kind: Kind, id: str, values: Row) -> None:
        """What the store leaves to its object mapper: one row made, changed or dropped."""
        self.check()
        memory = self._server.memory
        match act:
            case "insert":
                try:
                    rows.insert_row(memory, kind, values)
                except (asyncpg.UniqueViolationError, asyncpg.ForeignKeyViolationError) as error:
                    raise IntegrityError(str(error)) from error
            case "update":
                rows.update_row(memory, kind, id, values)
            case _:
                rows.delete_row(memory, kind, id)
        self._server.note(act, (kind.name, id, dict(values)))

    def check(self) -> None:
        """Raises Unavailable."""
        if not (self.open and self._server.up and self.process.alive):
            raise Unavailable(GONE)

    # --- a connection of one's own ---

    async def add_listener(self, channel: str, hear: Callable[..., object]) -> None:
        self.check()
        self.listeners[channel] = hear

    def add_termination_listener(self, ended: Callable[[Any], object]) -> None:
        self._ended.append(ended)

    def hear(self, channel: str, payload: str) -> None:
        if self.open and self.process.alive:
            self.listeners[channel](self, 0, channel, payload)

    def is_closed(self) -> bool:
        return not self.open

    def terminate(self) -> None:
        self.end()

    def end(self) -> None:
        if not self.open:
            return
        self.open = False
        self._server.connections.pop(self, None)
        self._server.locks = {lock: holder for lock, holder in self._server.locks.items() if holder is not self}
        for ended in self._ended:
            self._server.loop.call_soon(ended, self)

    def _lock(self, number: int) -> bool:
        self.check()
        return self._server.locks.setdefault(number, self) is self


@dataclass
class SimulatedDatabase:
    """Stands where `inventory.db.Database` does, for one process."""

    server: Server
    process: Process
    url: str = "postgresql://simulated"
    own: list[Connection] = field(default_factory=list)

    async def close(self) -> None:
        for connection in self.own:
            connection.end()

    @contextmanager
    def may_be_away(self) -> Iterator[None]:
        """Connections here say so themselves."""
        yield

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        await self._wait()
        connection = Connection(self.server, self.process)
        try:
            connection.check()
            yield connection
        finally:
            connection.end()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        await self._wait()
        connection = Connection(self.server, self.process)
        try:
            async with self.server.turn:
                connection.check()
                self.server.begin()
                connection.in_transaction = True
                try:
                    yield Tx(connection, None)  # type: ignore[arg-type]
                    await self._on_the_way(self.server.moods.cut_before)
                    connection.check()
                except BaseException:
                    self.server.undo()
                    raise
                self.server.commit(connection)
                connection.in_transaction = False
            await self._on_the_way(self.server.moods.cut_after)
        finally:
            connection.end()

    async def connect(self) -> Connection:
        await self._wait()
        connection = Connection(self.server, self.process)
        connection.check()
        self.own.append(connection)
        return connection

    async def _wait(self) -> None:
        """The way to the server; a stopped process does not get there before it goes on."""
        dice, moods, loop = self.server.dice, self.server.moods, self.server.loop
        if stall := _STALL.get():
            _STALL.set(0.0)
            await self._held_up(stall)
        fate = dice.random()
        if fate < moods.slow:
            await self._held_up(dice.uniform(*moods.slow_s))
        elif fate > AT_ONCE:
            await asyncio.sleep(dice.uniform(*moods.delay_s))
        while (left := self.process.paused_until - loop.now) > 0:
            await asyncio.sleep(min(1.0, left) + 0.001)

    async def _held_up(self, seconds: float) -> None:
        """For so long, but no longer than until the server is fine again."""
        end = self.server.loop.now + seconds
        while (left := end - self.server.loop.now) > 0 and not self.server.moods.fine:
            await asyncio.sleep(min(1.0, left))

    async def _on_the_way(self, risk: float) -> None:
        """Around a commit: the process may be killed here, and the connection may end."""
        if risk and self.server.dice.random() < risk:
            await asyncio.sleep(self.server.dice.uniform(0.0, 0.5))
            raise Unavailable(GONE)
        if self.server.dice.random() < 0.05:
            await asyncio.sleep(self.server.dice.uniform(0.0, 0.05))

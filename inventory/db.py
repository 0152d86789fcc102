"""The database: one pool a process, transactions that Tortoise and named SQL share, and migrations.

The only module that knows how Tortoise and asyncpg are connected. Connection failures leave here as `Unavailable`; everything else is
the caller's to handle. Who calls it: the rest of `inventory`, and the entry points that open a `Database`.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import msgspec
from tortoise.backends.asyncpg.client import AsyncpgDBClient, TransactionWrapper
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import TortoiseContext, _current_context
from tortoise.exceptions import DBConnectionError
from tortoise.migrations.executor import MigrationExecutor

from inventory.errors import Unavailable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection
Row = Mapping[str, Any]

APP = "inventory"
MIGRATION_LOCK = 0x666C7764_0001
"""Advisory lock keys are 64-bit numbers; ours begin with the letters `flwd`."""

CONNECT_S = 5.0
"""For one connection to be made, in seconds: a server that accepts and does not answer is away too."""
COMMAND_S = 120.0
"""For one statement, in seconds: beyond what the longest needs, and short of for ever where the network swallows everything."""
ACQUIRE_S = 15.0
"""For a connection of the pool to be free, in seconds: whoever waits longer is better told to come back."""
CLOSE_S = 1.0
"""For the pool's connections to be given back, in seconds."""

GONE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a rollback on a connection that has just been cut ends in
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.DiskFullError,
    asyncpg.PostgresIOError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby that is not promoted yet
    asyncpg.FeatureNotSupportedError,  # likewise, asked for an unlogged table
)
"""What asyncpg raises when the database is away, starting, stopping, full up or not to be written: none of it is the fault of who asks."""

REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError, DBConnectionError)
"""It is there and refuses us: a wrong password, user or name. For whoever asks it is away as well, until somebody corrects that; taken for
the fault of a message or a key, it would be tried again for each of them."""
REFUSED_PAUSE_S = 1.0
"""Nobody connects for so long after that, in seconds: a process with a wrong password is a line a second in the database's log, and not
thousands of connections."""

log = logging.getLogger(__name__)

_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = msgspec.json.Decoder()


def dumps(value: Any) -> str:
    """JSON text for a `::jsonb` parameter."""
    return _encoder.encode(value).decode()


def loads(text: str | None) -> Any:
    """What a JSONB column holds; asyncpg hands it over as text."""
    return None if text is None else _decoder.decode(text)


def _load_queries() -> Mapping[str, str]:
    """The statements of queries.sql by name. Each begins with a line `-- name: NAME`."""
    text = files(APP).joinpath("queries.sql").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for name, statement in re.findall(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", text, re.DOTALL | re.MULTILINE):
        if name in found:
            raise ValueError(f"queries.sql: {name} is there twice")
        found[name] = statement.strip().rstrip(";")
    return found


SQL = _load_queries()


class _Pooled(Connection):
    """Goes back to the pool without being reset, which would be a round trip for each use: nothing here changes a session (what listens or
    holds a session lock has a connection of its own)."""

    def get_reset_query(self) -> str:
        return ""


def _credentials(url: str, application: str, pool_size: int) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError(f"the database URL must begin with postgresql://, not {parts.scheme or 'nothing'}://")
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    host = query.pop("host", None) or parts.hostname or "127.0.0.1"
    return {
        "host": host,
        "port": int(query.pop("port", 0)) or parts.port or 5432,
        "user": unquote(parts.username or "") or query.pop("user", None),
        "password": unquote(parts.password) if parts.password else None,
        "database": parts.path.lstrip("/"),
        "minsize": 1,
        "maxsize": pool_size,
        "application_name": application,
        "max_inactive_connection_lifetime": 300,
        "timeout": CONNECT_S,
        "command_timeout": COMMAND_S,
        "connection_class": _Pooled,
        "server_settings": {"synchronous_commit": "on", "timezone": "UTC"},
        **({"ssl": query["sslmode"]} if "sslmode" in query else {}),
    }


def _config(url: str, application: str, pool_size: int) -> dict[str, Any]:
    return {
        "connections": {"default": {"engine": "tortoise.backends.asyncpg", "credentials": _credentials(url, application, pool_size)}},
        "apps": {APP: {"models": ["inventory.models"], "default_connection": "default", "migrations": "inventory.migrations"}},
        "use_tz": True,
        "timezone": "UTC",
    }


@dataclass(frozen=True, slots=True)
class Tx:
    """An open transaction: `raw` for named SQL, `client` for Tortoise's `using_db`. Both are the same connection."""

    raw: Connection
    client: BaseDBAsyncClient

    async def lazily(self) -> None:
        """Let the commit return before it is on disk. A crash of the database may then undo it, whole, with everything committed after
        it and nothing before: for what is done again by itself, and what nobody outside can have seen by then."""
        await self.raw.execute("SET LOCAL synchronous_commit = off")


class Database:
    """A pool of connections. Opening does not connect; the first use does, so that a service can start before its database."""

    def __init__(self, context: TortoiseContext, url: str) -> None:
        self._context = context
        self._client = cast(AsyncpgDBClient, context.connections.get("default"))
        self._opening = asyncio.Lock()
        self._refused_until = 0.0
        self._refusal = ""
        self.url = url

    @classmethod
    async def open(cls, url: str, *, application: str, pool_size: int = 8) -> "Database":
        """Raises ValueError for a URL that is none of PostgreSQL."""
        context = TortoiseContext()
        with context:
            await context.init(config=_config(url, application, pool_size))
        return cls(context, url)

    async def close(self) -> None:
        """A connection still in use, or not answering, is dropped after CLOSE_S: the pool does that when its close is cancelled."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._context.connections.close_all()
        except TimeoutError:
            log.warning("connections were dropped, not given back", extra={"seconds": CLOSE_S})

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Commits at the end, rolls back on any exception. Raises Unavailable when the database can't be reached, or is lost on the way:
        then whether a commit took place is unknown to the caller."""
        async with self.acquire() as raw, raw.transaction():
            # Tortoise's own context manager leaks its connection when BEGIN fails, as it does after a restart of the database.
            client = TransactionWrapper(self._client)
            client._connection = raw
            token = _current_context.set(self._context)
            try:
                yield Tx(raw, client)
            finally:
                _current_context.reset(token)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection without a transaction, for reads. Raises Unavailable as `transaction` does."""
        with self.may_be_away():
            async with (await self._pool()).acquire(timeout=ACQUIRE_S) as connection:
                yield cast(Connection, connection)

    @contextmanager
    def may_be_away(self) -> Iterator[None]:
        """For what is asked of a connection of one's own (`connect`). Raises Unavailable as `transaction` does."""
        try:
            yield
        except GONE as error:
            raise Unavailable(f"the database can't be reached: {type(error).__name__}") from error
        except REFUSED as error:
            raise self._refuse(error) from error

    def _check_refused(self, pool: "asyncpg.Pool[asyncpg.Record] | None" = None) -> None:
        """Raises Unavailable where connecting was refused just now and is needed."""
        if time.monotonic() < self._refused_until and (pool is None or not pool.get_idle_size()):
            raise Unavailable(self._refusal)

    def _refuse(self, error: Exception) -> Unavailable:
        self._refused_until = time.monotonic() + REFUSED_PAUSE_S
        self._refusal = f"the database refuses us ({error}): check the database's URL, with its user and password"
        return Unavailable(self._refusal)

    async def _pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._opening:
            self._check_refused(self._client._pool)
            if self._client._pool is None:
                await self._client.create_connection(with_db=True)
        return cast("asyncpg.Pool[asyncpg.Record]", self._client._pool)

    async def connect(self) -> Connection:
        """A connection of its own, outside the pool, for LISTEN and session locks. The caller closes it, and asks of it within
        `may_be_away`: it is lost as easily as any. Raises Unavailable."""
        credentials = _credentials(self.url, "fleetward-listen", 1)
        wanted = ("host", "port", "user", "password", "database", "server_settings", "ssl", "timeout")
        self._check_refused()
        with self.may_be_away():
            return await asyncpg.connect(**{key: credentials[key] for key in wanted if key in credentials})


async def migrate(url: str) -> None:
    """Bring the schema up to date. Many may call it at once: one does it, the others wait and find nothing to do."""
    db = await Database.open(url, application="fleetward-migrate", pool_size=2)
    lock = None
    try:
        lock = await db.connect()
        await lock.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
        with db._context:
            await MigrationExecutor(db._context.db(), _config(url, "", 2)["apps"]).migrate()
    finally:
        if lock is not None:
            await lock.close()
        await db.close()

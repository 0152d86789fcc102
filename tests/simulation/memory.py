"""The database of a simulated world: tables of rows, sequences, transactions that can be undone, and nothing of SQL.

What each statement of the product does to these tables stands in `statements` (the named ones) and `rows` (the ones that are built).
Transactions are serial: each runs as if it were alone, which is one of the orders that Postgres may choose. A replay on a real Postgres
(`test_statements`) holds the models against the real statements.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

Row = dict[str, Any]
Key = Any

TABLES = (
    "host",
    "config",
    "host_config",
    "command",
    "notification",
    "component",
    "host_labels",
    "host_facts",
    "device_liveness",
    "device_stream",
    "device_identity",
    "device_trust",
    "device_log",
    "poison",
    "work",
    "cursors",
    "relay",
    "changes_in",
    "changes",
    "ingest_lease",
    "ingest_replica",
    "log_gaps",
    "strays",
)


class Table:
    """Rows by key, iterated in the order of their keys where that matters to the caller."""

    def __init__(self, name: str, memory: "Memory") -> None:
        self.name = name
        self.rows: dict[Key, Row] = {}
        self._memory = memory

    def get(self, key: Key) -> Row | None:
        return self.rows.get(key)

    def put(self, key: Key, row: Row) -> None:
        self._memory.touch(self, key)
        self.rows[key] = row

    def change(self, key: Key, **values: Any) -> Row:
        """Another row in its place."""
        row = {**self.rows[key], **values}
        self.put(key, row)
        return row

    def drop(self, key: Key) -> None:
        if key in self.rows:
            self._memory.touch(self, key)
            del self.rows[key]

    def of(self, keys: Iterable[Key]) -> Iterator[Row]:
        """Those of the keys that exist, in their order."""
        for key in sorted(set(keys)):
            row = self.rows.get(key)
            if row is not None:
                yield row


Touched = dict[tuple[str, Key], Row | None]
"""The rows that a transaction has written, as they were before."""


class Memory:
    """`clock`: the database server's. `written`: what the transaction under way has touched."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.now = clock()
        """`now()` of the transaction under way."""
        self.tables = {name: Table(name, self) for name in TABLES}
        self.written: Touched = {}
        self.notified: list[tuple[str, str]] = []
        self._sequences: dict[str, int] = {}

    def __getitem__(self, name: str) -> Table:
        return self.tables[name]

    def next(self, sequence: str) -> int:
        """Never given back, also where its transaction is undone."""
        number = self._sequences.get(sequence, 0) + 1
        self._sequences[sequence] = number
        return number

    def touch(self, table: Table, key: Key) -> None:
        self.written.setdefault((table.name, key), table.rows.get(key))

    def begin(self) -> None:
        self.now = self.clock()
        self.written = {}
        self.notified = []

    def commit(self) -> tuple[Touched, list[tuple[str, str]]]:
        """What was written, and who is notified."""
        done = self.written, self.notified
        self.written, self.notified = {}, []
        return done

    def undo(self) -> None:
        for (table, key), before in self.written.items():
            if before is None:
                self.tables[table].rows.pop(key, None)
            else:
                self.tables[table].rows[key] = before
        self.written, self.notified = {}, []

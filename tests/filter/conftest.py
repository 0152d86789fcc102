"""A kind with a field of each scalar and its table, for the tests of filters and paging: independent of the real kinds."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from inventory.kind import USER, Field, Kind, Nature, Reference, Scalar, States

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)

GADGET = Kind(
    name="gadget",
    collection="gadgets",
    prefix="gad",
    nature=Nature.MIXED,
    doc="A thing to filter.",
    creators=frozenset({USER}),
    manager="gadgets",
    states=States(desired=("on", "off"), current=("unknown", "on", "off"), initial_current="unknown"),
    own_fields=(
        Field(name="site", annotation=str, scalar=Scalar.TEXT, owner=USER, doc="Where.", reference=Reference("site"), selectable=True),
        Field(name="model", annotation=str, scalar=Scalar.TEXT, owner=USER, doc="Which.", selectable=True),
        Field(name="cores", annotation=int, scalar=Scalar.INTEGER, owner=USER, doc="How many.", selectable=True),
        Field(name="ratio", annotation=float, scalar=Scalar.NUMBER, owner=USER, doc="How much."),
        Field(name="present", annotation=bool, scalar=Scalar.BOOLEAN, owner=USER, doc="Whether."),
        Field(name="seen", annotation=datetime, scalar=Scalar.TIME, owner=USER, doc="When.", restless=True),
        Field(name="made", annotation=datetime, scalar=Scalar.TIME, owner=USER, doc="When built.", selectable=True),
        Field(name="tags", annotation=list[str], scalar=Scalar.JSON, owner=USER, doc="Words."),
        Field(name="blob", annotation=dict[str, Any], scalar=Scalar.JSON, owner=USER, doc="Anything."),
        Field(name="twice", annotation=int, scalar=Scalar.INTEGER, owner=USER, doc="Twice the cores.", computed=True, column="r.cores * 2"),
        Field(name="inner", annotation=str, scalar=Scalar.TEXT, owner=USER, doc="Not shown.", hidden=True),
        Field(name="bulk", annotation=dict[str, Any], scalar=Scalar.JSON, owner=USER, doc="Only alone.", single_only=True),
    ),
)

SCHEMA = """
CREATE TABLE site (id varchar(64) PRIMARY KEY, name varchar(253) NOT NULL UNIQUE);
CREATE TABLE gadget (
    id varchar(64) PRIMARY KEY, name varchar(253) NOT NULL UNIQUE, title varchar(256) NOT NULL DEFAULT '',
    labels jsonb NOT NULL DEFAULT '{}',
    version bigint NOT NULL DEFAULT 1, generation bigint NOT NULL DEFAULT 1, observed_generation bigint, desired_state varchar(32),
    current_state varchar(32), status jsonb, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz, site varchar(64), model text, cores int, ratio double precision, present boolean, seen timestamptz,
    made timestamptz, tags jsonb, blob jsonb, bulk jsonb, "inner" text
);
INSERT INTO site VALUES ('site-1', 'berlin'), ('site-2', 'bern'), ('site-3', 'hamburg');
"""


@dataclass
class Database:
    """A connection with the gadgets' tables, and the loop it lives on: for tests that Hypothesis calls, which can't be coroutines."""

    connection: "asyncpg.Connection[asyncpg.Record]"
    runner: asyncio.Runner

    def fetch(self, sql: str, *params: Any) -> "list[asyncpg.Record]":
        return self.runner.run(self.connection.fetch(sql, *params))

    def execute(self, sql: str, *params: Any) -> None:
        self.runner.run(self.connection.execute(sql, *params))

    def insert(self, rows: list[dict[str, Any]]) -> None:
        """Insert gadgets; lists and dicts as JSON."""
        for row in rows:
            names = ", ".join(f'"{name}"' for name in row)
            values = [json.dumps(v) if isinstance(v, dict | list) else v for v in row.values()]
            numbers = ", ".join(f"${n}" for n in range(1, len(row) + 1))
            self.execute(f"INSERT INTO gadget ({names}) VALUES ({numbers})", *values)


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """The gadgets' tables in an empty database."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(postgres_url))
        runner.run(connection.execute(SCHEMA))
        try:
            yield Database(connection, runner)
        finally:
            runner.run(connection.close())


@pytest.fixture
def gadget() -> Kind:
    """The kind under test."""
    return GADGET


@pytest.fixture
def now() -> datetime:
    """The clock of the tests."""
    return NOW

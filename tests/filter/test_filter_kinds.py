"""Every path of every real kind against the migrated schema: what compiles also runs, in filters, in orders and across pages."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import asyncpg
import pytest

from inventory.columns import paths, resolve
from inventory.db import migrate
from inventory.filter import EVERYTHING, FilterError, compile_filter, compile_order
from inventory.kind import Kind, Scalar
from inventory.kinds import KINDS
from inventory.listing import ListQuery, PageQuery, page_query

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
VALUES = {Scalar.TEXT: "x", Scalar.INTEGER: "1", Scalar.NUMBER: "1.5", Scalar.BOOLEAN: "true", Scalar.TIME: "15m"}
KEYS = {Scalar.TEXT: "x", Scalar.INTEGER: 1, Scalar.NUMBER: 1.5, Scalar.BOOLEAN: True, Scalar.TIME: NOW}


class Migrated:
    """A connection to a database with the real schema, and the loop it lives on."""

    def __init__(self, runner: asyncio.Runner, url: str) -> None:
        self.runner = runner
        runner.run(migrate(url))
        self.connection: asyncpg.Connection[asyncpg.Record] = runner.run(asyncpg.connect(url))

    def run(self, sql: str, *params: object) -> None:
        self.runner.run(self.connection.fetch(sql, *params))


@pytest.fixture
def migrated(postgres_url: str) -> Iterator[Migrated]:
    """The real schema, empty."""
    with asyncio.Runner() as runner:
        database = Migrated(runner, postgres_url)
        yield database
        runner.run(database.connection.close())


def filters_of(kind: Kind) -> Iterator[str]:
    """For each path, each thing that can be asked of its scalar."""
    for path in [*paths(kind), "labels.line"]:
        column = resolve(kind, path, 1)
        yield from (f"{path}:*", f"{path} = null", f"NOT {path} != null")
        if column.scalar in VALUES:
            value = column.field.choices[0] if column.field.choices else VALUES[column.scalar]
            ordered = () if column.field.choices or column.field.reference or column.scalar is Scalar.BOOLEAN else ("<", ">=")
            yield from (f"{path} {operator} {value}" for operator in ("=", "!=", ":", *ordered))
        if column.scalar is Scalar.TEXT:
            yield f"{path} = {column.field.choices[0] if column.field.choices else 'x'}*"
    yield from ("press", "labels:line")


def test_every_filter_runs(migrated: Migrated) -> None:
    """PostgreSQL accepts every filter that a kind's fields allow, with the kind's own table and joins."""
    for kind in KINDS:
        for text in filters_of(kind):
            predicate = compile_filter(kind, text, now=NOW)
            migrated.run(f"SELECT r.id FROM {kind.table} r {kind.joins} WHERE {predicate.sql}", *predicate.params)


def test_every_order_runs(migrated: Migrated) -> None:
    """PostgreSQL accepts each sortable path as the key of a first and of a later page, both ways."""
    for kind in KINDS:
        tried = 0
        for path in [*paths(kind), "labels.line"]:
            if resolve(kind, path, 1).scalar not in VALUES:
                with pytest.raises(FilterError):
                    compile_order(kind, path)
                continue
            second = "name" if path == "version" else "version"
            for order_by in (path, f"{path} desc", f"{path} desc, {second}"):
                run_pages(migrated, kind, order_by)
                tried += 1
        assert tried > 20


def run_pages(migrated: Migrated, kind: Kind, order_by: str) -> None:
    order = compile_order(kind, order_by)
    tables = f"{kind.table} r {kind.joins}"
    first = page_query(kind, EVERYTHING, order, ListQuery(), select="r.*", source=tables)
    migrated.run(first.sql, *first.params)
    row = {f"page_key_{number}": KEYS[key.scalar] for number, key in enumerate(order.keys)}
    token = PageQuery("", (), order, 1, first.digest).split([row, row])[1]
    second = page_query(kind, EVERYTHING, order, ListQuery(page_token=token), select="r.*", source=tables)
    migrated.run(second.sql, *second.params)

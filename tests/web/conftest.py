"""Fixtures of the web tests: a site of one's own, and clients signed in to it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.web.site_under_test import Site, people, running
from web import throttle


@pytest.fixture(scope="session")
def peopled(databases: Any, migrated: str) -> str:
    """The name of a database with schema and accounts, to copy from: argon2 is slow on purpose."""
    name: str = databases.create(migrated)
    asyncio.run(people(databases.url(name)))
    return name


@pytest.fixture
def web_url(databases: Any, peopled: str) -> Iterator[str]:
    """The URL of a database with schema and accounts, for this test alone."""
    name: str = databases.create(peopled)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
def site(web_url: str) -> Iterator[Site]:
    """A site of this test's own."""
    with running(web_url) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    """The administrator's client of it."""
    with site.client() as found:
        yield found


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who fails too often to sign in waits for minutes: one second is over, on a busy machine, before the next attempt is made."""
    monkeypatch.setattr(throttle, "FIRST_S", 100.0)

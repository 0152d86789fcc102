"""The seeded site that the pages' tests look at, and a real Chromium to look at it with.

One site for all tests of a module, which leave alone what the others look at; a browser context of its own for each test.
What a page logs to the console, and whatever its content security policy refused, fails the test that looked at it.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright

from inventory import integrations, vault_keys
from inventory.authority import Authority
from inventory.db import Database
from tests.conftest import Databases
from tests.inventory_wire.installation import new_key, request
from tests.pages.seed import Seeded, Seeder, seed
from tests.web.site_under_test import PASSWORD, Site, people, running

T = TypeVar("T")

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_S = 60.0
"""Playwright waits by the clock on the wall, 5 s for what is expected: a busy machine takes longer over a page, and nothing is broken."""
expect.set_options(timeout=PATIENCE_S * 1000)
ARGUMENTS = [
    *("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-gpu", "--disable-extensions", "--disable-default-apps", "--mute-audio"),
]
EXPECTED_STATUSES = ("status of 403", "status of 404", "status of 409", "status of 412", "status of 422")
"""What a form that was refused makes the browser log; a page that was refused is what such a test is about."""
LEFT_BEHIND = ("htmx:sendAbort", "htmx:afterRequest")
"""What htmx logs of a request that was under way when its page was left."""


@dataclass
class Fleet:
    """The site, what was put into it, and a way to change it as managers and devices do."""

    site: Site
    made: Seeded
    loop: asyncio.AbstractEventLoop
    db: Database
    authority: Authority
    at: Seeder = field(init=False)

    def __post_init__(self) -> None:
        self.at = Seeder(self.db, datetime.now(UTC))
        self.at.made = self.made

    def run(self, work: Awaitable[T]) -> T:
        async def whole() -> T:
            return await work

        found: Future[T] = asyncio.run_coroutine_threadsafe(_coroutine(whole()), self.loop)
        return found.result(PATIENCE_S)

    def let_in(self, name: str, write: str) -> None:
        """Another program."""
        asked = {"name": name, "write": write, "csr": request(new_key(), name)}
        self.run(integrations.create(self.db, self.authority, asked, broker=("broker.example", 8883), now=datetime.now(UTC)))


def _coroutine(work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    return work


@pytest.fixture(scope="session")
def seeded(databases: Databases, migrated: str) -> tuple[str, Seeded]:
    """The name of a database with accounts and the seed, to copy from, and what is in it."""
    name = databases.create(migrated)
    asyncio.run(people(databases.url(name)))
    return name, asyncio.run(seed(databases.url(name)))


@pytest.fixture(scope="module")
def fleet(databases: Databases, seeded: tuple[str, Seeded], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The seeded site of this module."""
    secrets = tmp_path_factory.mktemp("secrets")
    (secrets / "session.key").write_bytes(b"k" * 32)
    Authority(secrets).bootstrap()
    template, made = seeded
    name = databases.create(template)
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="seed")
    thread.start()
    try:
        with running(databases.url(name), secrets=secrets) as site:
            opening = Database.open(site.database, application="test-pages", pool_size=2)
            db = asyncio.run_coroutine_threadsafe(opening, loop).result(PATIENCE_S)
            found = Fleet(site, made, loop, db, Authority(secrets))
            found.let_in("mes", "unsigned")
            found.run(vault_keys.ensure(db, secrets, datetime.now(UTC)))
            yield found
            asyncio.run_coroutine_threadsafe(db.close(), loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()
        databases.drop(name)


@pytest.fixture(scope="module")
def browser(fleet: Fleet) -> Iterator[Browser]:
    """Chromium, without a window. It comes after the site: where Playwright runs, `asyncio.run` can't, so that it ends with the module."""
    if not CHROMIUM.exists():
        message = f"{CHROMIUM} is not there: install the package chromium"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    playwright: Playwright
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS, timeout=2 * PATIENCE_S * 1000)
        yield found
        found.close()


class Complaints(list[str]):
    """What the browser complained about; empty at the end of a test that went well."""

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.append(f"{page.url}: {error}"))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(words in message.text for words in EXPECTED_STATUSES + LEFT_BEHIND):
            self.append(f"{message.location.get('url')}: {message.text}")


@pytest.fixture(scope="module")
def cookies(browser: Browser, fleet: Fleet) -> list[Any]:
    """Of the administrator, signed in once by the form."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_S * 1000)
    page = context.new_page()
    page.goto(fleet.site.url + "/login")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(fleet.site.url + "/")
    found = context.cookies()
    context.close()
    return list(found)


Open = Callable[..., BrowserContext]


def _without_pictures(page: Page) -> None:
    """No test looks at them, and painting whole pages takes as long as everything else that is done with these."""
    page.screenshot = lambda **_: b""  # type: ignore[method-assign]


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    found = Complaints()
    yield found
    assert not found, "\n".join(found)


@pytest.fixture
def contexts(request: pytest.FixtureRequest, browser: Browser, fleet: Fleet, cookies: list[Any], complaints: Complaints) -> Iterator[Open]:
    """Makes signed-in browser contexts; options as Playwright's `new_context` takes them."""
    opened: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(base_url=fleet.site.url, **options)
        context.add_cookies(cookies)
        context.on("page", complaints.watch)
        if not request.config.getoption("--screenshots"):
            context.on("page", _without_pictures)
        context.set_default_timeout(PATIENCE_S * 1000)
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()


@pytest.fixture
def page(contexts: Open) -> Page:
    """A page of somebody who is signed in as the administrator."""
    return contexts(viewport={"width": 1440, "height": 900}).new_page()

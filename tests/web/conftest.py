"""Fixtures of the web tests: a site of one's own, and clients signed in to it."""

from collections.abc import Iterator

import httpx
import pytest

from tests.web.site_under_test import Site, running


@pytest.fixture
def site(inventory_url: str) -> Iterator[Site]:
    """A site of this test's own."""
    with running(inventory_url) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    """The administrator's client of it."""
    with site.client() as found:
        yield found

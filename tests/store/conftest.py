"""Who asks a store."""

import pytest

from inventory.actor import Actor


@pytest.fixture
def admin() -> Actor:
    return Actor.user("admin", "admin", "127.0.0.1")

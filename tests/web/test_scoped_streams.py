"""One answer for all streams of a scope, and no longer than it is fresh; and a stream ends with the scope that it began with."""

import asyncio
import gc
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

from inventory import accounts
from inventory.changes import Change
from inventory.db import Database
from inventory.seen import Seen
from tests.two_sides import SCOPE
from tests.web.site_under_test import PASSWORD, running
from web.scoped_streams import FRESH_S, Lens, Lenses


class _Even:
    """A scope that tells the even ones, twice, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def of(self, found: Sequence[Change]) -> list[Change]:
        await asyncio.sleep(0)
        self.asked += [change.position for change in found]
        return [change for change in found if change.position % 2 == 0 for _ in range(2)]


def _change(position: int) -> Change:
    return Change(position, "host", "host-a", "updated", position, 1, (), {}, {}, "host-a", {}, datetime.now(UTC))


async def test_streams_of_a_scope_ask_once() -> None:
    """However many ask at once and whatever portion each is at; after a second it is asked anew."""
    even, now = _Even(), [0.0]
    lens = Lens(cast(Seen, even), mono=lambda: now[0])
    now[0] = 10.0
    portions = [range(first, 8) for first in (1, 3, 5, 1)]
    told = await asyncio.gather(*(lens.of([_change(n) for n in portion]) for portion in portions))
    assert sorted(even.asked) == list(range(1, 8))
    assert [[change.position for change in each] for each in told] == [[2, 2, 4, 4, 6, 6], [4, 4, 6, 6], [6, 6], [2, 2, 4, 4, 6, 6]]
    now[0] += FRESH_S + 0.1
    await lens.of([_change(2)])
    assert even.asked[-1] == 2 and len(even.asked) == 8


def test_a_scope_is_kept_as_long_as_a_stream_has_it() -> None:
    """Scopes come from administrators, and still none stays behind."""
    lenses = Lenses(cast(Database, None))
    assert lenses.of("") is None
    held = lenses.of(SCOPE)
    assert lenses.of(SCOPE) is held
    del held
    gc.collect()
    assert not lenses._open


def test_a_stream_ends_when_the_scope_of_its_reader_is_another(web_url: str) -> None:
    """It would go on telling what they may no longer see; the next one begins with the scope of now."""
    asyncio.run(_add(web_url, "ann"))
    with running(web_url, stream_recheck_s=0.05) as site, site.client() as admin, site.client(None) as browser:
        assert admin.patch("/api/v1/users/ann", json={"scope": SCOPE}).json()["scope"] == SCOPE
        assert browser.post("/login", json={"username": "ann", "password": PASSWORD}).status_code == 200
        assert browser.get("/api/v1/whoami").json()["scope"] == SCOPE
        with browser.stream("GET", "/api/v1/events/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": connected"
            other = 'labels.side = "other"'
            assert admin.patch("/api/v1/users/ann", json={"scope": other}).status_code == 200
            assert [line for line in lines if line.startswith("data:")] == [], "it ends, and told nothing"
        assert browser.get("/api/v1/whoami").json()["scope"] == other
        refused = admin.patch("/api/v1/users/admin", json={"scope": SCOPE})
        assert refused.status_code == 409, "nobody else administers everything"


async def _add(url: str, name: str) -> None:
    db = await Database.open(url, application="test-ann", pool_size=1)
    await accounts.add_user(db, name, PASSWORD, "admin", datetime.now(UTC))
    await db.close()

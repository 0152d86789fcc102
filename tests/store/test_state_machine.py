"""The store and its change log as a state machine: whatever is written, by whomever, eight at a time, the log replayed gives the tables."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule, run_state_machine_as_test

from inventory.actor import Actor
from inventory.changes import Change, Relay, read
from inventory.db import Database
from inventory.errors import Conflict, InventoryError, NotFound
from inventory.kinds import BY_NAME
from inventory.store import Store
from tests.store.replaying import replay, tables
from tests.waiting import patience

ADMIN = Actor.user("admin", "admin")
CONFIG = Actor.manager("config")
LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("123"), max_size=2)
KINDS = st.sampled_from(["region", "site", "host", "config"])


async def refusable(act: Awaitable[Any]) -> Any:
    """A write that the rules may make impossible: refused for a reason, it must leave nothing behind."""
    try:
        return await act
    except (Conflict, NotFound, InventoryError) as refusal:
        assert refusal.status in (404, 409, 422)
        return None


class Machine(RuleBasedStateMachine):
    """`url` makes an empty database for each example."""

    url: Callable[[], str]
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.seen: list[Change] = []
        self.latest: dict[str, int] = {}

    def run(self, act: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(act)

    @initialize()
    def open(self) -> None:
        self.db: Database = self.run(Database.open(type(self).url(), application="machine", pool_size=10))
        self.store = Store(self.db)
        self.relay = Relay(self.db)

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.run(self.db.close())
        self.loop.close()

    def body(self, kind: str, labels: dict[str, str], above: str | None) -> dict[str, Any]:
        self.number += 1
        body: dict[str, Any] = {"name": f"n{self.number}", "labels": labels}
        match kind:
            case "region":
                return body | {"parent": above}
            case "site":
                return body | {"region": above}
            case "host":
                return body | {"site": above}
        return body | {"selector": ""}

    @rule(target=ids, kind=KINDS, labels=LABELS)
    def create(self, kind: str, labels: dict[str, str]) -> tuple[str, str]:
        made = self.run(self.store.create(kind, self.body(kind, labels, None), ADMIN))
        return kind, made["id"]

    @rule(target=ids, pair=st.sampled_from([("region", "region"), ("region", "site"), ("site", "host")]), above=ids, labels=LABELS)
    def create_below(self, pair: tuple[str, str], above: tuple[str, str], labels: dict[str, str]) -> tuple[str, str]:
        upper, kind = pair
        made = self.run(refusable(self.store.create(kind, self.body(kind, labels, above[1] if above[0] == upper else None), ADMIN)))
        return kind, made["id"] if made else "none"

    @rule(it=ids, labels=LABELS, title=st.sampled_from(["", "x"]))
    def patch(self, it: tuple[str, str], labels: dict[str, str], title: str) -> None:
        self.run(refusable(self.store.patch(*it, {"labels": labels, "title": title}, ADMIN)))

    @rule(it=ids, above=ids)
    def move(self, it: tuple[str, str], above: tuple[str, str]) -> None:
        field = {("region", "region"): "parent", ("site", "region"): "region", ("host", "site"): "site"}.get((it[0], above[0]))
        if field:
            self.run(refusable(self.store.patch(*it, {field: above[1]}, ADMIN)))

    @rule(it=ids)
    def relabel(self, it: tuple[str, str]) -> None:
        self.run(self.store.relabel(Actor.manager("places"), regions=[it[1]], sites=[it[1]], hosts=[it[1]]))

    @rule(it=consumes(ids), force=st.booleans())
    def delete(self, it: tuple[str, str], force: bool) -> None:
        self.run(refusable(self.store.delete(*it, ADMIN, force=force)))

    @rule(host=ids, config=ids, state=st.sampled_from(["present", "absent"]))
    def manage(self, host: tuple[str, str], config: tuple[str, str], state: str) -> None:
        async def act() -> None:
            made = await self.store.make("host-config", {"host": host[1], "config": config[1], "digest": "d"}, CONFIG)
            await self.store.write("host-config", made["id"], {"current_state": state}, CONFIG)

        if (host[0], config[0]) == ("host", "config"):
            self.run(refusable(act()))

    @rule(it=ids, delays=st.lists(st.sampled_from([0.0, 0.002, 0.01]), min_size=8, max_size=8))
    def eight_at_once(self, it: tuple[str, str], delays: list[float]) -> None:
        """Eight writers that hold their transactions open, with the relay at work among them."""

        async def write(n: int) -> None:
            async with self.store.transaction() as w:
                await w.create(BY_NAME["region"], {"name": f"p{self.number}-{n}", "labels": {"n": str(n)}}, ADMIN)
                await w.flush()
                await asyncio.sleep(delays[n])

        async def relays() -> None:
            for _ in range(4):
                await self.relay.step()
                await asyncio.sleep(0.003)

        async def together() -> None:
            async with patience(20):
                await asyncio.gather(*(write(n) for n in range(8)), relays())

        self.number += 1
        self.run(together())

    @invariant()
    def the_log_is_the_tables(self) -> None:
        if not hasattr(self, "db"):
            return
        while self.run(self.relay.step()):
            pass
        last = self.seen[-1].position if self.seen else 0
        found = self.run(read(self.db, last)).changes
        assert [c.position for c in found] == list(range(last + 1, last + 1 + len(found))), "positions are contiguous"
        for change in found:
            assert change.version > self.latest.get(change.id, 0), "versions of a resource never fall"
            self.latest[change.id] = change.version
        self.seen += found
        assert replay(self.seen) == self.run(tables(self.store))


def test_the_log_replayed_gives_the_tables(databases: Any, migrated: str) -> None:
    """No row changes without its change, in whatever order and however concurrently it is written."""
    names: list[str] = []

    def url() -> str:
        names.append(databases.create(migrated))
        return str(databases.url(names[-1]))

    Machine.url = staticmethod(url)
    try:
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=10, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
        )
    finally:
        for name in names:
            databases.drop(name)

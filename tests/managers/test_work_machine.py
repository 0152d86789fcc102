"""The work queue on a real PostgreSQL against its pure rules: two replicas, crashes, a clock that jumps.

Never two of a key at once, nothing lost, and after each step the table is what `managers.workqueue` says it is.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from inventory.db import Database
from inventory.work import Claimed, Entry, Held, Lane, Strength, WorkQueue
from managers.reconcile import Again, Done, Error, Failed, Outcome
from managers.workqueue import Backoff, settle, triggered

T = TypeVar("T")

START = datetime(2026, 11, 22, 18, tzinfo=UTC)
LEASE = timedelta(seconds=15)
KEYS = ("a", "b", "c")
REPLICAS = ("one", "two")
OUTCOMES: tuple[Outcome, ...] = (
    Done(),
    Again(None, "WaitingForDevice"),
    Again(timedelta(seconds=3), "Pending"),
    Failed(Error("ReadOnly", "no", recoverable=True)),
    Failed(Error("PathOutsideRoots", "no", recoverable=False)),
)
MANAGER = "m"


@dataclass
class Modelled:
    """A key as the rules have it. `until`: its lease's end. `again`: the strongest trigger under the lease."""

    entry: Entry
    lane: Lane
    fence: int = 0
    until: datetime | None = None
    again: Strength | None = None


@dataclass
class Bench:
    """One database and one event loop for all examples."""

    runner: asyncio.Runner
    db: Database
    now: datetime = START
    queue: WorkQueue = field(init=False)

    def __post_init__(self) -> None:
        self.queue = WorkQueue(self.db, clock=lambda: self.now)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)


BENCH: list[Bench] = []


class QueueMachine(RuleBasedStateMachine):
    """Steps of managers, feeds and accidents."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = BENCH[0]
        self.bench.now = START
        self.model: dict[str, Modelled] = {}
        self.hands: dict[str, dict[str, Claimed]] = {name: {} for name in REPLICAS}
        self.unserved: set[str] = set()
        self.fence = 0
        self.bench.do(self._empty())

    async def _empty(self) -> None:
        async with self.bench.db.acquire() as connection:
            await connection.execute("TRUNCATE work")
            self.fence = await connection.fetchval("SELECT nextval('work_fences')")

    # --- what happens ---

    @rule(key=st.sampled_from(KEYS), strength=st.sampled_from(Strength), delay=st.sampled_from([0, 0, 2]), lane=st.sampled_from(Lane))
    def trigger(self, key: str, strength: Strength, delay: int, lane: Lane) -> None:
        async def act() -> None:
            async with self.bench.db.transaction() as tx:
                await self.bench.queue.trigger(tx.raw, MANAGER, [key], strength, timedelta(seconds=delay), lane)

        self.bench.do(act())
        known = self.model.get(key)
        if known is not None and known.until is not None:
            known.again = max(known.again or strength, strength)
            known.lane = min(known.lane, lane)
        else:
            entry = triggered(known.entry if known else None, key, strength, self.bench.now + timedelta(seconds=delay))
            self.model[key] = Modelled(entry, self._lane_after(known, lane, strength), known.fence if known else 0)
        self.unserved.add(key)

    def _lane_after(self, known: Modelled | None, lane: Lane, strength: Strength) -> Lane:
        """The better one; what is not heard changes nothing."""
        if known is None:
            return lane
        deaf = strength is not Strength.FRESH and (known.entry.halted or (known.entry.backoff and strength is Strength.CHANGED))
        return known.lane if deaf else min(known.lane, lane)

    @rule(replica=st.sampled_from(REPLICAS), limit=st.integers(1, 3))
    def claim(self, replica: str, limit: int) -> None:
        claimed = self.bench.do(self.bench.queue.claim(MANAGER, replica, limit, LEASE))
        expected = {key for key, m in self.model.items() if self._claimable(m)}
        assert len(claimed) == min(limit, len(expected))
        prompt = {key for key in expected if self.model[key].lane is Lane.PROMPT}
        assert len({each.key for each in claimed} & prompt) == min(limit, len(prompt)), "the prompt ones come first"
        for each in claimed:
            assert each.key in expected, "it was in another hand, or not due"
            known = self.model[each.key]
            assert each.fence > self.fence, "fences rise"
            attempts = 0 if known.again is Strength.FRESH else known.entry.attempts
            assert each.attempts == attempts
            until = self.bench.now + LEASE
            self.model[each.key] = Modelled(Entry(each.key, known.entry.due_at, attempts), known.lane, each.fence, until)
            self.hands[replica][each.key] = each
            self.unserved.discard(each.key)
        self.fence = max([self.fence, *(each.fence for each in claimed)])

    def _claimable(self, m: Modelled) -> bool:
        free = m.until is None or m.until <= self.bench.now
        return free and not m.entry.halted and m.entry.due_at is not None and m.entry.due_at <= self.bench.now

    @precondition(lambda self: any(self.hands.values()))
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def finish(self, data: st.DataObject, outcome: Outcome) -> None:
        replica = data.draw(st.sampled_from([name for name in REPLICAS if self.hands[name]]))
        claimed = self.hands[replica].pop(data.draw(st.sampled_from(sorted(self.hands[replica]))))
        written = self.bench.do(self._settle(claimed, outcome))
        known = self.model.get(claimed.key)
        standing = known is not None and known.fence == claimed.fence and known.until is not None
        assert written == standing, "a holder writes if and only if nobody has taken over"
        if known is None or not standing:
            return
        after = settle(_held(claimed, known, self.bench.now), outcome, Backoff(), lambda low, high: high).entry
        if after is None:
            del self.model[claimed.key]
        else:
            self.model[claimed.key] = Modelled(after, known.lane, known.fence)

    async def _settle(self, claimed: Claimed, outcome: Outcome) -> bool:
        async with self.bench.db.transaction() as tx:
            held = await self.bench.queue.hold(tx.raw, MANAGER, [claimed])
            settled = [settle(h, outcome, Backoff(), lambda low, high: high).entry for h in held]
            left = [entry for entry in settled if entry is not None]
            await self.bench.queue.finish(tx.raw, MANAGER, left, [h.key for h, e in zip(held, settled, strict=True) if e is None])
            return bool(held)

    @precondition(lambda self: any(self.hands.values()))
    @rule(data=st.data(), strength=st.sampled_from(Strength), outcome=st.sampled_from(OUTCOMES))
    def trigger_in_hand(self, data: st.DataObject, strength: Strength, outcome: Outcome) -> None:
        """What is easily lost: a trigger between the reading of a key and its end."""
        held = sorted({key for hand in self.hands.values() for key in hand})
        self.trigger(data.draw(st.sampled_from(held)), strength, 0, data.draw(st.sampled_from(Lane)))
        self.finish(data, outcome)

    @rule(replica=st.sampled_from(REPLICAS))
    def crash(self, replica: str) -> None:
        """It forgets what it had; only leases that run out give it back."""
        self.hands[replica].clear()

    @precondition(lambda self: any(self.hands.values()))
    @rule(replica=st.sampled_from(REPLICAS))
    def renew(self, replica: str) -> None:
        claimed = list(self.hands[replica].values())
        self.bench.do(self.bench.queue.renew(MANAGER, claimed, LEASE))
        for each in claimed:
            known = self.model.get(each.key)
            if known is not None and known.fence == each.fence and known.until is not None:
                known.until = self.bench.now + LEASE

    @precondition(lambda self: any(self.hands.values()))
    @rule(replica=st.sampled_from(REPLICAS))
    def give_back(self, replica: str) -> None:
        """A service stops, or the database was away."""
        claimed = list(self.hands[replica].values())
        self.hands[replica].clear()
        self.bench.do(self.bench.queue.release(MANAGER, claimed, timedelta()))
        for each in claimed:
            known = self.model.get(each.key)
            if known is not None and known.fence == each.fence and known.until is not None:
                attempts = 0 if known.again is Strength.FRESH else known.entry.attempts
                self.model[each.key] = Modelled(Entry(each.key, self.bench.now, attempts), known.lane, known.fence)

    @rule(seconds=st.sampled_from([1, 5, 20, 700]))
    def time_passes(self, seconds: int) -> None:
        self.bench.now += timedelta(seconds=seconds)

    # --- what must hold ---

    @invariant()
    def the_table_is_what_the_rules_say(self) -> None:
        rows = {row["key"]: row for row in self.bench.do(self._rows())}
        assert rows.keys() == self.model.keys()
        for key, known in self.model.items():
            row = rows[key]
            assert (row["attempts"], row["halted"], row["due_at"]) == (known.entry.attempts, known.entry.halted, known.entry.due_at)
            assert row["lane"] == known.lane
            assert (row["lease_until"], Strength(row["again"]) if row["again"] else None) == (known.until, known.again)
            assert row["lease_until"] is not None or row["backoff"] == known.entry.backoff

    async def _rows(self) -> list[Any]:
        async with self.bench.db.acquire() as connection:
            return list(await connection.fetch("SELECT * FROM work"))

    @invariant()
    def no_key_is_in_two_hands(self) -> None:
        """A key in two hands has a live lease in one of them at most, and only that one may write."""
        for key, known in self.model.items():
            holders = [name for name in REPLICAS if key in self.hands[name] and self.hands[name][key].fence == known.fence]
            assert len(holders) <= 1

    def teardown(self) -> None:
        """Nothing is lost: with time, every key that was triggered is looked at, unless it has halted."""
        for name in REPLICAS:
            self.hands[name].clear()
        for _ in range(20):
            self.bench.now += timedelta(minutes=20)
            for each in self.bench.do(self.bench.queue.claim(MANAGER, "one", 10, LEASE)):
                self.unserved.discard(each.key)
                assert self.bench.do(self._settle(each, Done()))
        halted = {row["key"] for row in self.bench.do(self._rows()) if row["halted"]}
        assert self.unserved <= halted


def _held(claimed: Claimed, known: Modelled, now: datetime) -> Held:
    return Held(claimed.key, claimed.fence, claimed.attempts, known.again, now)


@pytest.mark.timeout(120)
def test_the_queue_keeps_its_promises(inventory_url: str) -> None:
    """Hypothesis looks for a run of triggers, claims, crashes and clock jumps that breaks them."""
    with asyncio.Runner() as runner:
        db = runner.run(Database.open(inventory_url, application="test", pool_size=2))
        BENCH[:] = [Bench(runner, db)]
        try:
            run_state_machine_as_test(
                QueueMachine,
                settings=settings(
                    max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
                ),
            )
        finally:
            runner.run(db.close())

"""The engine: takes due keys from the queue, has them reconciled, and settles the outcomes.

A `Worker` serves one manager, a `Pump` tells workers that something is due, and `managers.feed` fills the queue. Several replicas share
the work by claiming it; a key is in one hand at a time. A key's failure is its own: a batch that breaks is taken apart and each key tried
by itself. The database or the broker being away counts as nobody's failure. Knows no kind.

Source: design.md section 6; controller-runtime's controller for "outcome to queue action in one place" (`managers.workqueue.settle`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from inventory.actor import Actor
from inventory.changes import Change
from inventory.errors import LeaseLost, Outdated, Unavailable
from inventory.metrics import METER, OUTCOMES, RECONCILED, WAITED
from inventory.store import Lease
from inventory.work import Claimed, WorkQueue, at_least
from managers.reconcile import AnyTrigger, Error, Failed, Outcome, Reconciler, Request
from managers.settling import Report, Settler, Terms
from managers.workqueue import Backoff, Fate

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=15)
"""How long a key of a replica that died stays taken. A third of it between renewals."""
POLL_S = 0.5
"""How often an idle process asks the database what is due: other replicas, and pauses that end, wake nobody here."""
AWAY_S = 1.0
"""Pause after the database could not be reached."""
ANEW = timedelta(milliseconds=200)
"""Pause before a key is decided anew whose decision came too late."""


class Interest(Protocol):
    """Which keys a change may matter for. Pure; called for every change."""

    def __call__(self, change: Change) -> Sequence[AnyTrigger]: ...


@dataclass(frozen=True, slots=True)
class Scan:
    """A periodic look at the truth: `selection` is a statement of queries.sql that finds keys (column `key`)."""

    selection: str
    every: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """A registration: a queue, who works it, and what fills it. `status_of`: the kind whose `status` the engine keeps, by its id as key."""

    queue: str
    actor: Actor
    reconciler: Reconciler
    interest: Interest
    scans: tuple[Scan, ...] = ()
    status_of: str | None = None
    backoff: Backoff = Backoff()  # noqa: RUF009 -- frozen
    batch: int = 100
    """Keys claimed at once: they share statements and a commit."""
    concurrency: int = 2
    """Batches under way at once in this process."""
    pause_s: float = 0.0
    """Between the end of a batch and the next claim in its place, so that keys gather."""
    time_limit_s: float = 60.0
    """For the reconcile of a batch: a hung one would hold its keys for ever."""

    @property
    def terms(self) -> Terms:
        return Terms(self.queue, self.actor, self.status_of, self.backoff)


@dataclass(frozen=True, slots=True)
class Engine:
    """What workers share. `owner` names this process in leases; `settled` is told of every settlement after its commit."""

    queue: WorkQueue
    settler: Settler
    owner: str
    settled: Callable[[Report], None]
    lease: timedelta = LEASE


class Worker:
    """Serves one manager's queue until cancelled; then gives back what it holds."""

    def __init__(self, engine: Engine, manager: Manager) -> None:
        self._engine = engine
        self.manager = manager
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(manager.concurrency)
        self._in_hand: dict[int, Claimed] = {}
        """By fence: a key may be claimed again before the batch that it has left has ended."""
        self._batches: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """There may be something due."""
        self._wake.set()

    async def run(self) -> None:
        renewing = asyncio.create_task(self._keep_leases(), name=f"leases of {self.manager.queue}")
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while await self._take():
                    pass
        finally:
            await self._stop(renewing)

    async def _take(self) -> bool:
        """Claim a batch and start on it; whether there may be more."""
        await self._slots.acquire()
        try:
            claimed = await self._engine.queue.claim(self.manager.queue, self._engine.owner, self.manager.batch, self._engine.lease)
        except Unavailable:
            self._slots.release()
            await asyncio.sleep(AWAY_S)
            return False
        except BaseException:
            self._slots.release()
            raise
        if not claimed:
            self._slots.release()
            return False
        self._in_hand.update({c.fence: c for c in claimed})
        task = asyncio.create_task(self._process(claimed), name=f"batch of {self.manager.queue}")
        self._batches.add(task)
        full = len(claimed) >= at_least(self.manager.batch)
        task.add_done_callback(lambda ended: self._ended(ended, full))
        return full

    def _ended(self, task: "asyncio.Task[None]", full: bool) -> None:
        self._batches.discard(task)
        self._slots.release()
        if full:
            self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a batch broke; its keys come again when their leases end", exc_info=error, extra={"kind": self.manager.queue})

    async def _process(self, claimed: Sequence[Claimed]) -> None:
        began = time.monotonic()
        for c in claimed:
            METER.observe(WAITED, c.waited_s, self.manager.queue)
        try:
            outcomes = await self._reconcile(claimed)
            await self._settle([c for c in claimed if c.key in outcomes], outcomes)
            METER.observe(RECONCILED, time.monotonic() - began, self.manager.queue, n=len(outcomes))
            await self._give_back([c for c in claimed if c.key not in outcomes], timedelta())
        except Unavailable as error:
            log.warning("keys are given back: a service is away", extra={"kind": self.manager.queue, "error": str(error)})
            with suppress(Unavailable):  # their leases end by themselves
                await self._give_back(claimed, timedelta(seconds=AWAY_S))
        finally:
            for c in claimed:
                self._in_hand.pop(c.fence, None)
        await asyncio.sleep(self.manager.pause_s)

    async def _reconcile(self, claimed: Sequence[Claimed]) -> Mapping[str, Outcome]:
        """An outcome a key; none for a key that another replica has taken over."""
        requests = [Request(c.key, c.attempts + 1, Lease(self.manager.queue, c.key, c.fence)) for c in claimed]
        try:
            async with asyncio.timeout(self.manager.time_limit_s):
                outcomes = await self.manager.reconciler.reconcile(requests)
            return {request.key: outcomes[request.key] for request in requests}
        except Unavailable:
            raise
        except Exception as error:
            if len(claimed) > 1:
                return await self._one_by_one(claimed)
            if isinstance(error, LeaseLost):
                return {}
            return {claimed[0].key: self._broken(claimed[0].key, error)}

    async def _one_by_one(self, claimed: Sequence[Claimed]) -> Mapping[str, Outcome]:
        found: dict[str, Outcome] = {}
        for each in claimed:
            found |= await self._reconcile([each])
        return found

    def _broken(self, key: str, error: Exception) -> Failed:
        log.error("a reconciler broke", exc_info=error, extra={"kind": self.manager.queue, "key": key})
        return Failed(Error("Internal", f"{type(error).__name__}: {error}", recoverable=True))

    async def _settle(self, claimed: Sequence[Claimed], outcomes: Mapping[str, Outcome]) -> None:
        if not claimed:
            return
        try:
            report = await self._engine.settler.settle(self.manager.terms, claimed, outcomes)
        except Unavailable:
            raise
        except Exception as error:
            if len(claimed) > 1:
                for each in claimed:
                    await self._settle([each], outcomes)
                return
            if isinstance(error, Outdated):
                log.info("decided too late, and anew", extra={"kind": self.manager.queue, "key": claimed[0].key, "error": str(error)})
                await self._give_back(claimed, ANEW)
                return
            report = await self._settle_broken(claimed[0], error)
        self._tell(report)

    async def _settle_broken(self, claimed: Claimed, error: Exception) -> Report:
        """What was decided can't be written, without any other key in the way: that is the outcome then."""
        outcome = self._broken(claimed.key, error)
        return await self._engine.settler.settle(self.manager.terms, [claimed], {claimed.key: outcome})

    def _tell(self, report: Report) -> None:
        for key in report.lost:
            log.info("another replica has taken the key over", extra={"kind": self.manager.queue, "key": key})
        if any(settled.due_at_once for settled in report.settled.values()):
            self._wake.set()
        for key, settled in report.settled.items():
            METER.count(OUTCOMES, self.manager.queue, str(settled.fate))
            if settled.fate is Fate.HALTS and settled.entry is not None:
                log.warning("halted", extra={"kind": self.manager.queue, "key": key, "error": settled.entry.last_error})
        self._engine.settled(report)

    async def _give_back(self, claimed: Sequence[Claimed], delay: timedelta) -> None:
        if claimed:
            await self._engine.queue.release(self.manager.queue, claimed, delay)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._engine.lease.total_seconds() / 3)
            try:
                if self._in_hand:
                    await self._engine.queue.renew(self.manager.queue, list(self._in_hand.values()), self._engine.lease)
            except Unavailable:
                pass  # the next round may do it; if none does, another replica takes over
            except Exception:
                # Such as a deadlock with who settles the same keys. Without renewals every longer reconcile would be done twice at once.
                log.exception("leases could not be renewed; the next round may do it", extra={"kind": self.manager.queue})

    async def _stop(self, renewing: "asyncio.Task[None]") -> None:
        held = list(self._in_hand.values())
        tasks = [renewing, *self._batches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Unavailable):  # their leases end by themselves
            await self._give_back(held, timedelta())


class Pump:
    """Wakes the workers whose managers have something due."""

    def __init__(self, queue: WorkQueue, workers: Sequence[Worker]) -> None:
        self._queue = queue
        self._workers = {worker.manager.queue: worker for worker in workers}

    def wake(self, managers: Sequence[str]) -> None:
        for name in managers:
            self._workers[name].wake()

    async def run(self) -> None:
        """Until cancelled. The database may be away for as long as it likes."""
        while True:
            try:
                self.wake(await self._queue.due(list(self._workers)))
                await asyncio.sleep(POLL_S)
            except Unavailable as error:
                log.warning("the work queue is out of reach", extra={"error": str(error)})
                await asyncio.sleep(AWAY_S)

"""Leases of keys in hand are renewed whatever else becomes of a process's batches (`managers.driver`), with a queue made for the test."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import cast

from inventory.actor import Actor
from inventory.errors import LeaseLost
from inventory.work import Claimed, WorkQueue
from managers.driver import Engine, Manager, Worker
from managers.reconcile import Done, Outcome, Request
from managers.settling import Report, Settler, Terms
from tests.managers.fleet import eventually

LEASE = timedelta(milliseconds=30)


class Desk:
    """Queue, settler and reconciler in one. The second batch can be had once something of the first is settled; the reconcile of what has
    the fence `lasting` never ends; giving back takes until it is let."""

    def __init__(self, *batches: list[Claimed], lasting: int) -> None:
        self._batches, self._lasting = list(batches), lasting
        self._settled = asyncio.Event()
        self.begun, self.may_give_back = asyncio.Event(), asyncio.Event()
        self.renewed: list[int] = []
        self.broken = 0
        """How many renewals are still to fail."""

    async def claim(self, manager: str, owner: str, limit: int, lease: timedelta) -> list[Claimed]:
        if len(self._batches) == 1 and self._lasting > 1:
            await self._settled.wait()
        return self._batches.pop(0) if self._batches else []

    async def renew(self, manager: str, claimed: Sequence[Claimed], lease: timedelta) -> None:
        self.renewed += [each.fence for each in claimed]
        if self.broken:
            self.broken -= 1
            raise RuntimeError("deadlock detected")

    async def release(self, manager: str, claimed: Sequence[Claimed], delay: timedelta) -> None:
        await self.may_give_back.wait()

    async def settle(self, terms: Terms, claimed: Sequence[Claimed], outcomes: Mapping[str, Outcome]) -> Report:
        self._settled.set()
        return Report()

    async def reconcile(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        if any(request.key == "lost" for request in requests):
            raise LeaseLost("another has it")
        if any(request.lease.fence == self._lasting for request in requests):
            self.begun.set()
            await asyncio.Event().wait()
        return {request.key: Done() for request in requests}


@asynccontextmanager
async def working(desk: Desk) -> AsyncIterator[Worker]:
    engine = Engine(cast(WorkQueue, desk), cast(Settler, desk), "r", lambda _: None, LEASE)
    worker = Worker(engine, Manager(queue="m", actor=Actor.manager("host"), reconciler=desk, interest=lambda _: (), batch=2))
    worker.wake()
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        desk.may_give_back.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _renews(desk: Desk, fence: int) -> bool:
    return fence in desk.renewed


async def test_a_key_claimed_again_before_its_batch_has_ended_stays_in_hand() -> None:
    """It is settled before the others of the batch are; what ends then is the earlier claim, not the later one."""
    desk = Desk([Claimed("k", 0, 1), Claimed("lost", 0, 2)], [Claimed("k", 0, 3)], lasting=3)
    async with working(desk) as worker:

        async def first_has_ended() -> bool:
            return len(worker._batches) == 1

        await desk.begun.wait()
        desk.may_give_back.set()
        await eventually(first_has_ended)
        desk.renewed.clear()
        await eventually(lambda: _renews(desk, 3))


async def test_a_renewal_that_fails_is_not_the_last() -> None:
    """As by a deadlock with who settles the same keys: nobody would notice that leases run out while keys are in hand."""
    desk = Desk([Claimed("k", 0, 1)], lasting=1)
    desk.broken = 1
    async with working(desk):
        await eventually(lambda: _renews(desk, 1))
        desk.renewed.clear()
        await eventually(lambda: _renews(desk, 1))

"""Where the product touches what a simulated world replaces: clocks, dice, the disk under SQLite, rows that the object mapper writes.

Each seam is a name in one of the product's modules; nothing else of the product is touched. Also here: pauses that are made coarser,
because a simulated second costs as much as the polls in it.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from random import Random
from types import SimpleNamespace
from typing import Any

import edge_agent.journal
import edge_agent.runtime
import inventory.batch
import inventory.changes
import inventory.ids
import inventory.leases
import inventory.service
import inventory.writer
import managers.dispatch
import managers.driver
import managers.service
import managers.wiring
from edge_agent.signals import Clock
from inventory.kind import Kind
from inventory.writer import Writer
from managers.feed import Feed
from tests.simulation.clockwork import BEGINNING, VirtualLoop

QUEUES = ("host", "config", "placement", "host-config")
"""The managers that run: those that bring a device about. Places and notifications touch none."""


_SCAN_ONCE = Feed.scan_once
_TAKE = inventory.batch.take  # type: ignore[attr-defined]


@dataclass
class Here:
    """The device whose process is deciding just now: the agent's shell asks the machine it runs on for the time."""

    clock: Callable[[], Clock]
    connect: Callable[..., Any]
    disk: Callable[[], Any]


class Seams:
    """`here` is set by a device before its process takes a step."""

    def __init__(
        self, loop: VirtualLoop, dice: Random, shards: tuple[str, ...], scanning: Callable[[], bool], taken: Callable[[str, str, int], None]
    ) -> None:
        """`scanning`: whether the managers' periodic scans find anything. `taken` hears of each durable message that ingest applies."""
        self.loop, self.dice, self.shards, self.scanning, self.taken = loop, dice, shards, scanning, taken
        self.here: Here | None = None

    def wall(self) -> datetime:
        return self.loop.wall()

    def _here(self) -> Here:
        assert self.here is not None, "no device is deciding"
        return self.here

    def _epoch(self) -> str:
        return f"epoch-{self.dice.getrandbits(40):010x}"

    def _sqlite(self) -> Any:
        return SimpleNamespace(connect=lambda *args, **more: self._here().disk(), Error=sqlite3.Error)

    def _time(self) -> Any:
        return SimpleNamespace(time=lambda: BEGINNING.timestamp() + self.loop.now, monotonic=lambda: self.loop.now)

    async def _scan_once(self, feed: Feed, manager: Any, scan: Any) -> int:
        return await _SCAN_ONCE(feed, manager, scan) if self.scanning() else 0

    def _take(self, stream: Any, epoch: str, seq: int) -> None:
        self.taken(stream.host, epoch, seq)
        _TAKE(stream, epoch, seq)

    def refine(self) -> None:
        """From now on what waits for a poll waits hardly longer than it would."""
        for owner, name, value in _FINER:
            setattr(owner, name, value)

    def _replacements(self) -> list[tuple[Any, str, Any]]:
        time = self._time()
        return [
            (inventory.ids, "time", time),
            (inventory.ids, "secrets", SimpleNamespace(randbits=self.dice.getrandbits)),
            (inventory.service, "time", time),
            (inventory.service, "utcnow", self.wall),
            (inventory.batch, "take", self._take),
            (inventory.leases, "SHARDS", self.shards),
            (managers.service, "random", self.dice),
            (managers.service, "managers", _only(managers.wiring.managers)),
            (Feed, "scan_once", lambda feed, manager, scan: self._scan_once(feed, manager, scan)),
            (edge_agent.runtime, "clock", lambda: self._here().clock()),
            (edge_agent.runtime, "Session", lambda *args: self._here().connect(*args)),
            (edge_agent.runtime, "new_epoch", self._epoch),
            (edge_agent.journal, "sqlite3", self._sqlite()),
            (Writer, "_insert_row", _insert_row),
            (Writer, "_update_row", _update_row),
            (Writer, "_delete_row", _delete_row),
            *_COARSE,
        ]


_FINER: list[tuple[Any, str, float]] = [
    (inventory.changes, "POLL_S", 2.0),
    (managers.driver, "POLL_S", 2.0),
    (managers.dispatch, "POLL_S", 2.0),
]
"""Once everything is healed time counts, and these are nearer to what they really are."""

_COARSE: list[tuple[Any, str, Any]] = [
    (inventory.changes, "BUSY_S", 0.05),
    (inventory.changes, "CALM_S", 0.04),
    (inventory.changes, "POLL_S", 15.0),
    (inventory.service, "FLUSH_S", 5.0),
    (managers.driver, "POLL_S", 6.0),
    (managers.dispatch, "POLL_S", 5.0),
]


def _only(registered: Callable[..., Any]) -> Callable[..., Any]:
    return lambda parts: tuple(manager for manager in registered(parts) if manager.queue in QUEUES)


async def _insert_row(w: Any, kind: Kind, values: dict[str, Any]) -> None:
    w.tx.raw.write_row("insert", kind, values["id"], values)


async def _update_row(w: Any, kind: Kind, id: str, values: dict[str, Any]) -> None:
    w.tx.raw.write_row("update", kind, id, values)


async def _delete_row(w: Any, kind: Kind, id: str) -> None:
    w.tx.raw.write_row("delete", kind, id, {})


@contextmanager
def replaced(seams: Seams, service: Mapping[str, Any]) -> Iterator[None]:
    """`service`: what stands for names of `inventory.service`.

    The product runs in a simulated world within; afterwards everything is as it was."""
    before: list[tuple[Any, str, Any]] = []
    try:
        more = [(inventory.service, name, value) for name, value in service.items()]
        for owner, name, value in [*seams._replacements(), *more]:
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)

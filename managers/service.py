"""The managers process: puts the engine, the managers and dispatch together, and runs them until it is told to end.

Database and broker may be away at the start or at any time; everything waits for them and goes on. Any number of these processes may run.
"""

import asyncio
import contextlib
import logging
import os
import random
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from broker import heap
from broker.client import Session, SessionDown, SessionUp
from broker.client import Settings as BrokerSettings
from broker.vitals import answer_signal
from inventory.applying import Configs
from inventory.db import Database
from inventory.errors import Unavailable
from inventory.metrics import CONNECTED, CONNECTIONS, METER
from inventory.replica import certificate_name
from inventory.signing import CommandSigner
from inventory.store import Store
from inventory.telemetry import Publisher, process_name
from inventory.vault import Vault
from inventory.work import WorkQueue
from managers.dispatch import Dispatcher, Wire
from managers.driver import Engine, Manager, Pump, Worker
from managers.feed import Feed
from managers.rendering import Renderer
from managers.settings import SERVICE, Settings
from managers.settling import Report, Settler
from managers.wiring import Parts, managers

log = logging.getLogger(__name__)

DATABASE_POLL_S = 0.2
STOP_S = 3.0
"""For giving back what is in hand at the end; a database that does not answer by then hears nothing, and leases run out instead."""


@dataclass(frozen=True, slots=True)
class Running:
    """The loops of a process, and what wakes them from outside."""

    workers: tuple[Worker, ...]
    pump: Pump
    feed: Feed
    dispatcher: Dispatcher
    managers: tuple[Manager, ...]


def assemble(db: Database, store: Store, renderer: Renderer, wire: Wire, signer: CommandSigner, settings: Settings) -> Running:
    """Everything connected with everything; nothing runs yet."""
    queue, vault = WorkQueue(db), Vault(settings.secrets)
    registered = managers(Parts(db, store, Configs(db, vault), renderer, vault))
    dispatcher = Dispatcher(store, wire, signer, vault, settings.topics)
    pumps: list[Pump] = []

    def settled(report: Report) -> None:
        pumps[0].wake(sorted(report.enqueued))
        if "command" in report.made:
            dispatcher.wake()

    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    engine = Engine(queue, Settler(store, queue, random.uniform), owner[:64], settled)
    workers = tuple(Worker(engine, manager) for manager in registered)
    pumps.append(Pump(queue, workers))
    return Running(workers, pumps[0], Feed(db, queue, registered, pumps[0].wake), dispatcher, registered)


def _look(session: Session) -> None:
    """Gauges, at the moment that they are published."""
    METER.set(CONNECTED, session.connected_since is not None)
    METER.set(CONNECTIONS, session.connections)


@asynccontextmanager
async def started(running: Running, *more: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator["asyncio.Task[None]"]:
    """The loops run inside, `more` among them; the task ends only by an error that nobody expected."""
    loops = (running.pump.run, running.feed.run, running.dispatcher.run, *(worker.run for worker in running.workers), *more)
    tasks = [asyncio.create_task(loop()) for loop in loops]
    watch = asyncio.create_task(_first_to_end(tasks))
    try:
        yield watch
    finally:
        for task in (watch, *tasks):
            task.cancel()
        await asyncio.wait([watch, *tasks], timeout=STOP_S)


async def _first_to_end(tasks: "list[asyncio.Task[None]]") -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def run(settings: Settings, ready: Callable[[], None]) -> None:
    """Until SIGTERM or SIGINT. `ready` is called once database and broker have been reached. Raises ValueError and AuthorityError for
    settings that can't work, and whatever breaks a loop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    answer_signal(asyncio.get_running_loop())
    heap.keep(asyncio.get_running_loop())
    signer = CommandSigner(settings.secrets)
    broker = BrokerSettings.from_url(settings.broker, certificate_name(SERVICE, settings.replica), settings.secrets, settings.topics)
    db = await Database.open(settings.database, application=SERVICE, pool_size=settings.pool_size)
    renderer = Renderer()
    wakers: list[Callable[[], None]] = []

    def on_session(event: SessionUp | SessionDown) -> None:
        for wake in wakers if isinstance(event, SessionUp) else ():
            wake()

    try:
        async with Session(broker, on_session) as session:
            running = assemble(db, Store(db), renderer, session, signer, settings)
            wakers.append(running.dispatcher.wake)
            numbers = Publisher(db, process_name("managers", settings.replica), lambda: _look(session))
            async with started(running, numbers.run) as watch:
                await _serve(watch, db, session, stop, ready)
    finally:
        await renderer.close()
        await db.close()


async def _serve(watch: "asyncio.Task[None]", db: Database, session: Session, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    ending = asyncio.create_task(stop.wait())
    announcing = asyncio.create_task(_announce(db, session, ready))
    try:
        await asyncio.wait([watch, ending], return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
        log.info("ending")
    finally:
        for task in (ending, announcing):
            task.cancel()


async def _announce(db: Database, session: Session, ready: Callable[[], None]) -> None:
    await session.connected()
    while True:
        with contextlib.suppress(Unavailable):
            async with db.acquire() as connection:
                await connection.fetchval("SELECT 1")
                break
        await asyncio.sleep(DATABASE_POLL_S)
    ready()

"""The Inventory service: one process that puts ingest, relay, publisher, presence, leases and intents together and keeps them running.

The only module of the inventory that speaks to the broker. Each part is a loop that waits for a lost database or broker and goes on; one
that fails for another reason is said with its traceback and started again, so that one part's fault does not stop the fleet. Any number
of these processes may run: devices are shared out by `inventory.leases`, the relay, the publisher and the reader of intents are one each.

Called by `python -m inventory`. Source: design.md section 3.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime, timedelta

from broker import heap
from broker.client import NotConnected, Received, Session, SessionDown, SessionUp, SubscriptionRefused
from broker.client import Settings as BrokerSettings
from broker.messages import BY_SUFFIX
from broker.topics import UPLINKS, BrokerTopic, DeviceTopic, IntentTopic
from broker.vitals import answer_signal
from inventory import endings, metrics, retention, telemetry, vault_keys
from inventory.asked import RETRY_AFTER_S, Asked
from inventory.authority import Authority, utcnow
from inventory.bootstrap import forget_first_password
from inventory.changes import Relay
from inventory.db import Database, migrate
from inventory.errors import Unavailable
from inventory.heads import Witness
from inventory.inbound import Inbound
from inventory.ingest import Ingest
from inventory.intents import Intents
from inventory.leases import Leases
from inventory.memory import Recently
from inventory.metrics import METER
from inventory.parts import RETRY_S, keep, keep_trying
from inventory.presence import sweep
from inventory.publisher import Publisher, Undelivered, sole
from inventory.replica import certificate_name
from inventory.revocation_list import Teller
from inventory.seals import Sealer
from inventory.secret_files import AuthorityError
from inventory.settings import Settings
from inventory.signing import CommandSigner
from inventory.store import Store

log = logging.getLogger(__name__)

SERVICE = "svc-inventory"

INTENTS_LOCK = 0x666C7764_0011
"""Advisory lock of the one reader of intents."""

FLUSH_S = 1.0
"""Heartbeats are written together once in so many seconds: at 10,000 devices 333 of them, in one statement."""
STOP_S = 2.0
"""For giving the leases back at the end; what is not given back runs out."""
LAG_S = 5.0
"""With messages that waited longer under way, in seconds, nobody's silence is judged."""
TELL_S = 60.0
HOUSEKEEPING_S = 3600.0

_UPLINKS = frozenset(UPLINKS) & frozenset(BY_SUFFIX)


class Service:
    """The parts of one process, connected."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings, self._db = settings, db
        self._store = Store(db)
        authority = self._authority = Authority(settings.secrets)
        wire = BrokerSettings.from_url(settings.broker, certificate_name(SERVICE, settings.replica), settings.secrets, settings.topics)
        self.session = Session(wire, self._session_changed)
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self.ingest = Ingest(
            db,
            settings.topics,
            authority,
            CommandSigner(settings.secrets),
            self._send,
            interrupted=self._interrupted,
            grace=settings.grace,
        )
        self.leases = Leases(db, settings.topics, self.session, name, settings.lease_s, self.ingest.forget)
        self._telemetry = telemetry.Publisher(db, telemetry.process_name("inventory", settings.replica), self._look)
        self._publisher = Publisher(db, settings.topics, self._publish, self.session.connected)
        self._teller = Teller(db, authority, self._tell_brokers, lambda: self.session.connections, utcnow)
        self._intents = Intents(self._store, settings.topics, self._reply)
        self._asked = Asked()
        self._told = Recently(TELL_S, limit=1000)
        self._numbers: dict[str, int] = {}
        self._sealer = _sealer(settings)
        self.subscribed = asyncio.Event()

    def parts(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Each runs until it is cancelled, or fails."""
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "relay": Relay(self._db).run,
            "ingest": self._take,
            "heartbeats": lambda: _every(FLUSH_S, self.ingest.flush),
            "leases": self._lease,
            "presence": lambda: _every(self._settings.sweep_s, self._sweep),
            "publisher": self._publisher.run,
            "intents": self._listen,
            "revocation": self._revoke,
            "numbers": lambda: _every(TELL_S, self._tell),
            "metrics": self._telemetry.run,
            "housekeeping": lambda: _every(HOUSEKEEPING_S, self._clean),
            "certificates": lambda: _every(HOUSEKEEPING_S, self._renew),
        }
        if self._sealer is not None:
            parts["witness"] = Witness(self._store, self._sealer).run
        return parts

    # --- the broker -----------------------------------------------------------------------------------------------------------

    def _session_changed(self, event: SessionUp | SessionDown) -> None:
        self._interrupted()

    def _interrupted(self) -> None:
        self.leases.interrupted()

    async def _send(self, topic: str, payload: bytes) -> None:
        """Acknowledgements and the like: whoever misses one sends again."""
        try:
            await self.session.send(topic, payload)
        except NotConnected as error:
            log.debug("answer not sent", extra={"topic": topic, "error": str(error)})

    async def _publish(self, topic: str, payload: bytes) -> None:
        try:
            await self.session.publish(topic, payload)
        except NotConnected as error:
            raise Undelivered(str(error)) from error

    async def _tell_brokers(self, payload: bytes) -> None:
        await self._publish(self._settings.topics.broker("revoked"), payload)

    async def _reply(self, topic: str, payload: bytes) -> None:
        """Lost with its connection, it is had again by the same intent."""
        try:
            await self.session.publish(topic, payload)
        except NotConnected as error:
            log.warning("reply not sent", extra={"topic": topic, "error": str(error)})

    # --- the loops ------------------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        """What arrives, in batches: one is opened while the one before it is written."""
        writing: asyncio.Task[None] | None = None
        next_at = 0.0
        try:
            while True:
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))
                received = await self.session.batch(self._settings.batch_messages)
                began = time.monotonic()
                opened = await self.ingest.open(self._sort(received))
                if writing is not None:
                    await writing
                    writing = None
                if opened:
                    writing = asyncio.create_task(self.ingest.process(opened), name="ingest batch")
                next_at = began + (self._settings.batch_wait_s if opened else self._settings.idle_wait_s)
        finally:
            if writing is not None:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    def _sort(self, received: Sequence[Received]) -> list[Inbound]:
        now, mono = utcnow(), time.monotonic()
        inbound = []
        for message in received:
            match message.topic:
                case DeviceTopic(device, channel) if channel in _UPLINKS:
                    at = mono - _age(message.at, now)
                    inbound.append(Inbound(device, channel, message.text, message.payload, at))
                case IntentTopic() as topic:
                    self._ask(topic, message.payload)
                case BrokerTopic("ask"):
                    self._teller.ask()
                case _ if self._told.first(message.text, mono):
                    log.warning("message on a topic that is none", extra={"topic": message.text[:256]})
        return inbound

    def _ask(self, topic: IntentTopic, payload: bytes) -> None:
        """A writer that is faster than we are must not stop the devices, nor other writers."""
        if not self._asked.put(topic, payload):
            METER.count(metrics.INTENTS, "429")
            if self._told.first(topic.integration, time.monotonic()):
                log.warning("intents come faster than they are done, some are refused", extra={"integration": topic.integration})

    async def _lease(self) -> None:
        while True:
            try:
                await self.leases.step(self.session.connected_since is not None)
            except SubscriptionRefused as error:
                log.error("the broker refuses our subscriptions", extra={"error": str(error)})
            else:
                self.subscribed.set()
            await asyncio.sleep(self._settings.lease_s / 4)

    async def _sweep(self) -> None:
        waiting = self.ingest.oldest
        if self.session.connected_since is not None and (waiting is None or time.monotonic() - waiting < LAG_S):
            await sweep(self._db, utcnow)

    async def _listen(self) -> None:
        """Intents, while the lock is ours."""
        filter_ = self._settings.topics.intents()
        async with sole(self._db, INTENTS_LOCK) as held:
            log.info("reading intents")
            await self.session.subscribe(filter_)
            try:
                while not held.is_closed():
                    if (asked := await self._asked.next(RETRY_S)) is not None:
                        await self._answer(*asked)
                    await asyncio.gather(*(self._intents.refuse(*refused, RETRY_AFTER_S) for refused in self._asked.refusals()))
            finally:
                await self.session.unsubscribe(filter_)

    async def _answer(self, topic: IntentTopic, payload: bytes) -> None:
        """However often it takes: the correlation keeps it from being done twice."""
        while True:
            try:
                await self._intents.handle(topic, payload)
                return
            except Unavailable as error:
                log.warning("intent waits for the database", extra={"integration": topic.integration, "error": str(error)})
                await asyncio.sleep(RETRY_S)

    async def _revoke(self) -> None:
        """Tell brokers which certificates are revoked; one of an earlier release keeps us from hearing its question, and has none."""
        try:
            await self.session.subscribe(self._settings.topics.broker("ask"))
        except SubscriptionRefused as error:
            log.warning("the broker refuses a subscription", extra={"error": str(error)})
        await self._teller.run()

    def _look(self) -> None:
        """Gauges, at the moment that they are published."""
        oldest = self.ingest.oldest
        METER.set(metrics.INGEST_LAG, 0.0 if oldest is None else time.monotonic() - oldest)
        METER.set(metrics.INBOX, self.session.waiting)
        METER.set(metrics.REFUSED, self.session.refused, "beyond_share")
        METER.set(metrics.SHARDS, len(self.leases.held))
        METER.set(metrics.CONNECTED, self.session.connected_since is not None)
        METER.set(metrics.CONNECTIONS, self.session.connections)

    async def _tell(self) -> None:
        flooded = {"flooded": self.session.refused, "intents_refused": self._asked.refused}
        numbers = asdict(self.ingest.counts) | asdict(self.ingest.refused) | flooded
        if numbers != self._numbers:
            log.info("ingest so far", extra=numbers)
        self._numbers = numbers

    async def _clean(self) -> None:
        await retention.clean(self._store, self._settings.keep, utcnow(), self._sealer)

    async def _renew(self) -> None:
        """The services' own certificates, and what else of the secrets nears its end, where the installation's are; devices' that have
        ended are told of."""
        try:
            await asyncio.to_thread(self._authority.renew)
        except (AuthorityError, OSError) as error:
            log.error("certificates can't be renewed", extra={"error": str(error)})
        await self._ensure_vault()
        await endings.tell(self._store, self._settings.grace)

    async def _ensure_vault(self) -> None:
        """After an upgrade nobody has bootstrapped again."""
        if not (self._settings.secrets / "command-root.key").exists():
            return  # the secrets of a replica
        try:
            await vault_keys.ensure(self._store.db, self._settings.secrets, utcnow())
        except (AuthorityError, OSError) as error:
            log.error("secrets of configs can't be kept", extra={"error": str(error)})


def _sealer(settings: Settings) -> Sealer | None:
    """Without its key a replica signs nothing, and drops nothing of the change log; another one may."""
    try:
        return Sealer.read(settings.secrets)
    except AuthorityError as error:
        log.error("the change log is not signed by this process", extra={"error": str(error)})
        return None


async def run(settings: Settings, ready: Callable[[], None] = lambda: print("ready", flush=True)) -> None:
    """Until SIGTERM or SIGINT. `ready` is called once the schema is current and devices are heard. Raises AuthorityError, ValueError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    answer_signal(asyncio.get_running_loop())
    heap.keep(asyncio.get_running_loop())
    await _until(stop, serve(settings, ready))


async def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """The service, until cancelled."""
    await keep_trying("schema", lambda: migrate(settings.database))
    forget_first_password(settings.secrets)
    async with _database(settings) as db:
        service = Service(settings, db)
        async with service.session:
            try:
                # A group cancels each part once and waits for it. A second time would cut short how it ends: a rollback, an UNSUBSCRIBE.
                async with asyncio.TaskGroup() as parts:
                    for name, act in service.parts().items():
                        parts.create_task(keep(name, act), name=name)
                    await service.session.connected()
                    await service.subscribed.wait()
                    ready()
            finally:
                await _release(service.leases)


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    db = await Database.open(settings.database, application="fleetward-inventory", pool_size=settings.pool_size)
    try:
        yield db
    finally:
        await db.close()


async def _until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Whichever ends first; an error of the work is raised."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        working.result()
        return
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def _every(seconds: float, act: Callable[[], Awaitable[object]]) -> None:
    while True:
        await act()
        await asyncio.sleep(seconds)


async def _release(leases: Leases) -> None:
    try:
        async with asyncio.timeout(STOP_S):
            await leases.release()
    except (Unavailable, TimeoutError) as error:
        log.warning("leases could not be given back", extra={"error": str(error)})


def _age(at: datetime, now: datetime) -> float:
    """Seconds since a message was read; a wall clock that was set meanwhile makes it neither negative nor endless."""
    return min(60.0, max(0.0, (now - at) / timedelta(seconds=1)))

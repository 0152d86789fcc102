"""Ingest: messages of devices into batched transactions, then acknowledgements. The hot path; no statement here is run once a message.

A batch is opened (`inventory.inbound`) while the one before it commits, then written in one transaction: streams are locked,
`inventory.batch` decides what each message is, `inventory.reports` writes what they say, and only after the commit is anything
acknowledged. A batch that the database refuses is halved until the message at fault stands alone, and that one is set aside. A database
out of reach is waited for: the batch is kept, nothing behind it is taken, and what the broker then drops its sender sends again.

Knows no broker: `inventory.service` brings the messages and gives `send`. Source: design.md section 4.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeVar

import asyncpg

from broker.messages import (
    AGENT_SECTION,
    AUTHENTICATED,
    MAX_AWAITED,
    MESSAGES_REFUSED,
    CertificateRequest,
    Checkpoint,
    ContractError,
    Doubt,
    Heartbeat,
    Log,
    Message,
    Metrics,
    Moment,
    Presence,
    Resync,
    encode,
    now_text,
)
from broker.topics import DeviceTopic, Topics
from inventory import bulk, reports, trusting
from inventory.authority import Authority, utcnow
from inventory.batch import Batch, Counts, decide
from inventory.bulk import BulkWriter
from inventory.db import SQL, Database, dumps, loads
from inventory.errors import Unavailable
from inventory.inbound import Inbound, Opener
from inventory.memory import ASK_AGAIN_S, RESYNCS_A_SECOND, Known, Recently, Resyncs
from inventory.metrics import DEVICES_REFUSED, ENDED, INGEST_SECONDS, INGESTED, METER, REFUSED, RETRIES
from inventory.renewal import GRACE, Renewals
from inventory.secret_files import AuthorityError
from inventory.signing import CommandSigner
from inventory.store import Store
from inventory.streams import Stream, answer
from inventory.trusting import Trusting

log = logging.getLogger(__name__)

T = TypeVar("T")

Send = Callable[[str, bytes], Awaitable[None]]
"""Publishes at QoS 1 without waiting for the broker. What can't be sent is lost: whoever waits for it asks again."""

TRANSACTION_BYTES = 4 * 1024 * 1024
"""Of payloads in one transaction: 500 whole machines' facts of 5 KiB are 2.5 MiB and take a second, and nobody's acknowledgement should
wait longer than the 5 s after which it is sent again."""

POISON_KEPT = 20
"""Messages set aside that are kept of a device."""

TOUCH_S = 5.0
"""A durable message is a sign of life as well; written down this often at most a device, in seconds."""

TELL_AGAIN_S = 600.0
"""A device's errors of one type become a notification this often at most, in seconds: it must not be able to bury the others'."""

UNANSWERED = 2
"""A command that was sent more often than that, 10 s apart, to a device that is online, may not reach it."""
LOOK_S = 30.0
"""How often such devices are looked for, in seconds."""
WONDER_S = 300.0
"""How often one is asked, at most, in seconds."""

WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""For the database, in seconds; the last one repeats."""

DEADLOCK_TRIES = 5

CERTIFIED_A_SECOND = 50
"""Certificates made a second: each takes half a millisecond, and a transaction."""

CLONED = "Two machines take turns under this identity, as after cloning a disk: delete the agent's state on one of them and enroll it anew."

FORGED = (
    "A message in this device's name had a bad MAC and was dropped: somebody else wrote it, or changed it on its way. If the device "
    "itself is not heard, its state is older than its last enrollment: enroll it anew."
)


class _StaleKeys(Exception):
    """Devices have enrolled anew since their messages were opened: these have to be opened again."""

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices


class Ingest:
    """The ingest of one process. `mono`: a monotonic clock in seconds. `interrupted` is called when the database is lost: silence from
    then on is ours, not the devices'."""

    def __init__(
        self,
        db: Database,
        topics: Topics,
        authority: Authority,
        signer: CommandSigner,
        send: Send,
        *,
        interrupted: Callable[[], None] = lambda: None,
        grace: timedelta = GRACE,
        clock: Callable[[], datetime] = utcnow,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._topics, self._signer, self._send = db, topics, signer, send
        self._interrupted, self._clock, self._mono = interrupted, clock, mono
        self._opener = Opener(db, authority, mono)
        self._known = Known()
        self._resyncs = Resyncs()
        self._touched = Recently(TOUCH_S)
        self._told = Recently(TELL_AGAIN_S)
        self._looked = Recently(LOOK_S)
        self._wondered = Recently(WONDER_S)
        self._beats: dict[str, tuple[Heartbeat, float]] = {}
        self._requests: dict[str, CertificateRequest] = {}
        self._renewals = Renewals(Store(db, clock), authority, grace, mono=mono)
        self._trusting = Trusting(db, authority)
        self._turn = asyncio.Lock()
        self.counts = Counts()
        self.refused = self._opener.refused
        self.oldest: float | None = None
        """When the oldest message under way was read, monotonic seconds; None while there is none."""

    def forget(self) -> None:
        """Other replicas may have written for devices that come to us now."""
        self._known.forget()
        self._resyncs.forget()

    # --- messages -------------------------------------------------------------------------------------------------------------

    async def open(self, inbound: Sequence[Inbound]) -> list[Inbound]:
        """Check and decode; heartbeats wait for `flush`, metrics are dropped. Those that are to be processed."""
        opened = await self._patiently(lambda: self._opener.open(inbound))
        return [m for m in opened if not self._is_passing(m)]

    async def process(self, opened: list[Inbound]) -> None:
        """Write a batch, however long it takes, and answer it. Batches are written in the order of the calls."""
        async with self._turn:
            for portion in portions(opened):
                self.oldest = portion[0].at
                try:
                    await self._write(portion)
                finally:
                    self.oldest = None

    async def flush(self) -> None:
        """Write the heartbeats that came since the last time, in one statement; tell people of forgeries; ask devices for sections that are
        missing; answer requests for certificates; tell of new keys."""
        async with self._turn:
            beats, self._beats = self._beats, {}
            if beats:
                odd = await self._patiently(lambda: self._beat(beats))
                if odd:
                    await self._write([Inbound(h, Heartbeat.suffix, "", b"", beats[h][1], message=beats[h][0]) for h in odd])
            await self._patiently(self._tell_of_forgeries)
        wanted = dict(self._resyncs.due(self._known, self._mono()))
        for host, session in (await self._patiently(lambda: self._sessions(list(wanted)))).items():
            log.info("asking for sections again", extra={"device": host, "sections": list(wanted[host])})
            await self._ask(host, session, wanted[host], "the stored sections differ from the manifest")
        for host, session in (await self._patiently(self._doubted)).items():
            await self._ask(host, session, (), "the server was restored from a backup", items=True)
        for host, session in (await self._patiently(self._unanswering)).items():
            await self._ask(host, session, (AGENT_SECTION,), "commands were sent and are not answered")
        await self._certify()
        await self._teach()

    async def _certify(self) -> None:
        """Of a device that asks twice the last request counts; who has to wait for the next second asks again in any case."""
        for host in list(self._requests)[:CERTIFIED_A_SECOND]:
            request = self._requests.pop(host)
            try:
                found = await self._patiently(lambda host=host, request=request: self._renewals.answer(host, request))  # type: ignore[misc]
            except (AuthorityError, OSError) as error:
                log.error("a certificate can't be made", extra={"device": host, "error": str(error)})
                continue
            if found is not None:
                await self._say(host, found)

    async def _teach(self) -> None:
        found = await self._patiently(lambda: self._trusting.untaught(self._mono()))
        if found is not None:
            hosts, keys = found
            for host in hosts:
                await self._say(host, keys)

    async def _unanswering(self) -> dict[str, str]:
        """Devices that are online and do not answer commands, now and then: asked how they stand, they get a checkpoint, which names
        them."""
        now = self._mono()
        if not self._looked.first("commands", now):
            return {}
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["unanswering_devices"], UNANSWERED, RESYNCS_A_SECOND)
        found = {row["host"]: row["session"] for row in rows if self._wondered.first(row["host"], now)}
        await self._opener.load(sorted(found))
        return found

    async def _sessions(self, hosts: list[str]) -> dict[str, str]:
        """The current session of each that has one."""
        if not hosts:
            return {}
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["sessions_of"], hosts)
        return {row["host"]: row["session"] for row in rows}

    async def _doubted(self) -> dict[str, str]:
        """Connected devices whose word since a backup is lost, few at a time: what they answer shows them that we lack it."""
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["doubted_devices"], RESYNCS_A_SECOND, ASK_AGAIN_S)
        await self._opener.load([row["host"] for row in rows])
        return {row["host"]: row["session"] for row in rows}

    async def _ask(self, host: str, session: str, sections: tuple[str, ...], reason: str, *, items: bool = False) -> None:
        """For this session and once: a resync that is replayed must not keep a device busy."""
        await self._say(host, Resync(sections=sections, items=items, reason=reason, session=session, id=secrets.token_hex(8)))

    async def _tell_of_forgeries(self) -> None:
        """The next batch is being opened meanwhile, and may add to them."""
        told = sorted(self._opener.forged)
        if not told:
            return
        async with bulk.transaction(self._db, self._clock()) as w:
            for host in told:
                await reports.notify(w, host, "warning", "MessageForged", FORGED)
        self._opener.forged.difference_update(told)

    def _is_passing(self, m: Inbound) -> bool:
        match m.message:
            case Heartbeat() as message:
                self._beats[m.device] = (message, m.at)
                return True
            case Metrics():
                self.counts.ignored += 1
                METER.count(INGESTED, "ignored")
                return True
            case CertificateRequest() as request:
                self._requests[m.device] = request
                return True
            case Presence():
                self._beats.pop(m.device, None)
        return False

    # --- the transaction ------------------------------------------------------------------------------------------------------

    async def _write(self, inbound: list[Inbound]) -> None:
        try:
            batch = await self._patiently(lambda: self._commit(inbound))
        except _StaleKeys as stale:
            devices = stale.devices
            await self._patiently(lambda: self._opener.load_anew(devices))
            left = await self.open([_unopened(m) if m.device in stale.devices else m for m in inbound])
            if left:
                await self._write(left)
            return
        except Exception as error:
            if len(inbound) > 1:
                middle = len(inbound) // 2
                await self._write(inbound[:middle])
                await self._write(inbound[middle:])
                return
            batch = await self._alone(inbound[0], error)
        await self._after(batch)

    async def _alone(self, m: Inbound, error: Exception) -> Batch:
        """The message that a transaction fails with: set aside instead of stored."""
        if m.problem:
            raise error
        log.error("message could not be stored", extra={"device": m.device, "suffix": m.suffix}, exc_info=error)
        m.message, m.problem = None, f"could not be stored: {error}"[:1000].replace("\0", "")
        return await self._patiently(lambda: self._commit([m]))

    async def _commit(self, inbound: list[Inbound]) -> Batch:
        began = time.monotonic()
        async with bulk.transaction(self._db, self._clock()) as w:
            batch = decide(await self._lock(w, inbound), inbound, w.at)
            known = await self._known.of(w.tx.raw, list(batch.reports.sections))
            await reports.write(w, batch.reports, known, self._for_people(batch.reports.logs))
            for host in sorted(batch.cloned):
                await reports.notify(w, host, "error", "IdentityShared", CLONED)
            await self._store(w, batch)
            awaited = await _awaited(w, sorted(batch.nonces))
        batch.awaited = awaited
        METER.observe(INGEST_SECONDS, time.monotonic() - began)
        self._known.learn(known)
        return batch

    async def _lock(self, w: BulkWriter, inbound: Sequence[Inbound]) -> dict[str, Stream]:
        rows = await w.tx.raw.fetch(SQL["lock_streams"], sorted({m.device for m in inbound}))
        incarnations = {row["host"]: row["incarnation"] for row in rows}
        stale = {m.device for m in inbound if m.incarnation and m.incarnation != incarnations.get(m.device, m.incarnation)}
        if stale:
            raise _StaleKeys(sorted(stale))
        return {row["host"]: _stream(row) for row in rows}

    async def _store(self, w: BulkWriter, batch: Batch) -> None:
        execute = w.tx.raw.execute
        if batch.advanced:
            moved = [batch.streams[host] for host in sorted(batch.advanced)]
            await execute(SQL["advance_streams"], [s.host for s in moved], [s.epoch for s in moved], [s.seq for s in moved])
        if batch.sessions:
            await execute(SQL["store_sessions"], *_session_columns([batch.streams[host] for host in sorted(batch.sessions)]))
        if batch.keys:
            await trusting.note(w.tx.raw, batch.keys)
        now = self._mono()
        alive = sorted(host for host in batch.alive if host in batch.sessions or self._touched.is_due(host, now))
        if alive:
            await execute(SQL["touch_liveness"], alive, [max(0.0, now - batch.alive[host]) for host in alive])
        if batch.poison:
            await execute(SQL["set_aside"], *_poison_columns(batch.poison), w.at)
            await execute(SQL["trim_poison"], sorted({m.device for m in batch.poison}), POISON_KEPT)

    def _for_people(self, logs: Sequence[tuple[str, Log]]) -> list[tuple[str, Log]]:
        """The errors among them, one a device and type. Only what has been committed counts as told."""
        now = self._mono()
        chosen = {(host, m.type): (host, m) for host, m in logs if m.severity in reports.TOLD_SEVERITIES}
        return [found for what, found in chosen.items() if self._told.is_due(what, now)]

    async def _beat(self, beats: Mapping[str, tuple[Heartbeat, float]]) -> list[str]:
        now, hosts = self._mono(), sorted(beats)
        async with self._db.acquire() as connection:
            rows = await connection.fetch(
                SQL["beat"],
                hosts,
                [beats[h][0].session for h in hosts],
                [beats[h][0].uptime_s for h in hosts],
                [min(beats[h][0].unacked, 2**31 - 1) for h in hosts],
                [max(0.0, now - beats[h][1]) for h in hosts],
            )
        return [row["host"] for row in rows]

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do it, again after a deadlock, and for as long as the database is out of reach."""
        deadlocks = lost = 0
        while True:
            try:
                found = await act()
                if lost:
                    log.info("database is back", extra={"tries": lost})
                return found
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                METER.count(RETRIES, "deadlock")
                deadlocks += 1
                if deadlocks == DEADLOCK_TRIES:
                    raise
            except Unavailable as error:
                METER.count(RETRIES, "away")
                log.warning("database is away", extra={"error": str(error)})
                self._interrupted()
                await asyncio.sleep(WAITS_S[min(lost, len(WAITS_S) - 1)])
                lost += 1

    # --- after the commit -----------------------------------------------------------------------------------------------------

    async def _after(self, batch: Batch) -> None:
        self.counts.add(batch.counts)
        _count(batch)
        now = self._mono()
        for host in batch.alive:
            if self._touched.is_due(host, now):
                self._touched.mark(host, now)
        for host, message in self._for_people(batch.reports.logs):
            self._told.mark((host, message.type), now)
        for m in batch.poison:
            log.warning("message set aside", extra={"device": m.device, "suffix": m.suffix, "error": m.problem})
        for host, hashes in batch.reports.hashes.items():
            self._known.keep(host, hashes)
            self._resyncs.note(host, batch.reports.manifests[host], self._known.get(host), now)
        for (host, epoch), verdict in batch.acks.items():
            await self._say(host, answer(batch.streams[host], epoch, verdict))
        for host, keys in batch.keys.items():
            if (news := self._trusting.news(keys, now)) is not None:
                await self._say(host, news)  # before the checkpoint, which the new keys may have signed
        for host, nonce in batch.nonces.items():
            text, signed = self._signer.checkpoint(self._moment(batch, host, nonce))
            await self._say(host, Checkpoint(signed=text, signature=signed.signature, key=signed.key, delegation=signed.delegation))

    def _moment(self, batch: Batch, host: str, nonce: str) -> Moment:
        """What a device's question is answered with; the signer adds the generation."""
        stream = batch.streams[host]
        return Moment(
            nonce=nonce,
            time=now_text(self._clock()),
            generation=0,
            fence=stream.fence,
            device=host,
            epoch=stream.epoch,
            seq=stream.seq,
            awaiting=tuple(batch.awaited.get(host, ())),
        )

    async def _say(self, host: str, message: Message) -> None:
        topic = self._topics.build(DeviceTopic(host, message.suffix))
        authenticated = message.suffix in AUTHENTICATED
        key = self._opener.key(host) if authenticated else None
        if authenticated and key is None:
            return  # revoked since: nothing is said to it any more
        try:
            payload = encode(message, sent_at=now_text(self._clock()), topic=topic if authenticated else "", key=key)
        except ContractError as error:
            log.error("answer can't be encoded", extra={"device": host, "suffix": message.suffix, "error": str(error)})
            return
        await self._send(topic, payload)


async def _awaited(w: BulkWriter, hosts: list[str]) -> dict[str, list[str]]:
    """Commands that were sent to these devices and that they have not answered, oldest first."""
    if not hosts:
        return {}
    rows = await w.tx.raw.fetch(SQL["awaited_commands"], hosts, MAX_AWAITED)
    return {row["host"]: list(row["ids"]) for row in rows}


def _count(batch: Batch) -> None:
    for outcome, n in asdict(batch.counts).items():
        METER.count(INGESTED, outcome, n=n)
    for state in batch.reports.ended:
        METER.count(ENDED, state)
    if batch.reports.misplaced:
        METER.count(REFUSED, "not_its_command", n=batch.reports.misplaced)
    _count_refused(batch.reports.logs)


def _count_refused(logs: Sequence[tuple[str, Log]]) -> None:
    """What devices have refused that came in our name. A device's word: only the reasons that there are, and no absurd numbers."""
    for _, message in logs:
        if message.type != MESSAGES_REFUSED:
            continue
        for doubt in Doubt:
            n = message.data.get(doubt)
            if isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31:
                METER.count(DEVICES_REFUSED, doubt, n=n)


def portions(opened: list[Inbound], most: int = TRANSACTION_BYTES) -> Iterator[list[Inbound]]:
    """The messages in order, cut where a transaction would hold more than `most` bytes of payload; never empty."""
    portion: list[Inbound] = []
    size = 0
    for m in opened:
        if portion and size + len(m.payload) > most:
            yield portion
            portion, size = [], 0
        portion.append(m)
        size += len(m.payload)
    if portion:
        yield portion


def _unopened(m: Inbound) -> Inbound:
    return Inbound(m.device, m.suffix, m.topic, m.payload, m.at)


def _stream(row: Any) -> Stream:
    return Stream(
        row["host"],
        row["epoch"],
        row["seq"],
        row["session"],
        row["session_since"],
        row["boot_id"],
        loads(row["retired"]),
        loads(row["retired_epochs"]),
        row["keepalive_s"],
        row["heartbeat_s"],
        row["flaps"],
        row["fence"],
    )


def _session_columns(changed: Sequence[Stream]) -> tuple[list[Any], ...]:
    return (
        [s.host for s in changed],
        [s.session for s in changed],
        [s.session_since for s in changed],
        [s.boot_id for s in changed],
        [dumps(s.retired) for s in changed],
        [dumps(s.retired_epochs) for s in changed],
        [s.keepalive_s for s in changed],
        [s.heartbeat_s for s in changed],
        [s.flaps for s in changed],
    )


def _poison_columns(messages: Sequence[Inbound]) -> tuple[list[Any], ...]:
    return (
        [m.device for m in messages],
        [m.suffix for m in messages],
        [m.envelope.epoch if m.envelope else None for m in messages],
        [m.envelope.seq if m.envelope else None for m in messages],
        [m.problem for m in messages],
        [m.payload for m in messages],
    )

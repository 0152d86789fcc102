"""Commands to devices: signed at each send, sent until the device has them, and ended at their deadline at the latest.

Managers make commands; the device's results end them (`inventory.ingest`); this is what lies between. `next_step` decides, purely. A send
takes a new fence in the transaction that notes it, and is published after the commit, so that no number is ever used twice; a message that
is lost then is sent again. A terminal state is final: rows are locked, and only those that have not ended are looked at.

Source: design.md section 4 (Commands), contract.md section 3.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from broker.client import NotConnected
from broker.messages import Command, CommandState, ContractError, Order, ResourceRef, encode, encode_text, now_text
from broker.topics import DeviceTopic, Topics
from inventory import dispatching
from inventory.actor import Actor
from inventory.dispatching import DueCommand, Sent
from inventory.errors import Unavailable
from inventory.kinds.command import COMMAND
from inventory.metrics import ENDED, METER, SENT
from inventory.signing import CommandSigner
from inventory.store import Store
from inventory.vault import NoKey, Unsealable, Vault
from managers.sealed_args import filled

log = logging.getLogger(__name__)

ACTOR = Actor.manager("dispatch")
BATCH = 200
RESEND = timedelta(seconds=10)
"""Without `accepted` for so long, it is signed and sent again."""
RECHECK = timedelta(seconds=5)
"""For a command whose device is not there just now."""
GRACE = timedelta(seconds=30)
"""Beyond the last moment at which a run may end, for its result to arrive."""
POLL_S = 1.0
"""How often a dispatcher looks: for new sessions and hosts that are trusted no more, and, where it is idle, for what else is due."""
AWAY_S = 1.0


class Wire(Protocol):
    """What is needed of `broker.client.Session`."""

    @property
    def connected_since(self) -> datetime | None: ...

    async def send(self, topic: str, payload: bytes, qos: int = 1) -> None: ...


# --- the decision ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Sign and send now; look again at `due_at`."""

    due_at: datetime


@dataclass(frozen=True, slots=True)
class Wait:
    due_at: datetime


@dataclass(frozen=True, slots=True)
class End:
    state: CommandState


Step = Send | Wait | End


def deadline(command: DueCommand) -> datetime:
    """When it has ended in any case: started at the last moment, run to its limit, and the result on its way."""
    return command.not_after + timedelta(seconds=command.timeout_s) + GRACE


def next_step(command: DueCommand, now: datetime, connected: bool) -> Step:
    """What is due for a command that has not ended. `connected`: this process has a connection to the broker."""
    taken = command.state in (CommandState.ACCEPTED, CommandState.RUNNING)
    end = deadline(command) if taken else command.not_after
    if now >= end:
        return End(CommandState.TIMED_OUT)
    if not taken and (command.host_state != "onboarded" or not command.enrolled):
        return End(CommandState.CANCELLED)
    there = connected and command.presence in ("online", "stale") and command.session is not None
    if not there:
        return Wait(min(end, now + RECHECK))
    if taken and command.sent_session == command.session:
        return Wait(end)
    return Send(end if taken else min(end, now + RESEND))


# --- the dispatcher -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Batch:
    sends: list[tuple[DueCommand, datetime]] = field(default_factory=list)
    waits: list[tuple[DueCommand, datetime]] = field(default_factory=list)
    ends: list[tuple[DueCommand, CommandState]] = field(default_factory=list)
    outgoing: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Command id, topic, payload."""


class Dispatcher:
    """Any number may run; a command is in one hand at a time."""

    def __init__(
        self,
        store: Store,
        wire: Wire,
        signer: CommandSigner,
        vault: Vault,
        topics: Topics,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """`clock`: for tests; else the database's, which whoever made the commands went by."""
        self._store = store
        self._wire = wire
        self._signer = signer
        self._vault = vault
        self._topics = topics
        self._clock: Callable[[], datetime | None] = clock or (lambda: None)
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is a new command, or a new connection to the broker."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. Database and broker may go and come back."""
        roused = time.monotonic()
        while True:
            self._wake.clear()
            if time.monotonic() - roused >= POLL_S:
                await self._rouse()
                roused = time.monotonic()
            try:
                busy = await self.step() >= BATCH
            except Unavailable as error:
                log.warning("commands wait: the database is away", extra={"error": str(error)})
                await asyncio.sleep(AWAY_S)
                continue
            if not busy:
                await self._idle()

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        except TimeoutError:
            pass  # time to look

    async def _rouse(self) -> None:
        try:
            async with self._store.db.acquire() as connection:
                await dispatching.rouse(connection, self._clock())
        except Unavailable:
            pass  # the next step says so

    async def step(self) -> int:
        """Deal with a batch of due commands; how many there were."""
        batch = await self._store.retrying(self._decide)
        for id, topic, payload in batch.outgoing:
            try:
                await self._wire.send(topic, payload)
            except NotConnected as error:
                log.warning("a command could not be sent; it will be again", extra={"command": id, "error": str(error)})
            else:
                METER.count(SENT)
        for _, state in batch.ends:
            METER.count(ENDED, str(state))
        return len(batch.sends) + len(batch.waits) + len(batch.ends)

    async def _decide(self) -> _Batch:
        batch = _Batch()
        async with self._store.transaction() as w:
            due = await dispatching.take_due(w.tx, self._clock(), BATCH)
            if not due:
                return batch
            now = due[0].now
            self._sort(batch, due, now)
            fences = await dispatching.take_fences(w.tx, [command.host for command, _ in batch.sends]) if batch.sends else {}
            await dispatching.note_sent(w.tx, self._sign(batch, fences, now), now)
            await dispatching.note_waiting(w.tx, batch.waits)
            for command, state in batch.ends:
                await w.write(COMMAND, command.id, {"state": state, "finished_at": now, "due_at": None, "sealed": None}, ACTOR)
                log.info("command ended without the device's word", extra={"command": command.id, "device": command.host, "state": state})
        return batch

    def _sort(self, batch: _Batch, due: Sequence[DueCommand], now: datetime) -> None:
        connected = self._wire.connected_since is not None
        for command in due:
            match next_step(command, now, connected):
                case Send(due_at):
                    batch.sends.append((command, due_at))
                case Wait(due_at):
                    batch.waits.append((command, due_at))
                case End(state):
                    batch.ends.append((command, state))

    def _sign(self, batch: _Batch, fences: dict[str, list[int]], now: datetime) -> list[Sent]:
        """What can't be put into a message will never be: it is rejected here. A device that has just gone has no fence; its row goes. What
        this process can't open yet waits; what nobody can is withdrawn, and made anew where it is still wanted."""
        signed = []
        for command, due_at in batch.sends:
            try:
                fence = fences[command.host].pop(0)
                batch.outgoing.append(
                    (command.id, self._topics.build(DeviceTopic(command.host, Command.suffix)), self._payload(command, fence, now))
                )
                signed.append(Sent(command, due_at, fence))
            except KeyError:
                batch.ends.append((command, CommandState.CANCELLED))
            except NoKey as error:
                log.warning("a command waits: its secrets can't be opened here", extra={"command": command.id, "error": str(error)})
                batch.waits.append((command, now + RECHECK))
            except Unsealable as error:
                log.error("a command's secrets can't be opened", extra={"command": command.id, "error": str(error)})
                batch.ends.append((command, CommandState.CANCELLED))
            except ContractError as error:
                log.error("a command can't be sent", extra={"command": command.id, "device": command.host, "error": str(error)})
                batch.ends.append((command, CommandState.REJECTED))
        return signed

    def _payload(self, command: DueCommand, fence: int, now: datetime) -> bytes:
        order = Order(
            id=command.id,
            device=command.host,
            verb=command.verb,
            args=filled(self._vault, command.id, command.args, command.sealed),
            resource=ResourceRef(**command.resource) if command.resource else None,
            fence=fence,
            attempt=command.attempt,
            issued_at=now_text(now),
            not_after=now_text(command.not_after),
            timeout_s=command.timeout_s,
            first_fence=command.first_fence or fence,
        )
        text = encode_text(order)
        signed = self._signer.sign(text)
        message = Command(signed=text, signature=signed.signature, key=signed.key, delegation=signed.delegation)
        return encode(message, sent_at=now_text(now))

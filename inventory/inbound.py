"""Messages of devices as they arrive, opened: envelope, MAC, body. Called by `inventory.ingest` before it writes anything.

What is for nobody or by nobody (an unknown or revoked device, a bad MAC, another device's topic) is dropped and counted, and told in the
log once in a while. A body that can't be used stays, with its `problem`, to be set aside and acknowledged. Channel keys are derived once
and remembered; a MAC that does not fit has the device's incarnation read again first, because it may have enrolled anew.

Source: design.md section 4 ("Poison"), contract.md section 3.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.messages import BadMac, CommandState, ContractError, Envelope, Facts, Message, Result, open_envelope, read
from inventory import facts
from inventory.authority import Authority
from inventory.db import SQL, Database
from inventory.memory import Recently
from inventory.metrics import METER, REFUSED

log = logging.getLogger(__name__)

ASK_AGAIN_S = 5.0
"""A device that is not known, or whose MAC is bad, is looked up in the database this often at most, in seconds."""

TELL_AGAIN_S = 600.0
"""Likewise for saying so in the log."""


@dataclass(slots=True)
class Inbound:
    """A message of a device. `at`: when it was read, seconds of the monotonic clock. `problem`: why its body can't be used.
    `incarnation`: of the key that its MAC was checked with."""

    device: str
    suffix: str
    topic: str
    payload: bytes
    at: float
    envelope: Envelope | None = None
    message: Message | None = None
    problem: str = ""
    incarnation: int = 0


@dataclass(slots=True)
class Refused:
    """Messages dropped since the process began, by reason."""

    bad_mac: int = 0
    unknown_device: int = 0


class Opener:
    """Opens messages. Raises Unavailable where a key has to be looked up and can't be."""

    def __init__(self, db: Database, authority: Authority, mono: Callable[[], float] = time.monotonic) -> None:
        self._db, self._authority, self._mono = db, authority, mono
        self._keys: dict[str, tuple[int, bytes]] = {}
        self._asked = Recently(ASK_AGAIN_S)
        self._told = Recently(TELL_AGAIN_S)
        self.refused = Refused()
        self.forged: set[str] = set()
        """Devices in whose name a bad MAC came, and that it is time to tell people of. Who tells takes them out."""

    async def open(self, inbound: Sequence[Inbound]) -> list[Inbound]:
        """Those that are by somebody: each with its message, or with its problem."""
        await self._load({m.device for m in inbound if m.device not in self._keys})
        forged = [m for m in inbound if not self._open_one(m)]
        if forged:
            await self._load({m.device for m in forged})
            for m in forged:
                if not self._open_one(m):
                    self.refused.bad_mac += 1
                    METER.count(REFUSED, "bad_mac")
                    if self._tell(m, "bad MAC"):
                        self.forged.add(m.device)
        return [m for m in inbound if m.message is not None or m.problem]

    def key(self, device: str) -> bytes | None:
        """The channel key of a device whose messages were opened."""
        found = self._keys.get(device)
        return found[1] if found else None

    async def load(self, devices: Sequence[str]) -> None:
        """Have the keys of devices that are to be written to. Raises Unavailable."""
        await self._load({device for device in devices if device not in self._keys})

    async def load_anew(self, devices: Sequence[str]) -> None:
        """Their keys are not what they were, and stay until the others are here: to whoever opens other messages meanwhile a device without
        a key is nobody. Raises Unavailable."""
        for device in devices:
            self._asked.forget(device)
        await self._load(set(devices))

    def _open_one(self, m: Inbound) -> bool:
        """False: its MAC is not good. One of a device that is not known stays without message and problem."""
        found = self._keys.get(m.device)
        if found is None:
            self.refused.unknown_device += 1
            METER.count(REFUSED, "unknown_device")
            self._tell(m, "unknown device")
            return True
        m.incarnation, key = found
        try:
            m.envelope = open_envelope(m.suffix, m.payload, topic=m.topic, key=key)
            m.message = read(m.envelope)
            _check(m.message)
        except BadMac:
            return False
        except ContractError as error:
            m.message, m.problem = None, str(error)[:1000]
        return True

    async def _load(self, devices: set[str]) -> None:
        now = self._mono()
        wanted = sorted(device for device in devices if self._asked.is_due(device, now))
        if not wanted:
            return
        async with self._db.acquire() as connection:
            rows = await connection.fetch(SQL["device_keys"], wanted)
        for device in wanted:
            self._asked.mark(device, now)
            self._keys.pop(device, None)
        for row in rows:
            self._keys[row["host"]] = (row["incarnation"], self._authority.channel_key(row["host"], row["incarnation"]))

    def _tell(self, m: Inbound, reason: str) -> bool:
        """Whether it was time to."""
        if not self._told.first((m.device, reason), self._mono()):
            return False
        log.warning("message refused", extra={"device": m.device, "suffix": m.suffix, "reason": reason})
        return True


def _check(message: Message) -> None:
    """What the wire's types can't say. Raises ContractError."""
    match message:
        case Facts(sections=sections):
            facts.check({name: section.data for name, section in sections.items()})
        case Result(state=CommandState.QUEUED | CommandState.SENT):
            raise ContractError("state: is not a device's to say")
        case _:
            pass

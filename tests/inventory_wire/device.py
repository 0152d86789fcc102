"""A device as ingest sees it: enrolled in the database, its messages made with its own key. No agent, no broker."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from broker.messages import (
    AUTHENTICATED,
    DURABLE,
    Ack,
    Checkpoint,
    CommandState,
    Error,
    Facts,
    Heartbeat,
    Item,
    Log,
    Message,
    Presence,
    Result,
    Resync,
    Section,
    Status,
    decode,
    encode,
    now_text,
    section_hash,
)
from broker.topics import DeviceTopic, Topics
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.db import Database
from inventory.inbound import Inbound
from inventory.kinds import BY_NAME
from inventory.store import Store

TOPICS = Topics()


@dataclass(slots=True)
class Device:
    """An enrolled device. `said`: what it was sent, decoded, in order."""

    id: str
    key: bytes
    epoch: str = "e1"
    seq: int = 0
    session: str = "s1"
    boot: str = "b1"
    sections: dict[str, Any] = field(default_factory=dict)

    def topic(self, suffix: str) -> str:
        return TOPICS.build(DeviceTopic(self.id, suffix))

    def payload(self, message: Message, *, epoch: str | None = None, seq: int | None = None) -> bytes:
        """The bytes of a message; a durable one gets the next number where none is given."""
        suffix = message.suffix
        durable: dict[str, Any] = {}
        if suffix in DURABLE:
            if seq is None:
                self.seq += 1
                seq = self.seq
            durable = {"epoch": epoch or self.epoch, "seq": seq}
        sealed: dict[str, Any] = {"topic": self.topic(suffix), "key": self.key} if suffix in AUTHENTICATED else {}
        return encode(message, sent_at=now_text(datetime.now(UTC)), **durable, **sealed)

    def inbound(self, message: Message, *, at: float = 0.0, **numbers: Any) -> Inbound:
        return Inbound(self.id, message.suffix, self.topic(message.suffix), self.payload(message, **numbers), at)

    def raw(self, suffix: str, payload: bytes, *, at: float = 0.0) -> Inbound:
        return Inbound(self.id, suffix, self.topic(suffix), payload, at)

    def presence(self, *, online: bool = True, session: str | None = None, boot: str | None = None) -> Presence:
        return Presence(
            online=online,
            session=session or self.session,
            epoch=self.epoch,
            boot_id=boot or self.boot,
            agent_version="0.1.0",
            keepalive_s=30,
            heartbeat_s=30,
            nonce="n1",
        )

    def heartbeat(self, session: str | None = None) -> Heartbeat:
        return Heartbeat(session=session or self.session, uptime_s=5, unacked=0)

    def facts(self, **sections: Any) -> Facts:
        """Sections that changed; the manifest is of all there were so far."""
        self.sections |= sections
        return Facts(
            sections={name: Section(hash=section_hash(data), data=data) for name, data in sections.items()},
            manifest={name: section_hash(data) for name, data in self.sections.items()},
        )


def status(*items: Item, full: bool = False) -> Status:
    return Status(full=full, items=items)


def result(command: str, state: str, id: str = "r1", error: Error | None = None, output: str = "") -> Result:
    return Result(id=id, command=command, state=CommandState(state), error=error, output=output)


def log_message(id: str = "l1", severity: str = "info", type: str = "test", message: str = "something") -> Log:
    return Log(id=id, type=type, severity=severity, message=message)


@dataclass(slots=True)
class Sent:
    """What ingest sends: collected, and decoded for a device."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)

    async def __call__(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))

    def to(self, device: Device) -> list[Message]:
        """Every message for a device, each with a good MAC."""
        found = []
        for topic, payload in self.messages:
            parsed = TOPICS.parse(topic)
            assert isinstance(parsed, DeviceTopic)
            if parsed.device == device.id:
                key = device.key if parsed.channel in AUTHENTICATED else None
                found.append(decode(parsed.channel, payload, topic=topic if key else "", key=key))
        return found

    def acks(self, device: Device) -> list[tuple[str, int]]:
        return [(m.epoch, m.seq) for m in self.to(device) if isinstance(m, Ack)]

    def resyncs(self, device: Device) -> list[Resync]:
        return [m for m in self.to(device) if isinstance(m, Resync)]

    def checkpoints(self, device: Device) -> list[Checkpoint]:
        return [m for m in self.to(device) if isinstance(m, Checkpoint)]


async def make_device(db: Database, store: Store, authority: Authority, name: str = "edge") -> Device:
    """A host with an identity and a stream, as enrollment leaves them."""
    [device] = await make_devices(db, store, authority, [name])
    return device


async def make_devices(db: Database, store: Store, authority: Authority, names: Sequence[str]) -> list[Device]:
    devices = []
    async with store.transaction() as w:
        for name in names:
            host = await w.make(BY_NAME["host"], {"name": name, "desired_state": "onboarded"}, Actor.system())
            await w.tx.raw.execute(
                "INSERT INTO device_identity (host, fingerprint, incarnation, certificate, certificate_serial, expires_at, fence, evidence,"
                " created_at) VALUES ($1, $1, 1, '', '', now(), 0, '{}', now())",
                host,
            )
            await w.tx.raw.execute(
                "INSERT INTO device_stream (host, seq, retired, retired_epochs, keepalive_s, heartbeat_s, flaps)"
                " VALUES ($1, 0, '[]', '[]', 30, 30, 0)",
                host,
            )
            devices.append(Device(host, authority.channel_key(host, 1)))
    return devices

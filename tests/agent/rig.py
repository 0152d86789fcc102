"""What the agent's tests stand on: an authority that signs and seals as the server does, and a model of the server's half of the wire.

It is no second implementation of the server: it knows what the contract says a server does with a message, and nothing about databases.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nacl.signing import SigningKey

from broker.messages import (
    AUTHENTICATED,
    DURABLE,
    Ack,
    Checkpoint,
    Command,
    ContractError,
    Delegation,
    Facts,
    Item,
    KeyList,
    Keys,
    KeySignature,
    Log,
    Mandate,
    Message,
    Moment,
    Order,
    Presence,
    ResourceRef,
    Result,
    Resync,
    SignedKeys,
    Status,
    encode,
    encode_text,
    now_text,
    open_envelope,
    read,
)
from broker.topics import DeviceTopic, Topics
from edge_agent.state import Profile, Rule
from edge_agent.trust import Ring

DEVICE = "host-01kb2v8m2c6x1s9q4k7w0t5b8n"
START = 1_795_370_000.0
"""The server's clock when the tests begin."""


CA = "-----BEGIN CERTIFICATE-----\nMIH=\n-----END CERTIFICATE-----\n"
"""Of a CA, as far as the agent looks at it: bytes that have a hash."""

NEVER_GIVEN = 2**53 - 1
"""The answer to an epoch that was left: its device has been rolled back and has to begin another."""


def text(at: float) -> str:
    return now_text(datetime.fromtimestamp(at, UTC))


@dataclass
class Authority:
    """The keys of a fleet, and one device's channel key."""

    device: str = DEVICE
    root: SigningKey = field(default_factory=lambda: SigningKey(b"r" * 32))
    key: SigningKey = field(default_factory=lambda: SigningKey(b"c" * 32))
    channel_key: bytes = b"k" * 32
    generation: int = 1
    valid: tuple[float, float] = (START - 86400, START + 86400)
    topics: Topics = field(default_factory=Topics)

    def profile(self, verbs: Mapping[str, Rule] | None = None) -> Profile:
        more: dict[str, Any] = {} if verbs is None else {"verbs": verbs}
        return Profile(self.device, self.topics, Ring(0, (bytes(self.root.verify_key),)), self.channel_key, "boot-1", "0.1.0", **more)

    def topic(self, suffix: str) -> str:
        return self.topics.build(DeviceTopic(self.device, suffix))

    def delegation(self) -> Delegation:
        public = base64.b64encode(bytes(self.key.verify_key)).decode()
        mandate = Mandate(public_key=public, generation=self.generation, not_before=text(self.valid[0]), not_after=text(self.valid[1]))
        signed = encode_text(mandate)
        return Delegation(signed=signed, signature=_sign(self.root, signed))

    @property
    def key_id(self) -> str:
        return _id(self.key)

    def checkpoint(self, nonce: str, at: float, generation: int | None = None, **said: Any) -> bytes:
        """`said`: further members of the signed text; `device` is ours where it is not among them."""
        generation = self.generation if generation is None else generation
        values: dict[str, Any] = {"nonce": nonce, "time": text(at), "generation": generation, "device": self.device}
        moment = Moment(**(values | said))
        signed = encode_text(moment)
        message = Checkpoint(signed=signed, signature=_sign(self.key, signed), key=self.key_id, delegation=self.delegation())
        return self.sealed(message, at)

    def keys(self, generation: int, signers: Sequence[SigningKey], *roots: SigningKey, at: float = START, ca: str = CA) -> Keys:
        """A list of keys: this root alone where none is given, and one CA."""
        listed = [base64.b64encode(bytes(key.verify_key)).decode() for key in roots or (self.root,)]
        text_ = encode_text(KeyList(generation=generation, issued_at=text(at), authorities=(ca,), command_roots=tuple(listed)))
        made = tuple(KeySignature(key=_id(key), signature=_sign(key, text_)) for key in signers)
        return Keys(lists=(SignedKeys(signed=text_, signatures=made),))

    def command(self, order: Order, at: float) -> bytes:
        signed = encode_text(order)
        message = Command(signed=signed, signature=_sign(self.key, signed), key=self.key_id, delegation=self.delegation())
        return self.sealed(message, at)

    def sealed(self, message: Message, at: float, **envelope: Any) -> bytes:
        """The message's bytes, with its MAC where it has one."""
        if message.suffix in AUTHENTICATED:
            envelope |= {"topic": self.topic(message.suffix), "key": self.channel_key}
        return encode(message, sent_at=text(at), **envelope)

    def order(self, id: str, fence: int, verb: str = "config.apply", at: float = START, **changes: Any) -> Order:
        values: dict[str, Any] = {
            "id": id,
            "device": self.device,
            "verb": verb,
            "args": {},
            "resource": ResourceRef(kind="host-config", id=f"hcfg-{id}", generation=1),
            "fence": fence,
            "attempt": 1,
            "issued_at": text(at),
            "not_after": text(at + 3600),
            "timeout_s": 60,
        }
        return Order(**(values | changes))


def _id(key: SigningKey) -> str:
    return hashlib.sha256(bytes(key.verify_key)).hexdigest()[:16]


def _sign(key: SigningKey, signed: str) -> str:
    return base64.b64encode(key.sign(signed.encode()).signature).decode()


@dataclass
class Server:
    """What the server knows of one device: go-back-N's other half, and what it has committed."""

    authority: Authority
    epoch: str = ""
    seq: int = 0
    retired: set[str] = field(default_factory=set)
    online: bool = False
    session: str = ""
    presences: list[Presence] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, str] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    results: dict[str, list[Result]] = field(default_factory=dict)
    logs: dict[str, Log] = field(default_factory=dict)
    poisoned: list[str] = field(default_factory=list)
    committed: int = 0

    def receive(self, suffix: str, payload: bytes, at: float) -> list[tuple[str, bytes]]:
        """Take one message; the answers as (suffix, payload)."""
        topic = self.authority.topic(suffix)
        envelope = open_envelope(suffix, payload, topic=topic, key=self.authority.channel_key)
        if suffix not in DURABLE:
            return self._transient(read(envelope), at)
        assert envelope.epoch is not None and envelope.seq is not None
        if envelope.epoch in self.retired:
            return [self._ack(envelope.epoch, NEVER_GIVEN, at)]
        if envelope.epoch != self.epoch and envelope.seq == 1:
            self.retired.add(self.epoch)
            self.epoch, self.seq = envelope.epoch, 0
        if envelope.epoch != self.epoch:
            return [self._ack(envelope.epoch, 0, at)]
        if envelope.seq == self.seq + 1:
            self.seq += 1
            self.committed += 1
            try:
                self._commit(read(envelope))
            except ContractError as error:
                self.poisoned.append(str(error))
        return [self._ack(self.epoch, self.seq, at)]

    def lacking(self) -> tuple[str, ...]:
        """Sections that the last manifest names and that are not here."""
        return tuple(sorted(name for name, hash in self.manifest.items() if self.sections.get(name) != hash))

    def resync(self, at: float, sections: tuple[str, ...] | None, items: bool) -> tuple[str, bytes]:
        return "down/resync", self.authority.sealed(Resync(sections=sections, items=items, reason="test"), at)

    def final(self, command: str) -> Result | None:
        """The first final report of a command counts; what comes later is kept beside it."""
        return next((r for r in self.results.get(command, []) if r.state.final), None)

    def states(self, command: str) -> list[str]:
        return [str(r.state) for r in self.results.get(command, [])]

    def _transient(self, message: Message, at: float) -> list[tuple[str, bytes]]:
        if not isinstance(message, Presence):
            return []
        self.presences.append(message)
        if not message.online:
            self.online = self.online and message.session != self.session
            return []
        self.online, self.session = True, message.session
        return [("down/checkpoint", self.authority.checkpoint(message.nonce, at, epoch=self.epoch or None, seq=self.seq))]

    def _ack(self, epoch: str, seq: int, at: float) -> tuple[str, bytes]:
        return "down/ack", self.authority.sealed(Ack(epoch=epoch, seq=seq), at)

    def _commit(self, message: Message) -> None:
        match message:
            case Facts(sections=sections, manifest=manifest):
                self.sections |= {name: section.hash for name, section in sections.items()}
                self.manifest = dict(manifest)
            case Status(full=full, items=items):
                kept = {} if full else self.items
                self.items = {**kept, **{item.id: item for item in items}}
                self.items = {id: item for id, item in self.items.items() if item.state != "absent"}
            case Result():
                reports = self.results.setdefault(message.command, [])
                if all(r.id != message.id for r in reports):
                    reports.append(message)
            case Log():
                self.logs[message.id] = message
            case _:
                raise AssertionError(f"{message} is not durable")

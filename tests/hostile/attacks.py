"""What whoever runs the broker can make of what it has carried, and of keys of its own: endless, seeded, each with what it must be taken
for.

The attacker has every message that ever came by, its own signing keys and channel key, and one stolen command key that has been replaced
since. It has neither the current command key, nor the root's, nor a device's channel key. `Attacks.down` makes messages for a device,
`Attacks.up` messages in a device's name.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from nacl.signing import SigningKey

from broker.messages import (
    Ack,
    Checkpoint,
    Command,
    CommandState,
    Delegation,
    Doubt,
    Mandate,
    Moment,
    Order,
    Result,
    Resync,
    decode_text,
    encode,
    encode_text,
    now_text,
)
from tests.hostile.ground import Machine
from tests.hostile.mqtt import Carried

Attack = tuple[str, bytes]
"""Topic and payload."""

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Stolen:
    """A command key with what certified it; and mandates that the root once signed for it, for other times."""

    key: SigningKey
    delegation: Delegation
    out_of_time: tuple[Delegation, ...]


@dataclass(frozen=True, slots=True)
class Booty:
    """Genuine messages, by what they are to the victim now. `known`: commands in its journal; `lost`: commands that a journal before that
    one had seen; `elsewhere`: commands, checkpoints and acknowledgements for another device; `said`: by the victim, of this epoch;
    `former`: of the one before."""

    known: list[Carried]
    lost: list[Carried]
    elsewhere: list[Carried]
    checkpoints: list[Carried]
    old_acks: list[Carried]
    resyncs: list[Carried]
    said: list[Carried]
    former: list[Carried]


class Attacks:
    """Draws attacks from one seed."""

    def __init__(self, seed: int, victim: Machine, other: Machine, booty: Booty, stolen: Stolen) -> None:
        self._random = Random(seed)
        self._victim, self._other = victim, other
        self._booty, self._stolen = booty, stolen
        self._key = SigningKey(b"a" * 32)
        self._root = SigningKey(b"b" * 32)
        self._channel = b"c" * 32
        self._down: tuple[tuple[Doubt, Callable[[], Attack]], ...] = (
            *((Doubt.FORGED_COMMAND, make) for make in (self._by_own_key, self._own_delegation, self._tampered, self._altered_mandate)),
            *((Doubt.FORGED_COMMAND, make) for make in (self._swapped_signature, self._checkpoint_as_command)),
            *((Doubt.VOID_COMMAND, make) for make in (self._stolen_key, self._out_of_time)),
            (Doubt.MISDELIVERED_COMMAND, lambda: self._elsewhere("down/command")),
            (Doubt.REPLAYED_COMMAND, lambda: self._again(self._booty.known)),
            (Doubt.STALE_COMMAND, lambda: self._again(self._booty.lost)),
            *((Doubt.FORGED_CHECKPOINT, make) for make in (self._own_checkpoint, self._tampered_checkpoint, self._command_as_checkpoint)),
            (Doubt.MISDELIVERED_CHECKPOINT, lambda: self._elsewhere("down/checkpoint")),
            (Doubt.LATE_CHECKPOINT, lambda: self._again(self._booty.checkpoints)),
            *((Doubt.BAD_MAC, make) for make in (self._own_ack, self._tampered_ack, self._own_resync, self._crossed, self._reflected)),
            (Doubt.BAD_MAC, lambda: self._elsewhere("down/ack")),
            (Doubt.LATE_ACK, lambda: self._again(self._booty.old_acks)),
            (Doubt.REPLAYED_RESYNC, lambda: self._again(self._booty.resyncs)),
            (Doubt.FOREIGN_TOPIC, self._foreign),
            (Doubt.UNREADABLE, self._garbage),
        )
        self._up: tuple[tuple[str, Callable[[], Attack]], ...] = (
            *(("bad_mac", make) for make in (self._own_result, self._tampered_result, self._others_word, self._crossed_up)),
            ("duplicates", lambda: self._again(self._booty.said)),
            ("retired", lambda: self._again(self._booty.former)),
        )

    def down(self) -> tuple[Doubt, Attack]:
        """One against the victim."""
        doubt, make = self._random.choice(self._down)
        return doubt, make()

    def up(self) -> tuple[str, Attack]:
        """One in the victim's name."""
        fate, make = self._random.choice(self._up)
        return fate, make()

    # --- commands -------------------------------------------------------------------------------------------------------------

    def _by_own_key(self) -> Attack:
        """A fresh order, the genuine delegation, the genuine key's name, and a signature that is not its."""
        genuine = self._command()
        text = self._order()
        return self._sent(replace(genuine, signed=text, signature=_sign(self._key, text)))

    def _own_delegation(self) -> Attack:
        """Everything fits together, but for the root."""
        text = self._order()
        delegation = _delegate(self._root, self._key, self._random.randint(1, 2**40), -DAY, DAY)
        return self._sent(Command(signed=text, signature=_sign(self._key, text), key=_key_id(self._key), delegation=delegation))

    def _tampered(self) -> Attack:
        """A genuine order with one member changed, under its own signature."""
        genuine = self._command()
        order = json.loads(genuine.signed)
        later = now_text(datetime.now(UTC) + DAY)
        change = self._random.choice(
            (
                {"fence": self._fence()},
                {"not_after": later, "fence": self._fence()},
                {"id": f"cmd-{self._random.getrandbits(64):016x}", "fence": self._fence()},
                {"args": order["args"] | {"on_change": f"echo forged >> {self._victim.files}/runs"}, "fence": self._fence()},
                {"verb": "config.remove", "fence": self._fence()},
                {"timeout_s": 86400, "fence": self._fence()},
            )
        )
        return self._sent(replace(genuine, signed=json.dumps(order | change)))

    def _altered_mandate(self) -> Attack:
        """The genuine delegation, made out to a key of ours."""
        genuine, text = self._command(), self._order()
        mandate = json.loads(genuine.delegation.signed) | {"public_key": _b64(bytes(self._key.verify_key))}
        delegation = replace(genuine.delegation, signed=json.dumps(mandate))
        return self._sent(Command(signed=text, signature=_sign(self._key, text), key=_key_id(self._key), delegation=delegation))

    def _swapped_signature(self) -> Attack:
        """The signature of another genuine order, or one with a bit turned."""
        first, second = self._command(), self._command()
        raw = bytearray(base64.b64decode(second.signature))
        if first.signed == second.signed:
            raw[self._random.randrange(64)] ^= 1 << self._random.randrange(8)
        return self._sent(replace(first, signature=_b64(bytes(raw))))

    def _checkpoint_as_command(self) -> Attack:
        """A genuine signature by the genuine key, over what is no order."""
        found = json.loads(self._random.choice(self._booty.checkpoints).payload)
        return self._victim.topic("down/command"), json.dumps(found).encode()

    def _stolen_key(self) -> Attack:
        """A perfect order by a key that was replaced."""
        return self._by_stolen(self._stolen.delegation)

    def _out_of_time(self) -> Attack:
        """The same, under a delegation of the right generation that is over, or has not begun."""
        return self._by_stolen(self._random.choice(self._stolen.out_of_time))

    def _by_stolen(self, delegation: Delegation) -> Attack:
        text, key = self._order(), self._stolen.key
        return self._sent(Command(signed=text, signature=_sign(key, text), key=_key_id(key), delegation=delegation))

    def _order(self) -> str:
        """What the attacker would have the victim do."""
        genuine = decode_text(Order, self._command().signed)
        args = dict(genuine.args) | {"on_change": f"echo forged >> {self._victim.files}/runs"}
        id = f"cmd-{self._random.getrandbits(64):016x}"
        later = now_text(datetime.now(UTC) + DAY)
        return encode_text(replace(genuine, id=id, device=self._victim.id, args=args, fence=self._fence(), not_after=later))

    def _fence(self) -> int:
        return self._random.randint(10**6, 10**9)

    def _command(self) -> Command:
        message = json.loads(self._random.choice(self._booty.known).payload)
        delegation = Delegation(**message["delegation"])
        return Command(signed=message["signed"], signature=message["signature"], key=message["key"], delegation=delegation)

    def _sent(self, command: Command) -> Attack:
        return self._victim.topic("down/command"), encode(command, sent_at=now_text())

    # --- checkpoints ----------------------------------------------------------------------------------------------------------

    def _own_checkpoint(self) -> Attack:
        """A time of our choice, that voids every delegation."""
        moment = Moment(nonce="n", time=now_text(datetime.now(UTC) + 1000 * DAY), generation=2**40, device=self._victim.id)
        text = encode_text(moment)
        delegation = _delegate(self._root, self._key, 2**40, -DAY, DAY)
        message = Checkpoint(signed=text, signature=_sign(self._key, text), key=_key_id(self._key), delegation=delegation)
        return self._victim.topic("down/checkpoint"), encode(message, sent_at=now_text())

    def _tampered_checkpoint(self) -> Attack:
        body = json.loads(self._random.choice(self._booty.checkpoints).payload)
        changes: tuple[dict[str, Any], ...] = (
            {"generation": 2**40},
            {"fence": 2**40},
            {"nonce": "n"},
            {"time": now_text(datetime.now(UTC) + DAY)},
        )
        body["signed"] = json.dumps(json.loads(body["signed"]) | self._random.choice(changes))
        return self._victim.topic("down/checkpoint"), json.dumps(body).encode()

    def _command_as_checkpoint(self) -> Attack:
        return self._victim.topic("down/checkpoint"), self._random.choice(self._booty.known).payload

    # --- acknowledgements and resyncs -----------------------------------------------------------------------------------------

    def _own_ack(self) -> Attack:
        """Of everything that the victim will ever say."""
        epoch = json.loads(self._booty.said[-1].payload)["epoch"]
        return self._sealed(Ack(epoch=epoch, seq=self._random.choice((2**53 - 1, self._random.randint(1, 10**6)))))

    def _tampered_ack(self) -> Attack:
        found = self._random.choice(self._booty.old_acks)
        body = json.loads(found.payload)
        body["seq"] += self._random.randint(1, 10**6)
        kept = body.pop("mac")
        return found.topic, json.dumps(body | ({"mac": kept} if self._random.random() < 0.8 else {})).encode()

    def _own_resync(self) -> Attack:
        return self._sealed(Resync(sections=None, items=True, reason="forged"))

    def _crossed(self) -> Attack:
        """A genuine message to the victim, on another of its topics."""
        if self._random.random() < 0.5:
            return self._victim.topic("down/resync"), self._random.choice(self._booty.old_acks).payload
        return self._victim.topic("down/ack"), self._random.choice(self._booty.resyncs).payload

    def _reflected(self) -> Attack:
        """What the victim said itself."""
        return self._victim.topic(self._random.choice(("down/ack", "down/resync"))), self._random.choice(self._booty.said).payload

    def _sealed(self, message: Ack | Resync) -> Attack:
        topic = self._victim.topic(message.suffix)
        return topic, encode(message, sent_at=now_text(), topic=topic, key=self._channel)

    # --- of every kind --------------------------------------------------------------------------------------------------------

    def _again(self, messages: list[Carried]) -> Attack:
        found = self._random.choice(messages)
        return found.topic, found.payload

    def _elsewhere(self, channel: str) -> Attack:
        """What was for another device."""
        found = self._random.choice([message for message in self._booty.elsewhere if message.channel == channel])
        return self._victim.topic(channel), found.payload

    def _foreign(self) -> Attack:
        """On topics that are not the victim's, or that it does not have."""
        found = self._random.choice((*self._booty.known, *self._booty.elsewhere))
        topics = (self._other.topic("down/command"), f"{self._victim.prefix}/down/nonsense", "fleet/v1/notifications/error")
        return self._random.choice(topics), found.payload

    def _garbage(self) -> Attack:
        topic = self._victim.topic(self._random.choice(("down/command", "down/checkpoint")))
        genuine = self._random.choice(self._booty.known).payload
        cut = genuine[: self._random.randrange(len(genuine) - 1)]
        return topic, self._random.choice((cut, self._random.randbytes(200), b"{}", b'{"v":1}', b"null", b"[" * 5000))

    # --- in the victim's name -------------------------------------------------------------------------------------------------

    def _own_result(self) -> Attack:
        """Success of a command that the victim never finished, or failure of one that it did."""
        order = decode_text(Order, self._command().signed)
        state = self._random.choice((CommandState.SUCCEEDED, CommandState.FAILED))
        topic = self._victim.topic("up/result")
        message = Result(id=f"{order.id}-{state}", command=order.id, state=state)
        epoch = json.loads(self._booty.said[-1].payload)["epoch"]
        return topic, encode(message, sent_at=now_text(), epoch=epoch, seq=self._random.randint(1, 10**6), topic=topic, key=self._channel)

    def _tampered_result(self) -> Attack:
        found = self._random.choice([message for message in self._booty.said if message.channel == "up/result"])
        body = json.loads(found.payload)
        mac = body.pop("mac")
        changes: tuple[dict[str, Any], ...] = (
            {"state": "failed"},
            {"seq": body["seq"] + 1000},
            {"command": "cmd-other"},
            {"output": "forged"},
        )
        return found.topic, json.dumps(body | self._random.choice(changes) | {"mac": mac}, separators=(",", ":")).encode()

    def _others_word(self) -> Attack:
        """What another device said, as if the victim had."""
        found = self._random.choice(self._booty.said)
        return self._other.topic(found.channel), found.payload

    def _crossed_up(self) -> Attack:
        found = self._random.choice([message for message in self._booty.said if message.channel != "up/log"])
        return self._victim.topic("up/log"), found.payload


def _delegate(root: SigningKey, key: SigningKey, generation: int, start: timedelta, end: timedelta) -> Delegation:
    """A mandate for a key by a root, valid from and until so long after now."""
    now = datetime.now(UTC)
    mandate = Mandate(
        public_key=_b64(bytes(key.verify_key)), generation=generation, not_before=now_text(now + start), not_after=now_text(now + end)
    )
    text = encode_text(mandate)
    return Delegation(signed=text, signature=_sign(root, text))


def out_of_time(root: SigningKey, key: SigningKey, generation: int) -> tuple[Delegation, ...]:
    """What the real root may have signed for a key once: over since yesterday, and from tomorrow on."""
    return _delegate(root, key, generation, -10 * DAY, -DAY), _delegate(root, key, generation, DAY, 10 * DAY)


def _sign(key: SigningKey, text: str) -> str:
    return _b64(key.sign(text.encode()).signature)


def _key_id(key: SigningKey) -> str:
    return hashlib.sha256(bytes(key.verify_key)).hexdigest()[:16]


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()

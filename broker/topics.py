"""Topic grammar: the one place that builds and parses MQTT topic names.

A topic is a value (`DeviceTopic`, `EventTopic`, ...) and `Topics` turns it into text and back; filters for SUBSCRIBE come from the
same type. What may be published where is `broker.acl`'s business, what a payload holds is `broker.messages`'s. Agent and server both
import this module, so it needs nothing but the standard library.

Source: contract.md section 3; MQTT 3.1.1 section 4.7 for what a level may hold.
"""

import hashlib
import re
from dataclasses import dataclass

CONTRACT = "v1"
DEFAULT_ROOT = "fleet"

UPLINKS = ("up/presence", "up/heartbeat", "up/facts", "up/status", "up/result", "up/log", "up/metrics", "up/csr")
"""What a device publishes, below its prefix."""

DOWNLINKS = ("down/ack", "down/resync", "down/checkpoint", "down/command", "down/certificate", "down/keys")
"""What a device subscribes to, below its prefix."""

CHANNELS = frozenset(UPLINKS + DOWNLINKS)

BROKER_CHANNELS = ("revoked", "ask")
"""Between Inventory and whoever runs the broker: the certificates that are taken back, and the question for them."""

_LEVEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


class TopicError(ValueError):
    """A text is not a topic of the contract, or a value can't be one of its levels."""


@dataclass(frozen=True, slots=True)
class DeviceTopic:
    """`{root}/v1/devices/{shard}/{device}/{channel}`; `channel` is one of `CHANNELS`."""

    device: str
    channel: str


@dataclass(frozen=True, slots=True)
class EventTopic:
    """A change as published; with `integration`, the copy for that scoped integration."""

    kind: str
    id: str
    integration: str | None = None


@dataclass(frozen=True, slots=True)
class NotificationTopic:
    severity: str


@dataclass(frozen=True, slots=True)
class IntentTopic:
    integration: str
    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class ReplyTopic:
    integration: str
    correlation: str


@dataclass(frozen=True, slots=True)
class BrokerTopic:
    """`{root}/v1/broker/{channel}`; `channel` is one of `BROKER_CHANNELS`."""

    channel: str


Topic = DeviceTopic | EventTopic | NotificationTopic | IntentTopic | ReplyTopic | BrokerTopic


def shard_of(device: str) -> str:
    """The first byte of SHA-256(device id), as two hex digits."""
    return hashlib.sha256(device.encode()).hexdigest()[:2]


SHARDS = tuple(f"{n:02x}" for n in range(256))


@dataclass(frozen=True, slots=True)
class Topics:
    """The grammar under one topic root (one installation)."""

    root: str = DEFAULT_ROOT

    def __post_init__(self) -> None:
        _level(self.root)

    def build(self, topic: Topic) -> str:
        """The topic's text. Raises TopicError where a level holds what a level may not."""
        match topic:
            case DeviceTopic(device, channel):
                if channel not in CHANNELS:
                    raise TopicError(f"{channel!r} is not a channel of a device")
                return f"{self.device_prefix(device)}/{channel}"
            case EventTopic(kind, id, None):
                return self._join("events", kind, id)
            case EventTopic(kind, id, str(integration)):
                return self._join("integrations", integration, "events", kind, id)
            case NotificationTopic(severity):
                return self._join("notifications", severity)
            case IntentTopic(integration, kind, id):
                return self._join("intents", integration, kind, id)
            case ReplyTopic(integration, correlation):
                return self._join("replies", integration, correlation)
            case BrokerTopic(channel):
                return self.broker(channel)
        raise TopicError(f"{topic!r} is not a topic")

    def parse(self, text: str) -> Topic:
        """The inverse of `build`. Raises TopicError for anything that `build` can't have made."""
        levels = text.split("/")
        if levels[:2] != [self.root, CONTRACT]:
            raise TopicError(f"{text!r} is not below {self.root}/{CONTRACT}")
        match levels[2:]:
            case ["devices", shard, device, *rest] if rest:
                if shard != shard_of(device):
                    raise TopicError(f"{text!r}: the shard of {device} is {shard_of(device)}")
                topic: Topic = DeviceTopic(device, "/".join(rest))
            case ["events", kind, id]:
                topic = EventTopic(kind, id)
            case ["integrations", name, "events", kind, id]:
                topic = EventTopic(kind, id, name)
            case ["notifications", severity]:
                topic = NotificationTopic(severity)
            case ["intents", name, kind, id]:
                topic = IntentTopic(name, kind, id)
            case ["replies", name, correlation]:
                topic = ReplyTopic(name, correlation)
            case ["broker", channel]:
                topic = BrokerTopic(channel)
            case _:
                raise TopicError(f"{text!r} is not a topic of the contract")
        self.build(topic)
        return topic

    def device_prefix(self, device: str) -> str:
        """What all topics of a device begin with; it stands in the answer to enrollment."""
        return self._join("devices", shard_of(device), device)

    def uplinks(self, shard: str = "+") -> str:
        """Filter: everything that the devices of a shard (or of all) publish."""
        return f"{self.root}/{CONTRACT}/devices/{shard}/+/up/#"

    def uplinks_of(self, device: str) -> str:
        """Filter: everything that one device publishes."""
        return f"{self.device_prefix(device)}/up/#"

    def downlinks(self, device: str) -> str:
        """Filter: everything sent to a device."""
        return f"{self.device_prefix(device)}/down/#"

    def channel(self, channel: str, device: str = "+") -> str:
        """Filter: a channel (or `up/#`, `down/#`) of every device, or of the one that a broker's placeholder such as `%u` stands for."""
        return f"{self.root}/{CONTRACT}/devices/+/{device}/{channel}"

    def events(self, integration: str | None = None) -> str:
        """Filter: all change events, or those within the scope of a scoped integration (`+`: of each)."""
        scope = f"integrations/{_level_or_all(integration)}/" if integration is not None else ""
        return f"{self.root}/{CONTRACT}/{scope}events/#"

    def notifications(self) -> str:
        return f"{self.root}/{CONTRACT}/notifications/#"

    def intents(self, integration: str = "+") -> str:
        """Filter: the intents of one integration, or of all."""
        return f"{self.root}/{CONTRACT}/intents/{_level_or_all(integration)}/+/+"

    def replies(self, integration: str) -> str:
        """Filter: the replies to one integration (`+`: to all)."""
        return f"{self.root}/{CONTRACT}/replies/{_level_or_all(integration)}/#"

    def broker(self, channel: str) -> str:
        """Topic and filter at once. Raises TopicError for what is no channel."""
        if channel not in BROKER_CHANNELS:
            raise TopicError(f"{channel!r} is not a channel of the broker")
        return self._join("broker", channel)

    def _join(self, *levels: str) -> str:
        return "/".join((self.root, CONTRACT, *(_level(level) for level in levels)))


def _level(text: str) -> str:
    if not _LEVEL.fullmatch(text):
        raise TopicError(f"{text!r} can't be a topic level: letters, digits and ._- only, at most 255")
    return text


def _level_or_all(text: str) -> str:
    return text if text == "+" else _level(text)

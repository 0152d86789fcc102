"""What a client may take of the embedded broker, and what the broker counts.

`docs/broker.md` shows the numbers; a test compares.
"""

from dataclasses import dataclass

from broker.acl import Class, Identity
from broker.messages import MAX_BYTES
from broker.outbox import Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may take of the broker."""

    connections: int = 64
    """Of one integration, which may choose its client ids; a device has one, and a service's replicas are ours."""
    client_id: int = 256
    """Characters; a device's id has 31."""
    packet_bytes: int = MAX_BYTES + 4096
    """Largest length field: the largest payload, with its topic and packet id."""
    connect_s: float = 3.0
    """From accepting the socket, through TLS, to a whole CONNECT; waiting for a place is not counted."""
    crowded_s: float = 0.4
    """For TLS and CONNECT, where others wait for a place, or it was waited for."""
    unauthenticated: int = 128
    """Places for TLS and CONNECT, of about 90 KiB each; who has said something and gets none waits."""
    lobby: int = 4096
    """Connections without a place, of about 1 KiB each: past it the oldest that has said nothing is ended, and where all have spoken,
    further ones wait in the listening socket's backlog."""
    connect_bytes: int = 16 * 1024
    """Largest CONNECT: a Will is a presence message of some 300 bytes, and nobody is known yet who sends it."""
    subscriptions: int = 1000
    """Of a connection; the ingest needs 256 shards. Further ones get 0x80."""
    outbox_bytes: int = 8 * 1024 * 1024
    """Written and not yet read by a device or an integration; past it the client is cut."""
    service_outbox_bytes: int = 32 * 1024 * 1024
    """Likewise for a service, but past it those who publish to it are not read, and only after `stalled_s` it is cut."""
    unacknowledged: int = 10_000
    """QoS 1 messages a device or integration has been sent and not acknowledged; past it the client is cut."""
    service_unacknowledged: int = 30_000
    """Likewise for a service, whose publishers then wait. Packet ids end at 65,535."""
    stalled_s: float = 30.0
    """How long a service may keep its publishers waiting."""
    releases: int = 32
    """QoS 2 messages received and not yet released by the sender; past it the client is cut. Each may hold a whole payload."""
    turn_s: float = 0.001
    """For which a client is read before others have their turn: some 50 messages, or 300 pings."""
    slow_path_packets: int = 64
    """Packets that amqtt has not taken yet; past it the client is not read."""
    retained_messages: int = 0
    """None is kept: nothing in the contract is retained."""

    def bounds(self, identity: Identity) -> Bounds:
        if identity.kind is Class.SERVICE:
            return Bounds(self.service_outbox_bytes, self.service_unacknowledged, self.stalled_s)
        return Bounds(self.outbox_bytes, self.unacknowledged, None)


@dataclass(slots=True)
class Counters:
    """Of a guard since it began."""

    connected: int = 0
    """Now."""
    relayed: int = 0
    refused: int = 0
    denied_publishes: int = 0
    denied_subscriptions: int = 0
    cut: int = 0

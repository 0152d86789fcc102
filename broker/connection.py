"""One client's connection to the embedded broker, from its first byte to its last.

It cuts what arrives into packets, refuses what breaks MQTT or the access rules, answers each packet where it is read, and enforces
keepalive. A client is read for a short while and then lines up (`broker.backlog`), so that who sends without end delays nobody else. Only
acknowledgements of amqtt's own messages and DISCONNECT are passed on to amqtt (`broker.slowpath`). What goes out, and its bounds, is
`broker.outbox`. Who may connect at all is `broker.guard`'s business, and where messages and subscriptions go is `broker.embedded`'s.
"""

import asyncio
import logging
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, cast

from broker.acl import Class, Grants, Identity
from broker.backlog import Backlog
from broker.limits import Counters, Limits
from broker.outbox import Outbox
from broker.packets import (
    PINGRESP,
    Connect,
    Framer,
    Kind,
    Malformed,
    Packet,
    Publish,
    Refusal,
    Will,
    connack,
    puback,
    pubcomp,
    pubrec,
    read_connect,
    read_nothing,
    read_packet_id,
    read_publish,
    read_subscribe,
    read_unsubscribe,
    suback,
    unsuback,
)
from broker.slowpath import Slowpath

log = logging.getLogger(__name__)

_REMEMBERED_TOPICS = 64
"""How many topics' permissions a connection remembers; a device has seven."""
_SHOWN = 256
"""Characters of a topic in the log; one may have 65,535."""
_TURN = "its turn"
"""What a client waits for that is not read."""


class Behind(Protocol):
    """The broker behind the guard, as a connection sees it."""

    def relay(self, source: "Connection", publish: Publish) -> None:
        """Route a message that its sender may publish."""

    def acknowledged(self, connection: "Connection", packet_id: int) -> bool:
        """The client has acknowledged a QoS 1 message. False: not one that was relayed."""

    def subscribe(self, connection: "Connection", filter_: str, qos: int) -> int:
        """Returns SUBACK's code: the QoS granted, or 0x80."""

    def unsubscribe(self, connection: "Connection", filter_: str) -> None:
        """Nothing happens where there is no such subscription."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A CONNECT that passed: the client id that is unique in the broker, the certificate's identity and rights, and the checked Will."""

    client_id: str
    identity: Identity
    grants: Grants
    keepalive_s: int
    will: Will | None


class _State(Enum):
    NEW = auto()
    """Waiting for CONNECT."""
    ADMITTING = auto()
    """CONNECT has come; what follows it waits in the framer."""
    OPEN = auto()
    LEAVING = auto()
    """DISCONNECT has come; what follows it is ignored."""
    CLOSED = auto()


class Connection(asyncio.Protocol):
    """The protocol of an accepted socket, TLS done. `first` resolves with the CONNECT, or raises Malformed or ConnectionError."""

    def __init__(self, limits: Limits, counters: Counters, behind: Behind, backlog: Backlog) -> None:
        self.limits = limits
        self.counters = counters
        self.slowpath = Slowpath(self, limits.slow_path_packets)
        self.finished = asyncio.Event()
        """Set when nothing of this client is left in the broker."""
        self.closed = asyncio.Event()
        self._behind = behind
        self._backlog = backlog
        self._loop = asyncio.get_running_loop()
        self.first: asyncio.Future[Connect] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._socket: asyncio.BaseTransport | None = None
        self._peer = ("?", 0)
        self._framer = Framer(limits.connect_bytes)
        self._state = _State.NEW
        self._opened = False
        self._admitted: Admitted | None = None
        self._allowed: dict[str, bool] = {}
        self._denials = 0
        self._unreleased: dict[int, Publish | None] = {}
        """QoS 2 messages received, by packet id; None: one that is not to be delivered."""
        self._out: Outbox | None = None
        self._holds: set[Hashable] = set()
        self._keepalive: asyncio.TimerHandle | None = None
        self._last_heard = 0.0

    def __repr__(self) -> str:
        return f"Connection({self.name!r}, {self._state.name})"

    # --- who it is ------------------------------------------------------------------------------------------------------------

    @property
    def admitted(self) -> Admitted:
        assert self._admitted is not None, "admitted by the guard first"
        return self._admitted

    @property
    def name(self) -> str:
        return self._admitted.client_id if self._admitted else "(unknown)"

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port; of a socket that is gone already, a placeholder."""
        return self._peer

    @property
    def certificate(self) -> dict[str, object] | None:
        """The client's certificate as `ssl.SSLSocket.getpeercert` gives it; None without TLS."""
        return cast("dict[str, object] | None", self._transport.get_extra_info("peercert")) if self._transport else None

    # --- its life -------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = getattr(transport, "_ssl_protocol", None)
        self._socket = transport if tls is None else tls._transport
        if name := transport.get_extra_info("peername"):
            self._peer = (str(name[0]), int(name[1]))

    def admit(self, admitted: Admitted) -> None:
        """From here on it can be written to; what the client sends is not looked at before `open`."""
        assert self._transport is not None
        self._admitted = admitted
        self._out = Outbox(self._transport, self.limits.bounds(admitted.identity), self.cut)

    def open(self) -> None:
        """CONNACK is written, and amqtt awaits the end: from here on packets count."""
        self._opened = True
        if self._state is not _State.ADMITTING:
            self.slowpath.end()
            return
        self._state = _State.OPEN
        self._last_heard = self._loop.time()
        if self.admitted.keepalive_s:
            self._keepalive = self._loop.call_later(1.5 * self.admitted.keepalive_s, self._check_keepalive)
        self.release("admitting")

    def refuse(self, code: Refusal) -> None:
        """CONNACK with a reason, and the end."""
        if self._transport is not None:
            self._transport.write(connack(code))
            self._transport.close()

    def close(self) -> None:
        """The end, once what is written has gone out."""
        if self._transport is not None and self._state is not _State.CLOSED:
            if self._out is not None:
                self._out.flush()
            self._transport.close()

    def cut(self, reason: str) -> None:
        """The end at once, with the client's Will."""
        if self._transport is None or self._state is _State.CLOSED:
            return
        if self._admitted is not None:  # else the guard says who was refused
            self.counters.cut += 1
            log.warning("client cut", extra={"client": self.name, "reason": reason, "peer": self.peer[0]})
        if self._state is not _State.LEAVING:
            self._state = _State.CLOSED
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
        if self._out is not None:
            self._out.end()
        # TLS and its buffers, 60 KiB a connection, go now, and not with the session, which may have its Will to send first.
        self._out = self._transport = None
        self._untie()
        if self._state is _State.OPEN and self._framer.more:
            self._line_up()  # what came before the end counts
        else:
            self._end()

    def _untie(self) -> None:
        """asyncio's transport of a socket holds a method of its own: with the socket a knot of 23 objects, which only a collection of all
        the broker's objects would undo."""
        setattr(self._socket, "_read_ready_cb", None)  # noqa: B010 - an attribute that type stubs don't know
        self._socket = None

    def _end(self) -> None:
        before, self._state = self._state, _State.CLOSED
        if not self.first.done():
            self.first.set_exception(ConnectionError("closed before CONNECT"))
        if before is not _State.LEAVING and self._opened:
            # After a DISCONNECT the end must not overtake it in amqtt, which would send the Will; an end before `open`, amqtt would miss.
            self.slowpath.end()
        self.closed.set()
        if self._denials:
            log.warning("client was denied", extra={"client": self.name, "denials": self._denials})

    def _check_keepalive(self) -> None:
        allowed = 1.5 * self.admitted.keepalive_s
        silent = self._loop.time() - self._last_heard
        if self._holds:
            silent = 0.0  # it may have spoken; it is we who don't listen
        if silent >= allowed:
            self.cut(f"silent for {silent:.1f} s with a keepalive of {self.admitted.keepalive_s} s")
        else:
            self._keepalive = self._loop.call_later(allowed - silent, self._check_keepalive)

    # --- what arrives ---------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._last_heard = self._loop.time()
        if self._state in (_State.LEAVING, _State.CLOSED):
            return
        self._framer.feed(data)
        if not self._holds:
            self._take()

    def _take(self) -> None:
        """Packets that have come, until the turn is over; the others wait for another one, and the client with them."""
        end = self._loop.time() + self.limits.turn_s
        try:
            for packet in self._framer.packets():
                self._dispatch(packet)
                if self._state is not _State.OPEN or (self._holds and self._transport is not None):
                    return
                if self._loop.time() >= end:
                    self._line_up()
                    return
        except Malformed as error:
            if self.first.done():
                self.cut(str(error))
            else:
                self.first.set_exception(error)

    def _dispatch(self, packet: Packet) -> None:
        """Raises Malformed."""
        match packet.kind:
            case _ if self._state is _State.NEW:
                self._begin(packet)
            case Kind.PUBLISH:
                self._publish(read_publish(packet.flags, packet.body))
            case Kind.PUBACK if self._behind.acknowledged(self, read_packet_id(packet.body)):
                pass
            case Kind.PUBREL:
                self._released(read_packet_id(packet.body))
            case Kind.PINGREQ:
                read_nothing(packet.body)
                self.write(PINGRESP)
            case Kind.SUBSCRIBE:
                self._subscribe(*read_subscribe(packet.body, self.limits.subscriptions))
            case Kind.UNSUBSCRIBE:
                self._unsubscribe(*read_unsubscribe(packet.body, self.limits.subscriptions))
            case Kind.DISCONNECT:
                read_nothing(packet.body)
                self.slowpath.put(packet.encode())
                self._state = _State.LEAVING
            case Kind.CONNECT:
                raise Malformed("a second CONNECT")
            case _:  # acknowledges what amqtt has sent
                read_packet_id(packet.body)
                self.slowpath.put(packet.encode())

    def _begin(self, first: Packet) -> None:
        if first.kind is not Kind.CONNECT:
            raise Malformed(f"the first packet is {first.kind.name}")
        self._state = _State.ADMITTING
        self._framer.limit = self.limits.packet_bytes
        self.hold("admitting")
        if not self.first.done():
            self.first.set_result(read_connect(first.body))

    def _publish(self, publish: Publish) -> None:
        allowed = self.may_publish(publish.topic)
        if not allowed:
            self.deny(publish.topic, "publish")
        if publish.qos == 2:
            self._received(publish, allowed)
            return
        if allowed:
            self._relay(publish)
        if publish.qos == 1:
            self.write(puback(publish.packet_id))

    def _received(self, publish: Publish, allowed: bool) -> None:
        """It is kept until PUBREL (section 4.3.3)."""
        self._unreleased[publish.packet_id] = publish if allowed else None
        if len(self._unreleased) > self.limits.releases:
            raise Malformed(f"more than {self.limits.releases} QoS 2 messages unreleased")
        self.write(pubrec(publish.packet_id))

    def _relay(self, publish: Publish) -> None:
        self.counters.relayed += 1
        self._behind.relay(self, publish)

    def _released(self, packet_id: int) -> None:
        """A repeated PUBREL, of a message that is done already, is only answered."""
        if (publish := self._unreleased.pop(packet_id, None)) is not None:
            self._relay(publish)
        self.write(pubcomp(packet_id))

    def _subscribe(self, packet_id: int, wanted: list[tuple[str, int]]) -> None:
        """SUBACK goes out before any message of these subscriptions."""
        codes = bytes(self._behind.subscribe(self, filter_, qos) for filter_, qos in wanted)
        self.write(suback(packet_id, codes))

    def _unsubscribe(self, packet_id: int, filters: list[str]) -> None:
        for filter_ in filters:
            self._behind.unsubscribe(self, filter_)
        self.write(unsuback(packet_id))

    def may_publish(self, topic: str) -> bool:
        allowed = self._allowed.get(topic)
        if allowed is None:
            allowed = self.admitted.grants.may_publish(topic)
            if len(self._allowed) < _REMEMBERED_TOPICS:
                self._allowed[topic] = allowed
        return allowed

    def deny(self, topic: str, action: str) -> None:
        """Count a denial; the first of a connection is logged at once, the rest as a number at its end."""
        if action == "publish":
            self.counters.denied_publishes += 1
        else:
            self.counters.denied_subscriptions += 1
        self._denials += 1
        if self._denials == 1:
            log.warning("denied", extra={"client": self.name, "action": action, "topic": topic[:_SHOWN]})

    # --- flow control: not reading this client --------------------------------------------------------------------------------

    def hold(self, reason: Hashable) -> None:
        """Don't read the client until every reason has been released."""
        if not self._holds and self._transport is not None:
            self._transport.pause_reading()
        self._holds.add(reason)

    def release(self, reason: Hashable) -> None:
        if reason in self._holds:
            self._holds.discard(reason)
            if not self._holds:
                self._line_up()

    def _line_up(self) -> None:
        self.hold(_TURN)
        self._backlog.line_up(self)

    def go_on(self) -> None:
        """First what has come already, then what is to come; and where nothing is, the end."""
        self._holds.discard(_TURN)
        if self._state is not _State.OPEN or (self._holds and self._transport is not None):
            return
        self._last_heard = self._loop.time()
        self._take()
        if self._transport is None:
            if _TURN not in self._holds:
                self._end()
        elif not self._holds and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- what goes out --------------------------------------------------------------------------------------------------------

    def write(self, packet: bytes) -> None:
        """Queue a packet; nothing happens where the connection has ended."""
        if self._out is not None and self._state is not _State.CLOSED:
            self._out.write(packet)

    def deliver(self, packet: bytes, source: "Connection | None", acknowledged: bool = False) -> None:
        """Queue a PUBLISH, at QoS 1 one that is to be `acknowledged`; `source` waits where that is too much for a service."""
        if self._out is None or self._state is _State.CLOSED:
            return
        self._out.unacknowledged += acknowledged
        self._out.write(packet)
        if source is not None and source.admitted.identity.kind is not Class.SERVICE:
            self._out.wait_for_room(source)

    def acknowledged(self) -> None:
        """One of the QoS 1 messages has arrived."""
        if self._out is not None:
            self._out.acknowledged()

    def pause_writing(self) -> None:
        if self._out is not None:
            self._out.filled()

    def resume_writing(self) -> None:
        if self._out is not None:
            self._out.emptied()

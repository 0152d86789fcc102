"""The embedded broker: amqtt behind the guard. Everything of amqtt that is overridden is overridden here.

amqtt keeps the sessions: CONNACK, the delivery of QoS 2, and the Will at a session's end. What it does otherwise than the contract needs is
replaced: who is authenticated and what is allowed (the guard has decided), subscriptions and routing (an index of filters instead of a walk
over all of them), and everything that a client can say much of (`broker.connection`): it costs no task, no queue and no object that stays
(docs/adr/ tells why). It is pinned exactly, and `tests/broker/test_embedded_rows.py` has a test for each property that bare amqtt 0.12.1
lacks: run them to adopt another release.

`broker.__main__` runs it; tests build it with rules of their own.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.errors import AMQTTError
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import OutgoingApplicationMessage, Session

from broker.connection import Connection
from broker.filters import FilterIndex
from broker.guard import Guard, Rules
from broker.limits import Limits
from broker.packets import Outgoing, Publish, connect
from broker.revocations import Follower, RevocationList
from broker.topics import Topics

log = logging.getLogger(__name__)

Told = Callable[[bytes], None]
"""Takes the payload of a message that is for the broker itself, and for no client."""

_LISTENER = "default"
_REFUSED = 0x80
_MOST_PACKET_IDS = 60_000
"""In use at once, of 65,535, so that finding a free one stays cheap."""

_RELAYED = OutgoingApplicationMessage(None, "", 1, b"", False)
"""Stands for any relayed message in amqtt's table of packet ids in use: what was sent is not kept, as clean sessions redeliver nothing."""


class _Reader(ReaderAdapter):  # type: ignore[misc]
    """amqtt reads the packets that the connection passes on, first of all a CONNECT of the guard's making."""

    def __init__(self, connection: Connection) -> None:
        self._slowpath = connection.slowpath
        self._slowpath.put(connect(connection.admitted.client_id, connection.admitted.will))

    async def read(self, n: int = -1) -> bytes:
        return await self._slowpath.read(n)

    def feed_eof(self) -> None:
        self._slowpath.end()


class _Writer(WriterAdapter):  # type: ignore[misc]
    """amqtt writes to the connection's queue."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.link: _Link | None = None
        """Set once amqtt has made a session of it."""

    def write(self, data: bytes) -> None:
        self.connection.write(data)

    async def drain(self) -> None:
        """The connection bounds what is queued."""

    def get_peer_info(self) -> tuple[str, int]:
        return self.connection.peer

    def get_ssl_info(self) -> None:
        """amqtt has no business with certificates."""

    async def close(self) -> None:
        self.connection.close()


@dataclass(slots=True, eq=False)
class _Link:
    """A client as both sides know it: the guard's connection, and amqtt's session and handler."""

    connection: Connection
    session: Session
    handler: BrokerProtocolHandler
    deliveries: set[asyncio.Task[Any]] = field(default_factory=set)
    """By amqtt: of QoS 2, and of what was retained."""

    def deliver(self, message: Publish, outgoing: Outgoing, qos: int, source: Connection | None) -> None:
        match qos:
            case 0:
                self.connection.deliver(outgoing.at_most_once(), source)
            case 1:
                self._at_least_once(outgoing, source)
            case _:
                self._exactly_once(message)

    def _at_least_once(self, outgoing: Outgoing, source: Connection | None) -> None:
        if len(self.session.inflight_out) >= _MOST_PACKET_IDS:
            self.connection.cut(f"slow reader: {_MOST_PACKET_IDS} messages unacknowledged")
            return
        packet_id = self.session.next_packet_id
        self.session.inflight_out[packet_id] = _RELAYED
        self.connection.deliver(outgoing.at_least_once(packet_id), source, acknowledged=True)

    def acknowledged(self, packet_id: int) -> bool:
        if self.session.inflight_out.get(packet_id) is not _RELAYED:
            return False
        del self.session.inflight_out[packet_id]
        self.connection.acknowledged()
        return True

    async def untie(self) -> None:
        """Cut what amqtt keeps of an ended session, and our connection, which it holds, loose from itself. Nothing may use it any more.

        Else it is a knot of some 300 objects, most of them its state machine's, that only a collection of all the broker's objects undoes:
        minutes later, and with a pause for everybody."""
        for task in self.deliveries:
            task.cancel()
        await asyncio.gather(*self.deliveries, return_exceptions=True)
        vars(self.session.transitions).clear()
        self.handler.detach()

    def _exactly_once(self, message: Publish) -> None:
        """Nothing in the contract uses QoS 2."""
        if len(self.deliveries) >= self.connection.limits.releases:
            self.connection.cut(f"slow reader: {len(self.deliveries)} QoS 2 messages outstanding")
            return
        self.by_amqtt(self.handler.mqtt_publish(message.topic, message.payload, 2, False))

    def by_amqtt(self, delivery: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(delivery)
        self.deliveries.add(task)
        task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Task[Any]) -> None:
        self.deliveries.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a delivery failed", extra={"client": self.connection.name, "reason": str(error)})


class _Broker(Broker):  # type: ignore[misc]
    """amqtt's broker with the guard's decisions and an index for its routing."""

    def __init__(self, limits: Limits, told: Mapping[str, Told]) -> None:
        super().__init__({"listeners": {_LISTENER: {"type": "external", "bind": "guard"}}, "plugins": {}})
        self._limits = limits
        self._told = told
        self._links: dict[str, _Link] = {}
        self._index: FilterIndex[_Link] = FilterIndex()

    # --- for the guard and its connections ------------------------------------------------------------------------------------

    async def serve(self, connection: Connection) -> None:
        writer = _Writer(connection)
        try:
            await self.external_connected(_Reader(connection), writer, _LISTENER)
        finally:
            self._forget(connection)
            if writer.link is not None:
                await writer.link.untie()

    def relay(self, source: Connection, publish: Publish) -> None:
        if publish.topic in self._told:
            self._told[publish.topic](publish.payload)
            return
        self._route(publish, source)
        if publish.retain:
            self._retain(publish.topic, publish.payload, publish.qos)

    def acknowledged(self, connection: Connection, packet_id: int) -> bool:
        link = self._link(connection)
        return link is not None and link.acknowledged(packet_id)

    def subscribe(self, connection: Connection, filter_: str, qos: int) -> int:
        link = self._link(connection)
        if link is None or not self._may_subscribe(link, filter_):
            connection.deny(filter_, "subscribe")
            return _REFUSED
        self._index.add(link, filter_, qos)
        if self._retained_messages:
            link.by_amqtt(self._publish_retained_messages_for_subscription((filter_, qos), link.session))
        return qos

    def unsubscribe(self, connection: Connection, filter_: str) -> None:
        if (link := self._link(connection)) is not None:
            self._index.remove(link, filter_)

    def _link(self, connection: Connection) -> _Link | None:
        """None where the client id is another connection's by now."""
        link = self._links.get(connection.name)
        return link if link is not None and link.connection is connection else None

    def _may_subscribe(self, link: _Link, filter_: str) -> bool:
        if not link.connection.admitted.grants.may_subscribe(filter_):
            return False
        held = self._index.filters(link)
        return filter_ in held or len(held) < self._limits.subscriptions

    def _route(self, message: Publish, source: Connection | None) -> None:
        receivers = self._index.match(message.topic)
        if not receivers:
            return
        outgoing = Outgoing.of(message.topic, message.payload)
        for link, granted in receivers.items():
            link.deliver(message, outgoing, min(granted, message.qos), source)

    def _forget(self, connection: Connection) -> None:
        """amqtt would find the session within a second, and might then find its successor's instead."""
        if (link := self._link(connection)) is None:
            return
        del self._links[connection.name]
        self._index.remove_all(link)
        if self._sessions.get(connection.name, (None, None))[1] is link.handler:
            del self._sessions[connection.name]

    # --- overridden: who is who -----------------------------------------------------------------------------------------------

    async def _authenticate(self, session: Session, _: Any) -> bool:
        """The guard has."""
        return True

    async def _handle_client_session(
        self, reader: _Reader, writer: _Writer, client_session: Session, handler: BrokerProtocolHandler, server: Any, listener_name: str
    ) -> None:
        writer.link = self._links[client_session.client_id] = _Link(writer.connection, client_session, handler)
        await super()._handle_client_session(reader, writer, client_session, handler, server, listener_name)

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        """CONNACK has been sent: what the client sends counts from here on."""
        handler.writer.connection.open()
        await super()._client_message_loop(client_session, handler)

    async def _session_monitor(self) -> None:
        """Sessions go with their connections (`_forget`)."""

    async def _del_all_subscriptions(self, session: Session) -> None:
        """They go with their connection (`_forget`); by the session's id it might be a successor's."""

    # --- overridden: routing --------------------------------------------------------------------------------------------------

    async def _broadcast_message(self, session: Session | None, topic: str, data: bytes, force_qos: int | None = None) -> None:
        """Of amqtt's callers only the Will is left."""
        link = self._links.get(session.client_id) if session is not None else None
        self._route(Publish(topic, bytes(data), force_qos or 0, False, 0), link.connection if link else None)

    async def retain_message(self, source_session: Session | None, topic_name: str, data: bytes, qos: int | None = None) -> None:
        self._retain(topic_name, data, qos or 0)

    def _retain(self, topic: str, payload: bytes, qos: int) -> None:
        """Up to the limit, which is none unless a test wants some. An empty payload clears (section 3.3.1.3)."""
        if not payload:
            self._retained_messages.pop(topic, None)
        elif topic in self._retained_messages or len(self._retained_messages) < self._limits.retained_messages:
            self._retained_messages[topic] = RetainedApplicationMessage(None, topic, payload, qos)


class EmbeddedBroker:
    """Guard and amqtt, started and ended together."""

    def __init__(self, rules: Rules, limits: Limits | None = None, *, topics: Topics | None = None, kept: Path | None = None) -> None:
        """`kept`: the file with the certificates that are revoked; without one nobody's is, which only tests want."""
        limits = limits or Limits()
        self._follower = Follower(kept, lambda now, _: self.guard.revoke(now.serials)) if kept is not None else None
        told = {(topics or Topics()).broker("revoked"): self._follower.take} if self._follower is not None else {}
        self._broker = _Broker(limits, told)
        self.guard = Guard(rules, self._broker, limits)
        self.port = 0
        """Known once started."""

    @property
    def revoked(self) -> RevocationList:
        """What it has been told is."""
        return self._follower.known if self._follower is not None else RevocationList()

    async def start(self, host: str, port: int) -> int:
        """Returns the port. Raises OSError where host and port can't be listened on."""
        if self._follower is not None:
            self.guard.revoke(self._follower.restore().serials)
        await self._broker.start()
        try:
            self.port = self.guard.listen(host, port)
        except OSError:
            await self._broker.shutdown()
            raise
        return self.port

    async def stop(self) -> None:
        """End every connection, without Wills: it is the broker that goes, not the clients."""
        await self.guard.close(2.0)
        try:
            async with asyncio.timeout(2.0):
                await self._broker.shutdown()
        except (TimeoutError, AMQTTError) as error:
            log.warning("amqtt did not end in time", extra={"reason": str(error)})

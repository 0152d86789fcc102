"""The server's MQTT session: one connection to the broker that comes back by itself, for `inventory.service` and `managers.dispatch`.

`Session` connects with the service's certificate, for ever, with jittered backoff and a new client for each connection; it subscribes
again what it was subscribed to, hands out what arrives (one at a time or in batches), and publishes. What arrives waits in turns by its
sender (`broker.turns`): beyond a sender's share it is dropped, as all senders share one connection, and the sender says it again. All
together is bounded by no longer reading the socket; what is published, by a number of unacknowledged messages. It deliberately keeps
nothing across a connection's end: durability is the sender's and the other end's (design.md section 4), and whoever awaits `publish` is
told with `NotConnected`.

Beneath is aiomqtt over paho. Its per-message tasks and its scan of pending calls are bypassed: see `_Client`; so is paho's reading of
messages: see `broker.reading`.
"""

import asyncio
import contextlib
import functools
import logging
import random
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiomqtt
import paho.mqtt.client as paho

from broker.reading import Reader, Taker
from broker.room import Room
from broker.topics import DeviceTopic, IntentTopic, Topic, TopicError, Topics
from broker.turns import Share, Turns

log = logging.getLogger(__name__)

_FILTERS_A_PACKET = 64
"""Of a SUBSCRIBE; a shard each makes 256, and a packet should stay small."""


DEVICE = Share(items=64, size=5 * 1024 * 1024, burst=300, a_second=20.0, turn=16)
"""Of a device: its window is 16 messages of at most 256 KiB, taken in one turn because they are acknowledged by one message, and beside it
there are presence, heartbeats and metrics. A machine that comes back with everything to say needs some 250 messages; after that, 20 a
second are more than anything on a machine changes."""
INTEGRATION = Share(items=1000, size=8 * 1024 * 1024, burst=10_000, a_second=1000.0)
"""Of an integration, which may have a fleet's worth to say; `inventory.service` bounds what is not done yet, with a reply."""
TELL_S = 60.0
"""A sender that is refused is named in the log this often at most, in seconds."""


class NotConnected(Exception):
    """There is no connection to the broker, or it ended before the message was acknowledged. Publish it again, later."""


class SubscriptionRefused(Exception):
    """The broker does not let this certificate subscribe to these filters."""

    def __init__(self, filters: list[str]) -> None:
        super().__init__(f"the broker refuses the subscription of {', '.join(filters)}")
        self.filters = filters


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of the CA's certificate, and of the session's own certificate and key (PEM)."""

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Read at each connection, so that a renewed certificate is taken up."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the broker is and how much may be under way."""

    host: str
    port: int
    name: str
    """The service, such as `svc-inventory`; the client id is made of it and some random digits, so that replicas don't take over."""
    tls: TlsFiles | None = None
    """None: plain TCP, which only tests use."""
    topics: Topics = field(default_factory=Topics)
    keepalive_s: int = 15
    """A dead broker is noticed after this and a PINGREQ's answer, so within 30 s."""
    timeout_s: float = 5.0
    """For CONNACK, SUBACK and UNSUBACK."""
    acknowledge_s: float = 10.0
    """For PUBACK; then `publish` raises NotConnected."""
    backoff_s: float = 0.2
    """First wait before connecting again; doubles, with full jitter."""
    backoff_max_s: float = 5.0
    """Longest wait: what a broker's restart adds to everything else."""
    of_device: Share = DEVICE
    of_integration: Share = INTEGRATION
    inbox_messages: int = 10_000
    """Read and not yet taken, of all; at this the socket is left alone until half of it is taken."""
    inbox_bytes: int = 64 * 1024 * 1024
    """Likewise, by the payloads' size."""
    unacknowledged: int = 4_000
    """QoS 1 messages published and not yet acknowledged; `publish` and `send` wait at this, except while the socket is left alone (see
    `inbox_messages`), when acknowledgements are not read either. Packet ids end at 65,535."""

    @classmethod
    def from_url(cls, url: str, name: str, secrets_dir: Path, topics: Topics) -> Self:
        """`mqtts://host[:port]` with `{name}.crt`, `{name}.key` and `ca.crt` of the secrets directory, or `mqtt://` without TLS.

        Raises ValueError for any other scheme or without a host.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("mqtts", "mqtt") or not parts.hostname:
            raise ValueError(f"the broker's URL must be mqtts://HOST[:PORT], not {url!r}")
        if parts.scheme == "mqtt":
            return cls(host=parts.hostname, port=parts.port or 1883, name=name, topics=topics)
        tls = TlsFiles(secrets_dir / "ca.crt", secrets_dir / f"{name}.crt", secrets_dir / f"{name}.key")
        return cls(host=parts.hostname, port=parts.port or 8883, name=name, topics=topics, tls=tls)


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came: `topic` is None where its text is not one of the contract; `at` is when it was read, UTC."""

    topic: Topic | None
    text: str
    payload: bytes
    at: datetime


@dataclass(frozen=True, slots=True)
class SessionUp:
    """Connected, and every filter subscribed, since `at` (UTC)."""

    at: datetime


@dataclass(frozen=True, slots=True)
class SessionDown:
    """The connection ended at `at` (UTC). What was unacknowledged may or may not have arrived."""

    at: datetime
    reason: str


Listener = Callable[[SessionUp | SessionDown], None]


class _Client(aiomqtt.Client):
    """aiomqtt for connecting and subscribing, with the two hot paths replaced.

    Messages go straight to `take` instead of through a task each; acknowledgements are found by their packet id instead of by a walk over
    all pending calls; and reading can pause.
    """

    def __init__(self, settings: Settings, take: Taker) -> None:
        super().__init__(
            settings.host,
            settings.port,
            identifier=f"{settings.name}-{secrets.token_hex(4)}",
            clean_session=True,
            keepalive=settings.keepalive_s,
            timeout=settings.timeout_s,
            tls_context=settings.tls.context() if settings.tls else None,
            # Unbounded in paho, bounded by `_room`: with a bound of its own, paho walks all that is in flight at each PUBACK.
            max_inflight_messages=0,
            max_queued_outgoing_messages=0,
        )
        self._client.disable_logger()  # it formats several lines a message, for nobody
        self._reader = Reader(self._client, take)
        self._room = Room(settings.unacknowledged)
        self._unacknowledged: dict[int, asyncio.Future[None] | None] = {}
        self._reading: int | None = None

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            self._close_socket()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """However it ends: what it ends for, a cancellation too, goes on."""
        try:
            await super().__aexit__(kind, error, trace)
        except aiomqtt.MqttError as late:
            log.info("the broker did not take our goodbye", extra={"reason": str(late)})
        finally:
            self._close_socket()

    @property
    def over(self) -> bool:
        """Whether the connection has ended, though nobody may have been told yet."""
        return self._disconnected.done()

    async def ended(self) -> str:
        """Wait for the end of the connection, and say why it ended."""
        await asyncio.wait([self._disconnected])
        return str(self._disconnected.exception() or "disconnected")

    async def hand_over(self, topic: str, payload: bytes, qos: int, acknowledged: asyncio.Future[None] | None) -> None:
        """Give a message to paho, once there is room; `acknowledged` is resolved by its PUBACK (at QoS 0 at once)."""
        if qos:
            await self._room.take()
        info = self._client.publish(topic, payload, qos)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            self._give_room(qos)
            raise NotConnected(paho.error_string(info.rc))
        if qos:
            self._unacknowledged[info.mid] = acknowledged
        elif acknowledged is not None:
            acknowledged.set_result(None)

    def abandon(self) -> None:
        """Tell everyone who awaits an acknowledgement that there won't be one."""
        for acknowledged in self._unacknowledged.values():
            if acknowledged is not None and not acknowledged.done():
                acknowledged.set_exception(NotConnected("the connection ended before the broker acknowledged"))
            self._room.give()
        self._unacknowledged.clear()

    def pause(self) -> None:
        self._reader.stopped = True
        self._room.lend()
        if self._reading is not None:
            self._loop.remove_reader(self._reading)

    def resume(self) -> None:
        """Read on, first what has been read or decoded already: the selector does not see that."""
        self._reader.stopped = False
        self._room.lend_no_more()
        if self._reading is not None and not self._disconnected.done():
            self._loop.add_reader(self._reading, self._readable)
            self._loop.call_soon(self._readable)

    def _close_socket(self) -> None:
        """aiomqtt leaves it open where the broker does not answer in time: a late answer would keep a session that nobody reads."""
        self._client._sock_close()

    def _give_room(self, qos: int) -> None:
        if qos:
            self._room.give()

    def _on_publish(self, client: paho.Client, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        if mid not in self._unacknowledged:
            return
        acknowledged = self._unacknowledged.pop(mid)
        self._room.give()
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(None)

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Called on the thread that connects."""
        self._loop.call_soon_threadsafe(self._opened, sock.fileno())

    def _opened(self, fileno: int) -> None:
        self._reading = fileno
        self._loop.add_reader(fileno, self._readable)
        self._misc_task = self._loop.create_task(self._misc_loop())

    def _on_socket_close(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._reading = None
        super()._on_socket_close(client, userdata, sock)

    def _readable(self) -> None:
        """Read what is there, and what TLS has decoded along with it."""
        try:
            self._reader.go_on()
            while self._reading is not None and not self._reader.stopped:
                self._reader.read()
                sock = self._client.socket()
                if not isinstance(sock, ssl.SSLSocket) or not sock.pending():
                    break
        except Exception as error:
            # Whatever breaks in there has broken this connection and nothing else; `ended` tells it.
            if not self._disconnected.done():
                self._disconnected.set_exception(error)


class Session:
    """A connection to the broker for as long as the `async with` lasts.

    `listener` is called, in the event loop, at each beginning and end of a connection.
    """

    def __init__(self, settings: Settings, listener: Listener | None = None) -> None:
        self._settings = settings
        self._listener = listener
        self._filters: dict[str, int] = {}
        self._client: _Client | None = None
        self._inbox: Turns[Received] = Turns()
        self._refused_at: dict[str, float] = {}
        self._paused = False
        self._arrived = asyncio.Event()
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._parse = functools.lru_cache(maxsize=65_536)(self._parse_anew)
        self.connected_since: datetime | None = None
        """UTC; None while there is no connection on which all filters are subscribed."""
        self.connections = 0
        """How many connections have begun."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_connected(), name=f"mqtt session {self._settings.name}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Messages read and not yet taken."""
        return len(self._inbox)

    async def connected(self) -> None:
        """Wait until there is a connection. One that has ended is none from that moment on, before its end is told: who finds it and tries
        again would leave no pause to tell it in."""
        while self._client is None or self._client.over:
            self._up.clear()
            await self._up.wait()

    async def subscribe(self, *filters: str, qos: int = 1) -> None:
        """Subscribe now, or when there is a connection, and again on each later one.

        Raises SubscriptionRefused where the broker says so at once, and forgets what it refused. Refused on a later connection (the rules
        have changed), it is logged, and tried again until it is granted: a session that hears only a part is no session.
        """
        self._filters.update(dict.fromkeys(filters, qos))
        if self._client is None or not filters:
            return
        try:
            await self._while_connected(self._subscribe(self._client, dict.fromkeys(filters, qos)))
        except SubscriptionRefused as refusal:
            for each in refusal.filters:
                self._filters.pop(each, None)
            raise

    async def unsubscribe(self, *filters: str) -> None:
        """Unsubscribe. Messages that have been read already are still handed out."""
        for each in filters:
            self._filters.pop(each, None)
        if self._client is not None and filters:
            await self._while_connected(self._client.unsubscribe(list(filters)))

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Publish, and wait until the broker has acknowledged. Raises NotConnected.

        Many at once (`asyncio.gather`) go out together; one after the other each wait for the broker.
        """
        client = self._connected_client()
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._settings.acknowledge_s):
                await client.hand_over(topic, payload, qos, acknowledged)
                await acknowledged
        except TimeoutError:
            raise NotConnected(f"the broker did not acknowledge within {self._settings.acknowledge_s:g} s") from None

    async def send(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Hand over for publishing without waiting for the broker, for what is sent again anyhow when no answer comes (acks, commands).

        Waits only while too much is unacknowledged and acknowledgements are being read. Raises NotConnected.
        """
        await self._connected_client().hand_over(topic, payload, qos, None)

    @property
    def refused(self) -> int:
        """Messages dropped since the beginning because their sender had more waiting than its share."""
        return self._inbox.refused

    def __aiter__(self) -> AsyncIterator[Received]:
        return self._each()

    async def batch(self, limit: int) -> list[Received]:
        """Wait for a message, then take up to `limit` of those that are there, in turns by sender, each sender's in order."""
        while not (taken := self._inbox.take(limit, time.monotonic())):
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):  # those that wait are paced: it is time for the next
                async with asyncio.timeout(self._inbox.due_in(time.monotonic())):
                    await self._arrived.wait()
        self._resume_if_emptied()
        return taken

    async def _each(self) -> AsyncIterator[Received]:
        while True:
            for received in await self.batch(1):
                yield received

    # --- the connection -------------------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            reason = "could not connect"
            try:
                async with _Client(self._settings, self._receive) as client:
                    await self._subscribe_all(client)
                    self._begin(client)
                    failures = 0
                    reason = await client.ended()
            except (aiomqtt.MqttError, SubscriptionRefused, NotConnected, OSError) as error:
                reason = str(error) or type(error).__name__
            except asyncio.CancelledError:
                reason = "the session was closed"
                raise
            finally:
                self._end(reason)
            failures += 1
            ceiling = min(self._settings.backoff_max_s, self._settings.backoff_s * 2 ** min(failures, 16))
            await asyncio.sleep(random.uniform(0, ceiling))

    def _begin(self, client: _Client) -> None:
        self._client = client
        self._paused = False
        self.connected_since = datetime.now(UTC)
        self.connections += 1
        self._up.set()
        log.info("connected to the broker", extra={"service": self._settings.name, "filters": len(self._filters)})
        if self._listener:
            self._listener(SessionUp(self.connected_since))

    def _end(self, reason: str) -> None:
        if self._client is None:
            log.warning("no connection to the broker", extra={"service": self._settings.name, "reason": reason})
            return
        self._client.abandon()
        self._client = None
        self.connected_since = None
        self._up.clear()
        log.warning("connection to the broker ended", extra={"service": self._settings.name, "reason": reason})
        if self._listener:
            self._listener(SessionDown(datetime.now(UTC), reason))

    async def _subscribe_all(self, client: _Client) -> None:
        """All filters there are, those included that are asked for, or given up, while the broker answers. Nothing is awaited after the
        last look, so that from then on `subscribe` finds the connection."""
        done: dict[str, int] = {}
        while done != self._filters:
            if gone := [each for each in done if each not in self._filters]:
                await client.unsubscribe(gone)
            wanted = dict(self._filters)
            await self._subscribe(client, {each: qos for each, qos in wanted.items() if done.get(each) != qos})
            done = wanted

    async def _subscribe(self, client: _Client, filters: dict[str, int]) -> None:
        wanted = list(filters.items())
        for start in range(0, len(wanted), _FILTERS_A_PACKET):
            packet = wanted[start : start + _FILTERS_A_PACKET]
            codes = await client.subscribe(packet)
            refused = [each for (each, _), code in zip(packet, codes, strict=True) if _refuses(code)]
            if refused:
                raise SubscriptionRefused(refused)

    async def _while_connected(self, call: Any) -> None:
        """A connection lost meanwhile is no error: the next one begins with all the filters there are."""
        try:
            await call
        except aiomqtt.MqttError as error:
            log.info("connection lost while subscribing", extra={"service": self._settings.name, "reason": str(error)})

    def _connected_client(self) -> _Client:
        if self._client is None:
            raise NotConnected("there is no connection to the broker")
        return self._client

    # --- the inbox ------------------------------------------------------------------------------------------------------------

    def _receive(self, text: str, payload: bytes) -> None:
        received = Received(self._parse(text), text, payload, datetime.now(UTC))
        name, share = self._sender(received.topic)
        now = time.monotonic()
        if not self._inbox.put(name, share, received, len(payload), now):
            self._tell(name, now)
            return
        self._arrived.set()
        if not self._paused and self._client is not None and self._full(1.0):
            self._paused = True
            self._client.pause()

    def _sender(self, topic: Topic | None) -> tuple[str, Share]:
        match topic:
            case DeviceTopic(device, _):
                return device, self._settings.of_device
            case IntentTopic(integration=integration):
                return f"integration {integration}", self._settings.of_integration
        return "", self._settings.of_device

    def _tell(self, name: str, now: float) -> None:
        """Names of those who flood are few; should they not be, all are forgotten and told of again."""
        if now - self._refused_at.get(name, -TELL_S) < TELL_S:
            return
        if len(self._refused_at) >= 1000:
            self._refused_at.clear()
        self._refused_at[name] = now
        log.warning("a sender floods; what is beyond its share is dropped", extra={"sender": name, "refused": self._inbox.refused})

    def _resume_if_emptied(self) -> None:
        if self._paused and self._client is not None and not self._full(0.5):
            self._paused = False
            self._client.resume()

    def _full(self, part: float) -> bool:
        return len(self._inbox) >= self._settings.inbox_messages * part or self._inbox.size >= self._settings.inbox_bytes * part

    def _parse_anew(self, text: str) -> Topic | None:
        try:
            return self._settings.topics.parse(text)
        except TopicError:
            return None


def _refuses(code: Any) -> bool:
    """Return code 0x80 of SUBACK; paho gives it as a number or as a ReasonCode."""
    return int(getattr(code, "value", code)) >= 0x80

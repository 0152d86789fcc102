"""The network and the broker of a simulated world. The broker promises nothing: it delays, drops, doubles, reorders and forgets.

A `Path` is the way between the broker and one endpoint, each direction by itself. A `Broker` routes by topic and publishes Wills, late.
`DeviceLink` stands where `edge_agent.session.Session` does, `ServiceSession` where `broker.client.Session` does.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from random import Random
from typing import Any, Literal

from broker.client import NotConnected, Received, SessionDown, SessionUp
from broker.messages import AUTHENTICATED
from broker.topics import DeviceTopic, Topic, TopicError, Topics
from edge_agent import signals
from edge_agent.signals import Connect, Input, Publish
from tests.simulation.clockwork import VirtualLoop, later
from tests.simulation.database import Process

TOPICS = Topics()

REPLAYED = (*sorted(AUTHENTICATED), "down/command", "down/checkpoint")
"""Messages that are sealed or signed: who repeats them can't change them, and must have no effect by it."""
REMEMBERED = 200


@dataclass
class Weather:
    """How messages fare. `delay_s`: on the way; `drop`, `double`: how often."""

    delay_s: tuple[float, float] = (0.001, 0.05)
    drop: float = 0.0
    double: float = 0.0
    late: float = 0.0
    late_s: tuple[float, float] = (1.0, 60.0)
    orderly: bool = False
    """What goes one way arrives in the order in which it went, as MQTT wants it (3.1.1, section 4.6)."""


@dataclass(eq=False)
class Path:
    """The way between the broker and one endpoint. `cuts`: how often it has been cut. `lag_s`: the broker is a cluster, and by so much does
    its node at this end hand on later what it takes from a connection that begins now."""

    name: str
    up: bool = True
    down: bool = True
    cuts: int = 0
    lag_s: float = 0.0
    deaf_s: float = 0.0
    """For so long nothing reaches this end when the next connection has been made."""
    last: dict[str, float] = field(default_factory=dict)
    """By direction, when the last message arrives that keeps its place."""

    @property
    def whole(self) -> bool:
        return self.up and self.down


@dataclass(eq=False)
class Client:
    """A connection as the broker has it. `lost` is told when it ends without the client having asked for it."""

    id: str
    path: Path
    receive: Callable[[str, bytes], object]
    lost: Callable[[str], object]
    filters: dict[str, None] = field(default_factory=dict)
    will: tuple[str, bytes] | None = None
    keepalive_s: float = 30.0
    lag_s: float = 0.0


class Broker:
    """`alive`: it runs. `era` changes with each restart: nothing of an earlier one arrives."""

    def __init__(self, loop: VirtualLoop, dice: Random) -> None:
        self.loop, self.dice = loop, dice
        self.weather = Weather()
        self.alive = True
        self.era = 0
        self.clients: dict[str, Client] = {}
        self.past: list[tuple[str, bytes]] = []
        self.dawdles_until = 0.0
        """By then everything has arrived that takes longer than others."""
        self.published: Callable[[str, bytes], object] = lambda topic, payload: None

    # --- connections ---

    def attach(self, client: Client) -> None:
        """A second connection under one id ends the first, whose Will is published."""
        known = self.clients.get(client.id)
        if known is not None:
            self.detach(known, will=True, reason="taken over")
        self.clients[client.id] = client

    def detach(self, client: Client, *, will: bool, reason: str, told: bool = True) -> None:
        if self.clients.get(client.id) is not client:
            return
        del self.clients[client.id]
        if will and client.will is not None:
            self._dawdle(client.lag_s + self.dice.choice((0.0, 0.01, 1.0, 20.0)) * self.dice.random(), *client.will)
        if told:
            later(self.dice.uniform(0.0, 0.2), client.lost, reason)

    def reset(self, id: str) -> None:
        """The connection of this client breaks, and both ends notice."""
        if (client := self.clients.get(id)) is not None:
            self.detach(client, will=True, reason="reset")

    def _dawdle(self, seconds: float, topic: str, payload: bytes) -> None:
        """Hand a message on so much later, unless the broker has gone by then."""
        self.dawdles_until = max(self.dawdles_until, self.loop.now + seconds)
        later(seconds, self._of_era, self.era, topic, payload)

    def _of_era(self, era: int, topic: str, payload: bytes) -> None:
        if era == self.era:
            self.route(topic, payload)

    def restart(self, seconds: float) -> None:
        """Killed: no Wills, no farewells, nothing is remembered."""
        self.alive = False
        self.era += 1
        clients, self.clients = list(self.clients.values()), {}
        for client in clients:
            later(self.dice.uniform(0.0, 0.5), client.lost, "the broker went away")
        later(seconds, self._start)

    def _start(self) -> None:
        self.alive = True

    # --- messages ---

    def publish(self, client: Client, topic: str, payload: bytes) -> None:
        """From a client; arrives where the client is still connected by then."""

        def arrive() -> None:
            if self.clients.get(client.id) is not client:
                return
            if client.lag_s:
                self._dawdle(client.lag_s, topic, payload)
            else:
                self.route(topic, payload)

        self._carry(client.path, "up", arrive)

    def replay(self, most: int) -> None:
        """As a hostile broker does: what passed before passes once more."""
        for topic, payload in self.dice.sample(self.past, min(most, len(self.past))):
            self._dawdle(self.dice.uniform(0.0, 5.0), topic, payload)

    def route(self, topic: str, payload: bytes) -> None:
        if len(self.past) < REMEMBERED and topic.endswith(REPLAYED):
            self.past.append((topic, payload))
        self.published(topic, payload)
        for client in list(self.clients.values()):
            if any(_fits(each, topic) for each in client.filters):
                self._carry(client.path, "down", self._deliver, client, topic, payload)

    def _deliver(self, client: Client, topic: str, payload: bytes) -> None:
        if self.clients.get(client.id) is client:
            client.receive(topic, payload)

    def _carry(self, path: Path, way: Literal["up", "down"], arrive: Callable[..., object], *args: Any) -> None:
        """One way of one message: it arrives once, twice, later or not at all."""
        weather, dice = self.weather, self.dice
        if not (path.up if way == "up" else path.down) or (weather.drop and dice.random() < weather.drop):
            return
        times = 2 if weather.double and dice.random() < weather.double else 1
        for _ in range(times):
            slow = weather.late and dice.random() < weather.late
            seconds = dice.uniform(*(weather.late_s if slow else weather.delay_s))
            if slow:
                self.dawdles_until = max(self.dawdles_until, self.loop.now + seconds)
            if weather.orderly:
                seconds = max(seconds, path.last.get(way, 0.0) - self.loop.now + 1e-6)
                path.last[way] = self.loop.now + seconds
            later(seconds, self._arrive, self.era, arrive, args)

    def _arrive(self, era: int, arrive: Callable[..., object], args: tuple[Any, ...]) -> None:
        if era == self.era:
            arrive(*args)

    # --- cuts ---

    def cut(self, path: Path, *, up: bool, down: bool, seconds: float) -> None:
        """Nothing passes in these directions for so long. Both ends notice by their keepalive, each for itself."""
        path.up, path.down = path.up and not up, path.down and not down
        path.cuts += 1
        for client in [client for client in self.clients.values() if client.path is path]:
            later(client.keepalive_s * self.dice.uniform(1.0, 1.5), self._notice, client, path.cuts)
        later(seconds, self._mend, path, path.cuts)

    def _mend(self, path: Path, cuts: int) -> None:
        if path.cuts == cuts:
            path.up = path.down = True

    def _notice(self, client: Client, cuts: int) -> None:
        if client.path.cuts == cuts and not client.path.whole:
            self.detach(client, will=True, reason="keepalive")


@lru_cache(maxsize=4096)
def _fits(filter_: str, topic: str) -> bool:
    """MQTT 3.1.1 section 4.7, for the filters that the product uses."""
    wanted, levels = filter_.split("/"), topic.split("/")
    for n, each in enumerate(wanted):
        if each == "#":
            return True
        if n >= len(levels) or each not in ("+", levels[n]):
            return False
    return len(wanted) == len(levels)


@lru_cache(maxsize=4096)
def _parsed(topic: str) -> Topic | None:
    try:
        return TOPICS.parse(topic)
    except TopicError:
        return None


def channel_of(topic: str) -> str:
    parsed = _parsed(topic)
    return parsed.channel if isinstance(parsed, DeviceTopic) else topic


class DeviceLink:
    """One connection of a device, as the agent's shell sees it. `deliver` puts an input into the agent's queue."""

    def __init__(self, broker: Broker, device: str, path: Path, connect: Connect, deliver: Callable[[Input], None]) -> None:
        self.name = connect.session
        self._broker, self._deliver = broker, deliver
        self._over = False
        will = connect.will_topic, connect.will
        filters: dict[str, None] = {connect.subscribe: None}
        self._client = Client(device, path, self._receive, self._lost, filters, will, connect.keepalive_s, path.lag_s)
        if not broker.alive:
            later(broker.dice.uniform(0.01, 0.5), self._lost, "connection refused")
        elif not path.whole:
            later(15.0, self._lost, "timed out")
        else:
            later(broker.dice.uniform(0.01, 0.3), self._attach, broker.era)

    def publish(self, effect: Publish) -> None:
        if not self._over:
            self._broker.publish(self._client, effect.topic, effect.payload)

    def close(self, clean: bool) -> None:
        self._broker.detach(self._client, will=not clean, reason="closed", told=False)
        self._lost("closed")

    def join(self, timeout: float) -> None:
        pass

    def vanish(self, noticed: bool) -> None:
        """The device is without power, or its process was killed, which the broker notices at once."""
        self._over = True
        if noticed:
            self._broker.detach(self._client, will=True, reason="reset", told=False)
        else:
            wait = self._client.keepalive_s * self._broker.dice.uniform(1.0, 1.5)
            later(wait, lambda: self._broker.detach(self._client, will=True, reason="keepalive", told=False))

    def _attach(self, era: int) -> None:
        if self._over:
            return
        if era != self._broker.era or not self._broker.alive or not self._client.path.whole:
            self._lost("connection reset")
            return
        self._broker.attach(self._client)
        later(self._broker.dice.uniform(0.0, 0.1), self._connected)

    def _connected(self) -> None:
        if self._over:
            return
        path = self._client.path
        if path.deaf_s:
            seconds, path.deaf_s = path.deaf_s, 0.0
            self._broker.cut(path, up=False, down=True, seconds=seconds)
        self._deliver(signals.Connected(self.name))

    def _receive(self, topic: str, payload: bytes) -> None:
        if not self._over:
            self._deliver(signals.Received(self.name, topic, payload))

    def _lost(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._broker.detach(self._client, will=True, reason=reason, told=False)
            self._deliver(signals.Disconnected(self.name, reason))


class ServiceSession:
    """The session of an Inventory or managers process: connects for ever, keeps what arrived."""

    def __init__(self, broker: Broker, process: Process, path: Path, listener: Callable[[SessionUp | SessionDown], None]) -> None:
        self._broker, self._process, self._path, self._listener = broker, process, path, listener
        self._inbox: deque[Received] = deque()
        self._arrived = asyncio.Event()
        self._up = asyncio.Event()
        self._filters: dict[str, None] = {}
        self._client: Client | None = None
        self.connected_since: datetime | None = None
        self.connections = 0
        later(0.0, self._dial)

    async def connected(self) -> None:
        await self._up.wait()

    async def subscribe(self, *filters: str, qos: int = 1) -> None:
        self._filters.update(dict.fromkeys(filters))
        if self._client is not None and filters:
            await asyncio.sleep(self._broker.dice.uniform(0.0, 0.02))
            if self._client is not None:
                self._client.filters.update(dict.fromkeys(filters))

    async def unsubscribe(self, *filters: str) -> None:
        for each in filters:
            self._filters.pop(each, None)
            if self._client is not None:
                self._client.filters.pop(each, None)

    async def send(self, topic: str, payload: bytes, qos: int = 1) -> None:
        await self._running()
        if self._client is None or not self._process.alive:
            raise NotConnected("there is no connection to the broker")
        self._broker.publish(self._client, topic, payload)

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        await self.send(topic, payload, qos)

    async def batch(self, limit: int) -> list[Received]:
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()
        await self._running()
        return [self._inbox.popleft() for _ in range(min(limit, len(self._inbox)))]

    async def _running(self) -> None:
        """A stopped process takes and gives nothing."""
        while (wait := self._process.paused_until - self._broker.loop.now) > 0:
            await asyncio.sleep(min(1.0, wait))

    def vanish(self) -> None:
        """Its process is gone."""
        if self._client is not None:
            self._broker.detach(self._client, will=False, reason="reset", told=False)
        self._client = None

    def _dial(self) -> None:
        if not self._process.alive:
            return
        if not self._broker.alive or not self._path.whole:
            later(self._broker.dice.uniform(0.2, 5.0), self._dial)
            return
        client = Client(self._process.name, self._path, self._receive, self._lost, dict(self._filters), keepalive_s=15.0)
        self._client = client
        self._broker.attach(client)
        self.connected_since = self._broker.loop.wall()
        self.connections += 1
        self._up.set()
        self._listener(SessionUp(self.connected_since))

    def _receive(self, topic: str, payload: bytes) -> None:
        if self._process.alive:
            self._inbox.append(Received(_parsed(topic), topic, payload, self._broker.loop.wall()))
            self._arrived.set()

    def _lost(self, reason: str) -> None:
        if not self._process.alive or self._client is None:
            return
        self._client, self.connected_since = None, None
        self._up.clear()
        self._listener(SessionDown(self._broker.loop.wall(), reason))
        later(self._broker.dice.uniform(0.1, 1.0), self._dial)

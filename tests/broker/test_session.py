"""The server's session against real brokers: it comes back by itself, loses nothing that was delivered, and says what it can't do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from broker.acl import Acl, Class
from broker.client import NotConnected, Session, SessionDown, SessionUp, Settings, SubscriptionRefused
from broker.embedded import EmbeddedBroker
from broker.guard import Rules, Tls
from broker.topics import DeviceTopic, IntentTopic, Topics
from broker.turns import Share
from tests.broker.certificates import CertFactory
from tests.broker.wire import Wire, publish, until
from tests.waiting import patience

T = Topics()
FACTS = T.build(DeviceTopic("host-a", "up/facts"))
COMMAND = T.build(DeviceTopic("host-a", "down/command"))
Make = Callable[..., Wire]


@pytest.fixture
def settings(certs: CertFactory, broker: EmbeddedBroker) -> Settings:
    certs.client("svc-inventory", Class.SERVICE)
    url = f"mqtts://127.0.0.1:{broker.port}"
    return replace(Settings.from_url(url, "svc-inventory", certs.directory, T), backoff_s=0.02, backoff_max_s=0.1)


@pytest.fixture
async def session(settings: Settings) -> AsyncIterator[Session]:
    async with Session(settings) as made:
        async with patience(5):
            await made.connected()
        yield made


@pytest.fixture
async def device(wire: Make) -> Wire:
    made = wire("host-a")
    await made.connect("host-a")
    await made.subscribe(T.downlinks("host-a"))
    return made


WIDE = Share(items=100_000, size=1 << 30, burst=100_000, a_second=1e6)
"""For tests in which one device sends what a fleet would."""


async def take(session: Session, count: int) -> list[bytes]:
    taken: list[bytes] = []
    async with patience(20):
        while len(taken) < count:
            taken += [received.payload for received in await session.batch(count)]
    return taken


async def test_messages_come_parsed_in_order_and_with_their_time(session: Session, device: Wire) -> None:
    """Each with its topic as a value, its text, its payload and the time of reading."""
    await session.subscribe(T.uplinks())
    for n in range(3):
        await device.publish(FACTS, str(n).encode())
    received = []
    async with patience(5):
        async for each in session:
            received.append(each)
            if len(received) == 3:
                break
    assert [each.payload for each in received] == [b"0", b"1", b"2"]
    assert {(each.topic, each.text) for each in received} == {(DeviceTopic("host-a", "up/facts"), FACTS)}
    assert received[0].at <= received[2].at


async def test_a_topic_that_is_not_of_the_contract_comes_as_text(session: Session, device: Wire) -> None:
    """The ingest has to be able to count it."""
    await session.subscribe(T.uplinks())
    odd = T.device_prefix("host-a") + "/up/nonsense"
    await device.publish(odd, b"x")
    (received,) = await session.batch(1)
    assert (received.topic, received.text) == (None, odd)


async def test_filters_asked_for_while_connecting_are_subscribed(settings: Settings, device: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, or given up, while the broker still answers the first SUBSCRIBE counts on that connection."""
    subscribe_one_by_one = Session._subscribe

    async def busy(self: Session, client: Any, filters: dict[str, int]) -> None:
        await subscribe_one_by_one(self, client, filters)
        if filters == {T.intents(): 1}:
            await self.subscribe(T.uplinks())
            await self.unsubscribe(T.intents())

    monkeypatch.setattr(Session, "_subscribe", busy)
    session = Session(settings)
    await session.subscribe(T.intents())
    async with session:
        async with patience(5):
            await session.connected()
        await device.publish(FACTS, b"heard")
        assert await take(session, 1) == [b"heard"]


async def test_a_connection_that_has_ended_is_none_before_its_end_is_told(session: Session) -> None:
    """Whoever tries for as long as it takes, such as a cut, would else find it again and again, and leave no pause to tell it in."""
    assert session._client is not None
    session._client._disconnected.set_result(None)
    async with patience(5):
        await session.connected()
    assert session.connections == 2


class Unfit:
    """A broker that says `answer` to a CONNECT and reads no further."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.left = asyncio.Event()

    async def settings(self) -> Settings:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        return Settings(host="127.0.0.1", port=port, name="svc-inventory", keepalive_s=600, timeout_s=0.5, backoff_s=0.02)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(self._answer)
        if self._answer:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reader.read()
        self.left.set()
        writer.close()


async def test_a_connection_that_is_not_answered_is_closed() -> None:
    """A broker that answers it after all, later, would else keep a session beside the next one, which nobody reads."""
    silent = Unfit(b"")
    async with Session(await silent.settings()), patience(5):
        await silent.left.wait()


async def test_a_session_ends_whose_broker_reads_nothing_more() -> None:
    """The goodbye is not taken in time; that must not keep the session, which would connect again for ever."""
    settings = await Unfit(b"\x20\x02\x00\x00").settings()
    async with patience(5):
        async with Session(settings) as session:
            await session.connected()
            await session.send(COMMAND, bytes(32 * 1024 * 1024), qos=0)
        assert session.connections == 1


async def test_filters_change_at_run_time(session: Session, device: Wire) -> None:
    """Shard by shard; what is no longer subscribed does not come."""
    prefix = T.device_prefix("host-a").split("/")[3]
    await session.subscribe(*(T.uplinks(shard) for shard in (prefix, "00")))
    await device.publish(FACTS, b"1")
    assert await take(session, 1) == [b"1"]
    await session.unsubscribe(T.uplinks(prefix))
    await device.publish(FACTS, b"2")
    await session.subscribe(T.uplinks(prefix))
    await device.publish(FACTS, b"3")
    assert await take(session, 1) == [b"3"]


async def test_all_shards_at_once(session: Session, device: Wire) -> None:
    """256 filters, in packets of 64."""
    await session.subscribe(*(T.uplinks(f"{n:02x}") for n in range(256)))
    await device.publish(FACTS, b"1")
    assert await take(session, 1) == [b"1"]


async def test_a_refused_filter_is_said_and_forgotten(session: Session) -> None:
    """SubscriptionRefused names it; the session goes on without it."""
    with pytest.raises(SubscriptionRefused, match="refuses the subscription of fleet/#"):
        await session.subscribe("fleet/#")
    await session.subscribe(T.intents())
    assert session._filters == {T.intents(): 1}


async def test_publish_returns_when_the_broker_has_acknowledged(session: Session, device: Wire) -> None:
    """A thousand at once, in order."""
    topic = T.build(DeviceTopic("host-a", "down/ack"))
    await asyncio.gather(*(session.publish(topic, str(n).encode()) for n in range(1000)))
    assert [(await device.message()).payload for _ in range(1000)] == [str(n).encode() for n in range(1000)]
    assert session._client is not None
    assert session._client._unacknowledged == {}


async def test_send_hands_over_at_qos_0_and_1(session: Session, device: Wire) -> None:
    """Without waiting for the broker."""
    topic = T.build(DeviceTopic("host-a", "down/ack"))
    await session.send(topic, b"1")
    await session.send(topic, b"0", qos=0)
    await session.publish(topic, b"00", qos=0)
    assert [(await device.message()).payload for _ in range(3)] == [b"1", b"0", b"00"]


async def test_the_number_of_unacknowledged_is_bounded(settings: Settings, device: Wire) -> None:
    """With room for 3, a hundred pass all the same, three at a time."""
    async with Session(replace(settings, unacknowledged=3)) as session:
        await session.connected()
        most = 0

        async def one() -> None:
            nonlocal most
            await session.send(T.build(DeviceTopic("host-a", "down/ack")), b"x")
            assert session._client is not None
            most = max(most, len(session._client._unacknowledged))

        await asyncio.gather(*(one() for _ in range(100)))
        for _ in range(100):
            await device.message()
    assert most == 3


async def test_a_device_that_floods_gets_its_share_and_others_are_heard_at_once(settings: Settings, device: Wire, wire: Make) -> None:
    """Of 5,000 messages of one device 64 wait and the rest is dropped; another's message comes after one window of it."""
    other = wire("host-b")
    await other.connect("host-b")
    async with Session(settings) as session:
        await session.connected()
        await session.subscribe(T.uplinks())
        for n in range(5000):
            device.send(publish(FACTS, str(n).encode(), packet_id=n + 1))
        await device.ping()
        await until(lambda: session.refused == 5000 - 64)
        await other.publish(T.build(DeviceTopic("host-b", "up/facts")), b"calm")
        await until(lambda: len(session._inbox) == 65)
        window = [str(n).encode() for n in range(64)]
        assert [r.payload for r in await session.batch(17)] == [*window[:16], b"calm"]
        assert await take(session, 48) == window[16:]


async def test_a_full_inbox_stops_the_reading_and_loses_nothing(settings: Settings, device: Wire) -> None:
    """With room for 10 messages, 2,000 sent while nobody takes any: the socket is left alone, then all come in order."""
    async with Session(replace(settings, inbox_messages=10, of_device=WIDE)) as session:
        await session.connected()
        await session.subscribe(T.uplinks())
        for n in range(2000):
            device.send(publish(FACTS, str(n).encode(), packet_id=n + 1))
        await until(lambda: session._paused)
        await device.ping()
        assert len(session._inbox) == 10
        assert await take(session, 2000) == [str(n).encode() for n in range(2000)]


async def test_who_answers_what_it_takes_from_a_full_inbox_does_not_wait_for_ever(settings: Settings, device: Wire) -> None:
    """2,000 messages, an answer to each, an inbox of 100 and room for 3: acknowledgements stand in the socket that is left alone."""
    async with Session(replace(settings, inbox_messages=100, unacknowledged=3, of_device=WIDE)) as session:
        await session.connected()
        await session.subscribe(T.uplinks())
        for n in range(2000):
            device.send(publish(FACTS, str(n).encode(), packet_id=n + 1))
        await until(lambda: session._paused)
        answered = 0
        async with patience(20):
            while answered < 2000:
                for _ in await session.batch(50):
                    await session.send(COMMAND, b"x")
                    answered += 1
        assert session.connections == 1


async def test_it_comes_back_with_its_filters(certs: CertFactory, wire: Make) -> None:
    """The broker ends and starts again on its port: the session says so, and hears what is published afterwards."""
    certs.client("svc-inventory", Class.SERVICE)
    secrets, seen = certs.directory, list[SessionUp | SessionDown]()
    rules = Rules.by_certificate(Acl(T), Tls(secrets / "broker.crt", secrets / "broker.key", secrets / "ca.crt"))
    broker = EmbeddedBroker(rules)
    port = await broker.start("127.0.0.1", 0)
    settings = replace(Settings.from_url(f"mqtts://127.0.0.1:{port}", "svc-inventory", secrets, T), backoff_s=0.02, backoff_max_s=0.1)
    async with Session(settings, seen.append) as session:
        await session.subscribe(T.uplinks())
        await session.connected()
        await broker.stop()
        await until(lambda: session.connected_since is None)
        with pytest.raises(NotConnected):
            await session.publish(COMMAND, b"x")
        broker = EmbeddedBroker(rules)
        await broker.start("127.0.0.1", port)
        async with patience(10):
            await session.connected()
        assert session.connected_since is not None
        device = Wire("127.0.0.1", port, certs.client_context("host-a", Class.DEVICE))
        await device.connect("host-a")
        await device.publish(FACTS, b"after")
        assert await take(session, 1) == [b"after"]
        await device.abort()
    await broker.stop()
    assert [type(each) for each in seen] == [SessionUp, SessionDown, SessionUp, SessionDown]


async def test_publishing_into_a_broken_connection_is_told(session: Session, broker: EmbeddedBroker) -> None:
    """Whoever waits for an acknowledgement gets NotConnected when the connection ends, not silence."""
    (link,) = broker._broker._links.values()
    link.connection.hold("a broker that hangs")
    waiting = asyncio.gather(*(session.publish(COMMAND, b"x") for _ in range(5)), return_exceptions=True)
    await until(lambda: session._client is not None and len(session._client._unacknowledged) == 5)
    link.connection.cut("for the test")
    async with patience(5):
        assert [type(error) for error in await waiting] == [NotConnected] * 5
        await session.connected()


async def test_a_broker_that_does_not_acknowledge_is_told(settings: Settings, broker: EmbeddedBroker) -> None:
    """After `acknowledge_s`."""
    async with Session(replace(settings, acknowledge_s=0.2)) as session:
        await session.connected()
        (link,) = broker._broker._links.values()
        link.connection.hold("a broker that hangs")
        with pytest.raises(NotConnected, match=r"did not acknowledge within 0\.2 s"):
            await session.publish(COMMAND, b"x")


async def test_two_replicas_of_a_service_live_side_by_side(settings: Settings, session: Session, device: Wire) -> None:
    """The same certificate twice: neither takes over, each hears what it has subscribed to."""
    async with Session(settings) as other:
        await other.connected()
        await other.subscribe(T.uplinks())
        await session.subscribe(T.uplinks())
        await device.publish(FACTS, b"1")
        assert await take(other, 1) == await take(session, 1) == [b"1"]


@pytest.mark.parametrize("url", ["http://x:1", "mqtts://", "localhost:8883"])
def test_urls_that_are_none(certs: CertFactory, url: str) -> None:
    """The URL's form is in the message."""
    with pytest.raises(ValueError, match=r"must be mqtts://HOST\[:PORT\]"):
        Settings.from_url(url, "svc-inventory", certs.directory, T)


async def test_without_a_broker_it_keeps_trying_and_closes_at_once(settings: Settings) -> None:
    """Nothing listens: no exception, no connection, and leaving the session does not wait."""
    async with Session(replace(settings, port=1)) as session:
        await session.subscribe(T.build(IntentTopic("erp", "host", "host-a")))
        with pytest.raises(NotConnected):
            await session.send(COMMAND, b"x")
    assert session.connected_since is None

"""One test, or a few, for each row of the table of what bare amqtt 0.12.1 lacks; adopting another release means running these."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from cryptography import x509

from broker.acl import Class
from broker.embedded import EmbeddedBroker
from broker.limits import Limits
from broker.messages import MAX_BYTES
from broker.packets import Will, connect, data, packet
from broker.topics import DeviceTopic, Topics
from tests.broker.certificates import CertFactory
from tests.broker.wire import PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Wire, publish, until
from tests.waiting import Stopwatch, patience

T = Topics()
Make = Callable[..., Wire]


def up(device: str, channel: str = "up/facts") -> str:
    return T.build(DeviceTopic(device, channel))


def down(device: str, channel: str = "down/command") -> str:
    return T.build(DeviceTopic(device, channel))


@pytest.fixture
async def inventory(wire: Make) -> Wire:
    """The Inventory's connection, subscribed to what devices publish."""
    made = wire("svc-inventory", Class.SERVICE)
    assert await made.connect("i") == 0
    assert await made.subscribe(T.uplinks()) == [1]
    return made


class TestMqtt311Only:
    async def test_mqtt_5_is_refused_with_connack_1(self, wire: Make) -> None:
        """A client of MQTT 5 learns from the return code that its version is not spoken."""
        assert await wire("host-a").connect("host-a", level=5) == 1

    async def test_another_protocol_name_is_not_answered(self, wire: Make) -> None:
        """What is not MQTT gets no CONNACK, only the end."""
        made = await wire("host-a").open()
        made.send(packet(1, 0, data(b"MQIsdp") + b"\x03\x02\x00\x00" + data(b"host-a")))
        assert await made.closed()


class TestIdentityBeforeAnything:
    async def test_without_a_certificate_there_is_no_connection(self, certs: CertFactory, broker: EmbeddedBroker) -> None:
        """TLS without a client certificate ends before a byte of MQTT is looked at."""
        context = certs.client_context("host-a", Class.DEVICE)
        bare = type(context)(context.protocol)
        bare.load_verify_locations(certs.directory / "ca.crt")
        made = await Wire("127.0.0.1", broker.port, bare).open()
        made.send(b"\x10\x00")
        assert await made.closed()
        assert broker.guard.counters.connected == 0

    async def test_a_refused_client_id_harms_nobody(self, wire: Make, inventory: Wire) -> None:
        """Certificate B with client id A is refused with CONNACK 2; A stays connected and no Will is sent."""
        a = wire("host-a")
        assert await a.connect("host-a", will=Will(up("host-a", "up/presence"), b"gone", 1, False)) == 0
        assert await wire("host-b").connect("host-a") == 2
        await a.ping()
        await a.publish(up("host-a"), b"still here")
        assert (await inventory.message()).payload == b"still here"

    async def test_a_class_that_is_none_is_refused(self, wire: Make) -> None:
        """A certificate of our CA whose OU is no class of ours gets CONNACK 5."""
        assert await wire("stranger", "visitor").connect("stranger") == 5

    async def test_a_client_id_without_end_is_refused(self, wire: Make) -> None:
        """It would stand in every line of the log that is about the client."""
        assert await wire("erp", Class.INTEGRATION).connect("x" * 257) == 2

    async def test_client_ids_of_integrations_are_their_own(self, wire: Make) -> None:
        """Two integrations that choose the same client id, or a device's, take nothing over from each other."""
        device, a, b = wire("host-a"), wire("erp", Class.INTEGRATION), wire("mes", Class.INTEGRATION)
        for each in (device, a, b):
            assert await each.connect("host-a") == 0
        for each in (device, a, b):
            await each.ping()


class TestConnectionsOfAnIntegration:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connections=3)

    async def test_they_are_bounded_and_others_are_not_concerned(self, wire: Make) -> None:
        """CONNACK 3 for the fourth client id; a known one takes over, others come in, and who leaves makes room."""
        held = [wire("erp", Class.INTEGRATION) for _ in range(3)]
        assert [await each.connect(str(n)) for n, each in enumerate(held)] == [0, 0, 0]
        assert await wire("erp", Class.INTEGRATION).connect("4") == 3
        assert await wire("erp", Class.INTEGRATION).connect("2") == 0
        assert await wire("mes", Class.INTEGRATION).connect("4") == await wire("host-a").connect("host-a") == 0
        await held[0].leave()
        async with patience(5):
            while await wire("erp", Class.INTEGRATION).connect("4") != 0:
                pass


class TestCleanSessionsOnly:
    async def test_a_persistent_session_gets_connack_2(self, wire: Make) -> None:
        """Nothing may be resumed, so nothing persistent is begun."""
        assert await wire("host-a").connect("host-a", clean=False) == 2

    async def test_subscriptions_end_with_the_connection(self, wire: Make, inventory: Wire) -> None:
        """A device that comes back has no subscriptions, and gets nothing that was published meanwhile."""
        first = wire("host-a")
        await first.connect("host-a")
        await first.subscribe(T.downlinks("host-a"))
        await first.leave()
        second = wire("host-a")
        await second.connect("host-a")
        await inventory.publish(down("host-a", "down/ack"), b"x")
        await second.ping()
        await second.subscribe(T.downlinks("host-a"))
        await inventory.publish(down("host-a", "down/ack"), b"y")
        assert (await second.message()).payload == b"y"


class TestNothingRetained:
    async def test_a_retained_message_reaches_present_subscribers_and_is_forgotten(self, wire: Make, inventory: Wire) -> None:
        """The retain flag changes nothing: who subscribes later, or not at all, gets nothing."""
        device, late = wire("host-a"), wire("svc-inventory", Class.SERVICE)
        await device.connect("host-a")
        await device.publish(up("host-a"), b"1", retain=True)
        came = await inventory.message()
        assert (came.payload, came.flags & 1) == (b"1", 0)
        await late.connect("late")
        await late.subscribe(T.uplinks())
        await device.publish(up("host-a"), b"2")
        assert (await late.message()).payload == b"2"


class TestWillIsChecked:
    async def test_a_will_on_anothers_topic_is_refused_at_connect(self, wire: Make) -> None:
        """CONNACK 5, long before the Will could be sent."""
        assert await wire("host-a").connect("host-a", will=Will(up("host-b", "up/presence"), b"gone", 1, False)) == 5

    @pytest.mark.parametrize("topic", ["fleet/+/x", "fleet/#", ""])
    async def test_a_will_on_no_topic_at_all_ends_the_connection(self, wire: Make, topic: str) -> None:
        """Wildcards and emptiness are not for publishing."""
        with pytest.raises(EOFError):
            await wire("host-a").connect("host-a", will=Will(topic, b"gone", 1, False))


class TestRefusedLeaveNothing:
    async def test_a_hundred_refused_connections_leave_no_session(self, wire: Make, broker: EmbeddedBroker) -> None:
        """What was refused never reached amqtt."""
        for _ in range(100):
            assert await wire("host-b").connect("host-a") == 2
        assert broker.guard.counters.refused == 100
        assert not broker._broker.sessions

    async def test_ended_connections_leave_no_session(self, wire: Make, broker: EmbeddedBroker) -> None:
        """Neither amqtt's table nor the index keeps what a client had."""
        made = wire("host-a")
        await made.connect("host-a")
        await made.subscribe(T.downlinks("host-a"))
        await made.abort()
        await until(lambda: not broker._broker.sessions and not broker._broker._links and not len(broker._broker._index))
        await until(lambda: broker.guard.counters.connected == 0)

    async def test_connections_that_end_right_after_connect_leave_nothing(
        self, wire: Make, broker: EmbeddedBroker, inventory: Wire
    ) -> None:
        """CONNECT and the end in one piece, fifty times: amqtt misses an end that comes before it waits for one."""
        for n in range(50):
            made = await wire(f"host-{n % 5}").open()
            made.send(connect(f"host-{n % 5}", None))
            assert made._writer is not None
            made._writer.close()
        await until(lambda: len(broker._broker.sessions) == len(broker._broker._links) == broker.guard.counters.connected == 1)


class TestLimitsOfConnect:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connect_s=0.3, unauthenticated=4)

    @pytest.mark.parametrize("said", [b"", b"\x10", b"\x10\x20\x00\x04MQ"])
    async def test_connect_has_a_deadline(self, wire: Make, said: bytes) -> None:
        """Silence and half a CONNECT are both ended; so is a handshake for which this machine was too busy."""
        with suppress(OSError):
            made = await wire("host-a").open()
            made.send(said)
            assert await made.closed(2.0)

    async def test_tls_is_within_the_deadline(self, broker: EmbeddedBroker) -> None:
        """A socket on which nobody begins TLS is ended as well."""
        made = await Wire("127.0.0.1", broker.port, None).open()
        assert await made.closed(2.0)

    async def test_the_unauthenticated_are_bounded_and_the_others_only_wait(self, wire: Make, broker: EmbeddedBroker) -> None:
        """Twenty that begin TLS and stop want four places for 0.3 s each; a real device gets in behind them."""
        silent = [await Wire("127.0.0.1", broker.port, None).open() for _ in range(20)]
        for each in silent:
            each.send(b"\x16")
        assert await wire("host-a").let_in("host-a") == 0
        for each in silent:
            await each.abort()

    def test_the_default_is_three_seconds(self) -> None:
        """As the specification has it."""
        assert Limits().connect_s == 3.0


class TestLimitsOfPackets:
    async def test_the_largest_payload_passes(self, wire: Make, inventory: Wire) -> None:
        """256 KiB, whole."""
        device = wire("host-a")
        await device.connect("host-a")
        await device.publish(up("host-a"), b"x" * MAX_BYTES)
        assert len((await inventory.message()).payload) == MAX_BYTES

    async def test_a_larger_packet_is_refused_from_its_length_field(self, wire: Make) -> None:
        """Five bytes are enough for the end: what they announce is not waited for."""
        device = wire("host-a")
        await device.connect("host-a")
        device.send(b"\x32\xff\xff\xff\x7f")
        assert await device.closed(1.0)


class TestUtf8:
    @pytest.mark.parametrize(
        "topic", [b"\xff\xfe", b"a\xed\xa0\x80", b"a\x00b", b"\xc0\xaf", b"a\x1b[2J", b"a\xc2\x9bb", b"a\xef\xbf\xbe", b"\xf0\x9f\xbf\xbf"]
    )
    async def test_a_topic_that_is_not_utf8_is_refused(self, wire: Make, topic: bytes) -> None:
        """Invalid bytes, surrogates, NUL, overlong forms, control characters and noncharacters each end the connection, in PUBLISH and in
        SUBSCRIBE, as Mosquitto does."""
        publisher, subscriber = wire("host-a"), wire("host-b")
        await publisher.connect("host-a")
        publisher.send(packet(3, 2, data(topic) + b"\x00\x01x"))
        assert await publisher.closed(1.0)
        await subscriber.connect("host-b")
        subscriber.send(packet(8, 2, b"\x00\x01" + data(topic) + b"\x01"))
        assert await subscriber.closed(1.0)


class TestKeepalive:
    async def test_silence_beyond_one_and_a_half_keepalives_ends_with_the_will(self, wire: Make, inventory: Wire) -> None:
        """Keepalive 1 s: the end and the Will come after 1.5 s, not before 1.4 s."""
        device = wire("host-a")
        watch = Stopwatch()
        await device.connect("host-a", keepalive=1, will=Will(up("host-a", "up/presence"), b"gone", 1, False))
        will = await inventory.message(4.0)
        assert will.payload == b"gone"
        assert watch.wall() > 1.4 and watch.seconds() < 4.0
        assert await device.closed(1.0)

    async def test_pings_keep_a_connection(self, wire: Make) -> None:
        """A client that pings within each keepalive is not cut, though all of it takes longer than one and a half."""
        device = wire("host-a")
        await device.connect("host-a", keepalive=2)
        end = asyncio.get_running_loop().time() + 3.5
        while asyncio.get_running_loop().time() < end:
            await device.ping()
            await asyncio.sleep(0.5)  # the pace of its pings, not a wait for something
        await device.ping()


class TestNoDurability:
    async def test_what_is_in_flight_is_not_redelivered(self, wire: Make, inventory: Wire) -> None:
        """QoS 1 without PUBACK, then a new connection: the sender's outbox has to send again, not the broker."""
        device = wire("host-a")
        await device.connect("host-a")
        await device.subscribe(T.downlinks("host-a"))
        await inventory.publish(down("host-a", "down/ack"), b"lost")
        await device.expect(PUBLISH)
        await device.abort()
        again = wire("host-a")
        await again.connect("host-a")
        await again.subscribe(T.downlinks("host-a"))
        await inventory.publish(down("host-a", "down/ack"), b"new")
        assert (await again.message()).payload == b"new"


class TestRoutingOverSnapshots:
    async def test_subscribing_while_messages_fan_out_loses_nothing(self, wire: Make, inventory: Wire) -> None:
        """300 messages published while another client subscribes and unsubscribes 300 times: all arrive, in order."""
        publisher, restless = wire("host-a"), wire("erp", Class.INTEGRATION)
        await publisher.connect("host-a")
        await restless.connect("x")

        async def churn() -> None:
            for n in range(300):
                filter_ = f"{T.replies('erp')[:-1]}{n}"
                assert await restless.subscribe(filter_) == [1]
                restless.send(packet(10, 2, b"\x00\x09" + data(filter_.encode())))

        async def send() -> None:
            for n in range(300):
                await publisher.publish(up("host-a"), str(n).encode())

        async def take() -> list[bytes]:
            return [(await inventory.message()).payload for _ in range(300)]

        _, _, taken = await asyncio.gather(churn(), send(), take())
        assert taken == [str(n).encode() for n in range(300)]


class TestIndexOfFilters:
    def test_matching_does_not_slow_down_with_the_number_of_filters(self) -> None:
        """The index looks at the same number of nodes for 10 as for 50,000 devices' filters."""
        from broker.filters import FilterIndex

        index: FilterIndex[str] = FilterIndex()
        looked_at = []
        for count in (10, 50_000):
            for n in range(len(index), count):
                index.add(f"host-{n}", T.downlinks(f"host-{n}"), 1)
            looked_at.append(len(list(index._matching(down("host-5")))))
            assert index.match(down("host-5")) == {"host-5": 1}
        assert looked_at[0] == looked_at[1]


async def unread(wire: Make) -> tuple[Wire, Wire]:
    """An Inventory that has subscribed and reads nothing, and a device."""
    ingest, device = wire("svc-inventory", Class.SERVICE), wire("host-a")
    await ingest.connect("i")
    await ingest.subscribe(T.uplinks())
    ingest.pause()
    await device.connect("host-a")
    return ingest, device


class TestSlowReader:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(outbox_bytes=1_000_000, service_outbox_bytes=1_000_000, stalled_s=1.0)

    async def test_a_device_that_does_not_read_is_cut_and_said_so(
        self, wire: Make, inventory: Wire, broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Past its bound the device is cut, with a log line that names it; the publisher and another device notice nothing."""
        slow, other = wire("host-a"), wire("host-b")
        for each, name in ((slow, "host-a"), (other, "host-b")):
            await each.connect(name)
            await each.subscribe(T.downlinks(name))
        slow.pause()
        for _ in range(200):
            await inventory.publish(down("host-a", "down/ack"), b"x" * 100_000)
            if broker.guard.counters.cut:
                break
        await until(lambda: broker.guard.counters.cut == 1)
        said = [record for record in caplog.records if record.message == "client cut"]
        assert [(vars(record)["client"], vars(record)["reason"][:11]) for record in said] == [("host-a", "slow reader")]
        await inventory.publish(down("host-b", "down/ack"), b"fine")
        assert (await other.message()).payload == b"fine"

    async def test_a_service_that_never_reads_again_is_cut(self, wire: Make, broker: EmbeddedBroker) -> None:
        """After `stalled_s` the publishers are let go and the service is cut."""
        _, device = await unread(wire)
        for n in range(150):
            device.send(publish(up("host-a"), b"x" * 100_000, packet_id=n + 1))
        await until(lambda: broker.guard.counters.cut == 1, 10.0)
        for _ in range(150):
            await device.expect(PUBACK)


class TestSlowService:
    @pytest.fixture
    def limits(self) -> Limits:
        """Long enough that on no machine a reader is cut that goes on reading."""
        return Limits(service_outbox_bytes=1_000_000, stalled_s=60.0)

    async def test_who_publishes_to_a_slow_service_waits_and_loses_nothing(self, wire: Make, broker: EmbeddedBroker) -> None:
        """The ingest stops reading for a while: the device is not read either, and everything arrives once it goes on."""
        ingest, device = await unread(wire)
        for n in range(100):
            device.send(publish(up("host-a"), n.to_bytes(2, "big") + b"x" * 100_000, packet_id=n + 1))
        await until(lambda: any(link.connection._holds for link in broker._broker._links.values()))
        ingest._writer.transport.resume_reading()  # type: ignore[union-attr]
        assert [int.from_bytes((await ingest.message()).payload[:2], "big") for _ in range(100)] == list(range(100))
        assert broker.guard.counters.cut == 0


class TestTakeover:
    async def test_a_new_connection_ends_the_old_one_with_its_will(self, wire: Make, inventory: Wire) -> None:
        """The old socket is closed within seconds (bare amqtt: 19), its Will sent, and the new connection works."""
        old, new = wire("host-a"), wire("host-a")
        await old.connect("host-a", will=Will(up("host-a", "up/presence"), b"gone", 1, False))
        assert await new.connect("host-a") == 0
        assert await old.closed(3.0)
        assert (await inventory.message(3.0)).payload == b"gone"
        assert await new.subscribe(T.downlinks("host-a")) == [1]
        await inventory.publish(down("host-a", "down/ack"), b"x")
        assert (await new.message()).payload == b"x"

    async def test_takeovers_in_a_row_end_with_one_connection(self, wire: Make, broker: EmbeddedBroker) -> None:
        """Ten at once: one is left, and it answers."""
        many = [wire("host-a") for _ in range(10)]
        await asyncio.gather(*(each.connect("host-a") for each in many), return_exceptions=True)
        await until(lambda: broker.guard.counters.connected == 1 and len(broker._broker._links) == 1)
        last = wire("host-a")
        assert await last.connect("host-a") == 0
        await last.ping()
        assert broker.guard.counters.connected == 1


class TestManySignIns:
    @pytest.fixture
    def limits(self) -> Limits:
        """All begin at once: on a busy machine the last one's turn comes after more than the usual 3 s, and it would be refused."""
        return Limits(connect_s=60.0)

    async def test_two_hundred_sign_ins_take_seconds(self, wire: Make, broker: EmbeddedBroker) -> None:
        """With argon2 on the event loop they took 25 s of CPU; certificates have to stay below that by far."""
        begun = time.process_time()
        codes = await asyncio.gather(*(wire("svc-web", Class.SERVICE).connect(str(n), within=60.0) for n in range(200)))
        assert codes == [0] * 200
        assert time.process_time() - begun < 12


class TestPluginsNotUsed:
    def test_no_plugin_of_amqtt_is_loaded(self, broker: EmbeddedBroker) -> None:
        """Neither sessions in a database, nor certificates, password files or rules of its own."""
        assert broker._broker.plugins_manager.plugins == []


class TestDenials:
    async def test_a_denied_publish_is_acknowledged_and_dropped(self, wire: Make, inventory: Wire, broker: EmbeddedBroker) -> None:
        """PUBACK comes, the message does not; the denial is counted."""
        device = wire("host-a")
        await device.connect("host-a")
        await device.publish(up("host-b"), b"forged")
        await device.publish(up("host-a"), b"own")
        assert (await inventory.message()).payload == b"own"
        assert broker.guard.counters.denied_publishes == 1

    async def test_a_denied_subscription_gets_0x80(self, wire: Make, broker: EmbeddedBroker) -> None:
        """Beside a granted one in the same packet."""
        device = wire("host-a")
        await device.connect("host-a")
        assert await device.subscribe(T.downlinks("host-a"), T.downlinks("host-b")) == [1, 0x80]
        assert broker.guard.counters.denied_subscriptions == 1


class TestUnsubscribe:
    @pytest.mark.parametrize("filter_", ["a/#/b", "a+", ""])
    async def test_a_filter_that_is_none_ends_the_connection(self, wire: Make, filter_: str) -> None:
        """As in SUBSCRIBE: there can be no such subscription to end."""
        device = wire("host-a")
        await device.connect("host-a")
        device.send(packet(10, 2, b"\x00\x09" + data(filter_.encode())))
        assert await device.closed(1.0)


class TestTurns:
    @pytest.fixture
    def limits(self) -> Limits:
        """A turn is one packet."""
        return Limits(turn_s=0.0)

    async def test_who_sends_without_end_delays_nobody(self, wire: Make, inventory: Wire, broker: EmbeddedBroker) -> None:
        """Another device's message has arrived while most of 8,000 pings that came before it still wait for their turn; the same once who
        sent them is gone."""
        flooding, other = wire("host-a"), wire("host-b")
        await flooding.connect("host-a")
        await other.connect("host-b")
        flooding.send(b"\xc0\x00" * 8000)
        await flooding.expect(PINGRESP)
        await other.publish(up("host-b"), b"x")
        assert (await inventory.message()).payload == b"x"
        framer = broker.guard._clients["host-a"]._framer
        assert len(framer._buffer) - framer._at > 8000
        await flooding.abort()
        await other.publish(up("host-b"), b"y")
        assert (await inventory.message()).payload == b"y"
        assert framer.more, "what is left of it is taken in turns too"

    async def test_everything_is_answered_in_its_order(self, wire: Make) -> None:
        """However many turns it takes."""
        device = wire("host-a")
        await device.connect("host-a")
        said = [publish(up("host-a"), b"x", packet_id=1 + n) + b"\xc0\x00" for n in range(100)]
        device.send(b"".join(said))
        for n in range(100):
            assert (await device.expect(PUBACK)).body == (1 + n).to_bytes(2, "big")
            await device.expect(PINGRESP)

    async def test_what_came_before_the_end_counts(self, wire: Make, inventory: Wire) -> None:
        """A hundred messages, DISCONNECT and the end in one piece: all arrive."""
        device = wire("host-a")
        await device.connect("host-a", will=Will(up("host-a", "up/presence"), b"gone", 1, False))
        device.send(b"".join(publish(up("host-a"), bytes([n]), 0) for n in range(100)) + b"\xe0\x00")
        assert device._writer is not None
        device._writer.close()
        assert [(await inventory.message()).payload for _ in range(100)] == [bytes([n]) for n in range(100)]
        last = wire("host-b")
        await last.connect("host-b")
        await last.publish(up("host-b"), b"and no Will")
        assert (await inventory.message()).payload == b"and no Will"


class TestNoDelay:
    async def test_answers_go_out_at_once(self, wire: Make, broker: EmbeddedBroker) -> None:
        """Without it a second small packet waits for the acknowledgement of the first, which a client's kernel keeps back for 40 ms."""
        device = wire("host-a")
        await device.connect("host-a")
        transport = broker.guard._clients["host-a"]._transport
        assert transport is not None
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class TestQos2:
    async def test_a_message_of_qos_2_arrives_once(self, wire: Make, inventory: Wire) -> None:
        """PUBREC, PUBREL, PUBCOMP; a repeated PUBREL is answered again; the subscriber of QoS 1 gets QoS 1."""
        device = wire("host-a")
        await device.connect("host-a")
        await device.publish(up("host-a"), b"once", qos=2)
        await device.expect(5)
        for _ in range(2):
            device.send(packet(6, 2, b"\x00\x07"))
            await device.expect(7)
        came = await inventory.message()
        assert (came.payload, came.flags >> 1 & 3) == (b"once", 1)
        await device.publish(up("host-a"), b"next")
        assert (await inventory.message()).payload == b"next"

    async def test_it_is_delivered_when_it_is_released_and_once_however_often_it_is_sent(self, wire: Make, inventory: Wire) -> None:
        """Sent again before PUBREL under the same packet id it is the same message."""
        device = wire("host-a")
        await device.connect("host-a")
        for _ in range(2):
            await device.publish(up("host-a"), b"once", qos=2)
            await device.expect(PUBREC)
        await device.publish(up("host-a"), b"before", packet_id=8)
        device.send(packet(6, 2, b"\x00\x07"))
        await device.expect(PUBCOMP)
        await device.publish(up("host-a"), b"after", packet_id=8)
        assert [(await inventory.message()).payload for _ in range(3)] == [b"before", b"once", b"after"]

    async def test_a_subscriber_of_qos_2_gets_it_by_qos_2(self, wire: Make) -> None:
        """PUBLISH, PUBREC, PUBREL, PUBCOMP towards the subscriber too: amqtt's part."""
        device, hearing = wire("host-a"), wire("svc-inventory", Class.SERVICE)
        await device.connect("host-a")
        await hearing.connect("i")
        assert await hearing.subscribe(T.uplinks(), qos=2) == [2]
        await device.publish(up("host-a"), b"once", qos=2)
        await device.expect(PUBREC)
        device.send(packet(6, 2, b"\x00\x07"))
        await device.expect(PUBCOMP)
        came = await hearing.expect(PUBLISH)
        end = 2 + int.from_bytes(came.body[:2], "big")
        assert (came.payload, came.flags >> 1 & 3) == (b"once", 2)
        hearing.send(packet(5, 0, came.body[end : end + 2]))
        assert (await hearing.expect(PUBREL)).body == came.body[end : end + 2]
        hearing.send(packet(7, 0, came.body[end : end + 2]))
        await hearing.ping()

    async def test_a_denied_message_of_qos_2_is_acknowledged_and_dropped(self, wire: Make, inventory: Wire) -> None:
        """The whole exchange takes place, and nothing is delivered."""
        device = wire("host-a")
        await device.connect("host-a")
        await device.publish(up("host-b"), b"forged", qos=2)
        await device.expect(5)
        device.send(packet(6, 2, b"\x00\x07"))
        await device.expect(7)
        await device.publish(up("host-a"), b"own")
        assert (await inventory.message()).payload == b"own"


class TestLeaving:
    async def test_a_disconnect_sends_no_will_even_with_the_end_right_behind(self, wire: Make, inventory: Wire) -> None:
        """DISCONNECT and the end of the stream in one piece: twenty times, no Will."""
        for _ in range(20):
            device = wire("host-a")
            await device.connect("host-a", will=Will(up("host-a", "up/presence"), b"gone", 1, False))
            device.send(b"\xe0\x00")
            assert device._writer is not None
            device._writer.close()
        last = wire("host-a")
        await last.connect("host-a")
        await last.publish(up("host-a"), b"only this")
        assert (await inventory.message()).payload == b"only this"


class TestRenewedCertificate:
    async def test_the_brokers_certificate_is_read_again_when_it_changes(self, certs: CertFactory, wire: Make) -> None:
        """The next connection sees the new certificate; nothing is restarted."""
        serials = []
        for _ in range(2):
            made = wire("host-a")
            assert await made.connect("host-a") == 0
            assert made._writer is not None
            shown = made._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            serials.append(x509.load_der_x509_certificate(shown).serial_number)
            certs.broker()
        assert serials[0] != serials[1]


def test_the_length_prefix_of_packets_is_what_struct_says() -> None:
    """The two-byte prefix used all over these tests is big-endian, as section 1.5.2 has it."""
    assert data(b"abc") == struct.pack("!H", 3) + b"abc"

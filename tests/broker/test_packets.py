"""MQTT packets as bytes: what is written is read back, however it is cut, and whatever is not MQTT is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.packets import (
    Connect,
    Framer,
    Kind,
    Malformed,
    Outgoing,
    Packet,
    Publish,
    TooLarge,
    Will,
    connect,
    data,
    packet,
    read_connect,
    read_publish,
    read_subscribe,
    read_unsubscribe,
)

READERS = (
    read_connect,
    lambda body: read_publish(2, body),
    lambda body: read_subscribe(body, 3),
    lambda body: read_unsubscribe(body, 3),
)


@given(st.lists(st.binary(max_size=400), max_size=8), st.lists(st.integers(1, 300), max_size=20))
def test_the_framer_gives_the_same_packets_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    """Whole packets come out, in order, as soon as they are whole."""
    stream = b"".join(packet(Kind.PUBLISH, 2, body) for body in bodies)
    framer, found, start = Framer(1000), [], 0
    for cut in [*cuts, len(stream)]:
        found += list(framer.feed(stream[start : start + cut]))
        start += cut
    found += list(framer.feed(stream[start:]))
    assert found == [Packet(Kind.PUBLISH, 2, body) for body in bodies]


def test_the_length_field_is_enough_to_refuse() -> None:
    """Nothing of the body has to have come."""
    with pytest.raises(TooLarge):
        list(Framer(1000).feed(b"\x30\xe9\x07"))
    with pytest.raises(Malformed):
        list(Framer(2**30).feed(b"\x30\xff\xff\xff\xff"))


@pytest.mark.parametrize("first", [0x00, 0x20, 0x90, 0xB0, 0xD0, 0xF0, 0x11, 0x41, 0x60, 0x80, 0xA1, 0xC2, 0xE1])
def test_packets_that_clients_may_not_send(first: int) -> None:
    """Types of servers, reserved types, and reserved flags."""
    with pytest.raises(Malformed):
        list(Framer(1000).feed(bytes([first, 0])))


@given(st.text(st.characters(exclude_categories=("Cc", "Cn", "Cs")), max_size=30), st.binary(max_size=50), st.integers(0, 2), st.booleans())
def test_the_connect_for_amqtt_says_what_was_admitted(client_id: str, payload: bytes, qos: int, retain: bool) -> None:
    """Client id and Will, clean session, no keepalive."""
    will = Will("a/b", payload, qos, retain)
    (written,) = Framer(1000).feed(connect(client_id, will))
    assert read_connect(written.body) == Connect(4, client_id, True, 0, will)


@given(st.binary(max_size=50), st.integers(1, 65535))
def test_an_outgoing_message_is_written_for_each_receiver(payload: bytes, packet_id: int) -> None:
    """At QoS 0 and 1, with the receiver's packet id."""
    outgoing = Outgoing.of("a/ü", payload)
    (zero, one) = Framer(1000).feed(outgoing.at_most_once() + outgoing.at_least_once(packet_id))
    assert read_publish(zero.flags, zero.body) == Publish("a/ü", payload, 0, False, 0)
    assert read_publish(one.flags, one.body) == Publish("a/ü", payload, 1, False, packet_id)


@given(st.sampled_from(range(4)), st.binary(max_size=200))
def test_readers_take_any_bytes(reader: int, body: bytes) -> None:
    """They return or raise Malformed; nothing else ever comes out."""
    try:
        READERS[reader](body)
    except Malformed:
        pass


@pytest.mark.parametrize(
    "body",
    [
        b"",
        data(b"MQTT") + b"\x04\x03\x00\x00" + data(b"a"),  # reserved flag
        data(b"MQTT") + b"\x04\x0a\x00\x00" + data(b"a"),  # QoS of a Will without a Will
        data(b"MQTT") + b"\x04\x1e\x00\x00" + data(b"a") + data(b"t") + data(b"w"),  # Will of QoS 3
        data(b"MQTT") + b"\x04\x42\x00\x00" + data(b"a") + data(b"secret"),  # password without user name
        data(b"MQTT") + b"\x04\x02\x00\x00" + data(b"a") + b"x",  # more than its fields
        data(b"MQTT") + b"\x04\x02\x00\x00" + data(b"\xff"),  # client id that is not UTF-8
    ],
)
def test_connects_that_are_none(body: bytes) -> None:
    """Section 3.1.2's rules, one by one."""
    with pytest.raises(Malformed):
        read_connect(body)


@pytest.mark.parametrize(
    ("flags", "body"),
    [(6, data(b"a") + b"\0\1"), (2, data(b"a") + b"\0\0"), (2, data(b"a")), (0, data(b"a/+")), (0, data(b"")), (0, b"\0\5a")],
)
def test_publishes_that_are_none(flags: int, body: bytes) -> None:
    """QoS 3, packet id 0 or none, a wildcard, no topic, half a topic."""
    with pytest.raises(Malformed):
        read_publish(flags, body)


@pytest.mark.parametrize("rest", [b"", data(b"a"), data(b"a") + b"\3", data(b"a#") + b"\1", data(b"\xff") + b"\1"])
def test_subscribes_that_are_none(rest: bytes) -> None:
    """No filter, no QoS, QoS 3, a filter that is none, one that is not UTF-8."""
    with pytest.raises(Malformed):
        read_subscribe(b"\0\1" + rest, 10)


def test_filters_are_bounded_as_they_are_read() -> None:
    """A packet of a hundred thousand is refused at the first that is too many."""
    one = data(b"a") + b"\1"
    assert read_subscribe(b"\0\1" + one * 3, 3) == (1, [("a", 1)] * 3)
    with pytest.raises(Malformed, match="more than 3 filters"):
        read_subscribe(b"\0\1" + one * 4 + b"not read any more", 3)
    with pytest.raises(Malformed, match="more than 3 filters"):
        read_unsubscribe(b"\0\1" + data(b"a") * 4 + b"not read any more", 3)


def test_what_is_left_of_a_stream_is_taken_later() -> None:
    """Whoever stops in the middle goes on there, before and after more has come."""
    said, framer = [packet(Kind.PUBLISH, 2, bytes([n]) * 5) for n in range(4)], Framer(1000)
    assert next(framer.feed(b"".join(said[:3]) + said[3][:2])).body == b"\0" * 5
    assert next(framer.packets()).body == b"\1" * 5
    assert [each.body[0] for each in framer.feed(said[3][2:])] == [2, 3]
    assert list(framer.packets()) == []


def test_what_was_taken_is_not_kept() -> None:
    """A large message is let go of with its last packet, and not with the client's next one."""
    framer = Framer(256 * 1024)
    large = packet(Kind.PUBLISH, 2, b"x" * 180_000)
    taken = [list(framer.feed(large[at : at + 16_384])) for at in range(0, len(large), 16_384)]
    assert [len(each) for each in taken] == [0] * (len(taken) - 1) + [1]
    assert framer._buffer == b""

"""Reading what the broker sends: packets are cut right wherever a read ends, and what is no MQTT is said."""

import pytest

from broker.packets import data, packet, puback
from broker.reading import Malformed, cut

PUBLISH = packet(3, 2, data(b"t") + b"\x00\x07" + b"x" * 300)
STREAM = packet(13, 0, b"") + PUBLISH + puback(9) + packet(3, 0, data(b"u")) + packet(3, 0, data(b"v") + b"y" * 20_000)


def test_each_whole_packet_is_found() -> None:
    """Also empty ones, and those whose length takes several bytes."""
    found = [STREAM[start:end] for start, _, end in cut(STREAM)]
    assert b"".join(found) == STREAM
    assert [len(each) for each in found] == [2, len(PUBLISH), 4, 5, len(STREAM) - 2 - len(PUBLISH) - 4 - 5]
    assert [STREAM[start:body] for start, body, _ in cut(STREAM)][:2] == [b"\xd0\x00", b"\x32\xb1\x02"]


@pytest.mark.parametrize("end", [*range(330), 20_000, len(STREAM) - 1])
def test_a_packet_that_is_not_whole_waits(end: int) -> None:
    """Wherever the bytes end, the packets before are whole and nothing behind them is lost."""
    stops = [stop for _, _, stop in cut(STREAM[:end])]
    rest = STREAM[stops[-1] if stops else 0 :]
    assert b"".join(rest[start:stop] for start, _, stop in cut(rest)) == rest


def test_a_length_field_of_five_bytes_is_malformed() -> None:
    """MQTT 3.1.1 section 2.2.3."""
    with pytest.raises(Malformed):
        list(cut(b"\x30\x80\x80\x80\x80\x01"))

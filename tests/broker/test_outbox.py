"""What a client of the embedded broker is sent goes to its transport a TLS record at a time."""

import asyncio

from broker.outbox import RECORD, Bounds, Outbox


class Recorder(asyncio.Transport):
    """A transport that keeps each write, and closes after `until` of them."""

    def __init__(self, until: int | None = None) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self._until = until

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing()
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return len(self.written) == self._until

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


def outbox(transport: Recorder) -> Outbox:
    return Outbox(transport, Bounds(1 << 20, 100, None), cut=lambda reason: None)


async def test_a_large_message_goes_out_a_record_at_a_time() -> None:
    """Written whole, 256 KiB would stay in OpenSSL's buffer for as long as the client does; small packets still share a record."""
    transport = Recorder()
    packets = [b"a" * 10, b"b" * 256 * 1024, b"c" * 10]
    box = outbox(transport)
    for packet in packets:
        box.write(packet)
    await asyncio.sleep(0)
    assert b"".join(transport.written) == b"".join(packets)
    assert {len(piece) for piece in transport.written[:-1]} == {RECORD} and len(transport.written[-1]) == 20


async def test_nothing_more_goes_to_a_transport_that_closes_meanwhile() -> None:
    """A write may find that the other side is gone."""
    transport = Recorder(until=2)
    box = outbox(transport)
    box.write(b"a" * RECORD * 5)
    await asyncio.sleep(0)
    assert len(transport.written) == 2

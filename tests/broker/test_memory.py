"""What an ended connection leaves behind in the embedded broker."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

from broker.embedded import EmbeddedBroker
from broker.topics import Topics
from tests.broker.wire import Wire, until

T = Topics()


async def test_the_memory_of_an_ended_connection_comes_back_without_a_collection(broker: EmbeddedBroker, wire: Callable[..., Wire]) -> None:
    """Cut or left, its TLS and buffers are gone at once, though amqtt's session is a knot that only the collector undoes."""
    gc.collect()
    gc.disable()
    try:
        tls: list[weakref.ref[Any]] = []
        for end in ("abort", "leave"):
            made = wire("host-a")
            await made.connect("host-a")
            await made.subscribe(T.downlinks("host-a"))
            transport: Any = broker.guard._clients["host-a"]._transport
            tls.append(weakref.ref(transport._ssl_protocol))
            del transport
            await getattr(made, end)()
            await until(lambda: "host-a" not in broker.guard._clients)
        await until(lambda: all(each() is None for each in tls))
    finally:
        gc.enable()

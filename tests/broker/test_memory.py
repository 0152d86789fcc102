"""What an ended connection leaves behind in the embedded broker."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

from broker.embedded import EmbeddedBroker
from broker.topics import Topics
from tests.broker.wire import Wire, until

T = Topics()


async def test_an_ended_connection_leaves_nothing_to_collect(broker: EmbeddedBroker, wire: Callable[..., Wire]) -> None:
    """Cut or left, its socket, its TLS, its session and our own connection are gone at once, though amqtt ties them into a knot."""
    gc.collect()
    gc.disable()
    try:
        left: list[weakref.ref[Any]] = []
        for end in ("abort", "leave"):
            made = wire("host-a")
            await made.connect("host-a")
            await made.subscribe(T.downlinks("host-a"))
            connection: Any = broker.guard._clients["host-a"]
            link: Any = broker._broker._links["host-a"]
            tls = connection._transport._ssl_protocol
            tied = (connection, tls, tls._transport, link.session, link.session.transitions, link.handler)
            left += [weakref.ref(each) for each in tied]
            del connection, tls, link, tied
            await getattr(made, end)()
            await until(lambda: "host-a" not in broker.guard._clients)
        await until(lambda: not [each() for each in left if each() is not None])
    finally:
        gc.enable()

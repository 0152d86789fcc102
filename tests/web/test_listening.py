"""The socket that the web process listens on."""

import socket

from web.serving import Address, listen


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """What it accepts sends at once: an answer's body does not wait 40 ms for the acknowledgement of its headers."""
    with listen(Address("127.0.0.1", 0)) as bound:
        bound.setblocking(True)
        with socket.create_connection(bound.getsockname()):
            accepted, _ = bound.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

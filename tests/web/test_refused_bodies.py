"""A request that is refused before its body has arrived: the answer comes whole, and the connection is left usable or closed openly."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.web.site_under_test import Site
from web import bodies


@contextmanager
def connected(site: Site) -> Iterator[socket.socket]:
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as found:
        yield found


def head(length: int, token: str = "nobody") -> bytes:
    return (
        f"POST /api/v1/regions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def answer(connection: socket.socket) -> bytes:
    """The head of the next response; its body is taken too."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        piece = connection.recv(65536)
        assert piece, "closed without an answer"
        seen += piece
    first, _, rest = seen.partition(b"\r\n\r\n")
    [length] = [int(line.split(b":")[1]) for line in first.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while len(rest) < length:
        rest += connection.recv(65536)
    return first


def test_the_connection_goes_on_after_a_refusal_whose_body_came_late(site: Site) -> None:
    """Two requests without a known token, their bodies a moment behind their heads, on one connection: two answers."""
    with connected(site) as connection:
        for _ in range(2):
            connection.sendall(head(13))
            time.sleep(0.05)
            connection.sendall(b'{"name": "a"}')
            assert answer(connection).startswith(b"HTTP/1.1 401")


def test_a_body_that_never_comes_ends_the_connection_openly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is sent all the same, and says that the connection closes."""
    monkeypatch.setattr(bodies, "DRAIN_S", 0.2)
    with connected(site) as connection:
        connection.sendall(head(1000))
        first = answer(connection)
        assert first.startswith(b"HTTP/1.1 401")
        assert b"connection: close" in first.lower()
        assert connection.recv(1) == b""


@pytest.mark.parametrize("size", [2 << 20, 20 << 20])
def test_a_body_far_too_long_still_gets_its_answer(site: Site, size: int) -> None:
    """413 as a problem document, however much was being sent."""
    with site.client() as client:
        refused = client.post("/api/v1/regions", content=b"x" * size, headers={"Content-Type": "application/json"})
        assert refused.status_code == 413
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert client.get("/api/v1/regions").status_code == 200


def test_a_body_of_unknown_length_that_grows_too_long_gets_its_answer(site: Site) -> None:
    """Sent in chunks: 413 once it is too long."""
    with site.client() as client:
        pieces = (b" " * 65536 for _ in range(20))
        refused = client.post("/api/v1/regions", content=pieces, headers={"Content-Type": "application/json"})
        assert refused.status_code == 413

"""Hypercorn, run in this process: a listening socket of our own, a line when it accepts, and an end that nobody can hold up.

The socket is made here, so that port 0 tells its number and a reader that has stopped reading is dropped by the kernel
(`TCP_USER_TIMEOUT`); no timer of ours can do that while a write waits. At the end open streams are closed first, because Hypercorn
waits for requests to finish.

Called by `web/__main__.py` and by tests. Source: tcp(7), Hypercorn's documentation ("API usage").
"""

import asyncio
import asyncio.constants as constants
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Config, Sockets
from hypercorn.utils import wrap_app
from quart import Quart

from web.services import of

log = logging.getLogger(__name__)

GRACE_S: float = 2.0
"""Requests under way have so long to finish, in seconds, once the end is asked for."""
LONGEST_END_S: float = 4.0
"""After so long, in seconds, the process ends whatever still holds on (the supervisor kills at 5)."""
GOODBYE_S: float = 0.5
"""A peer has so long to answer the end of its TLS connection, in seconds. asyncio gives it 30, and Hypercorn no way to say less."""
FOLLOW_S: float = 2.0
"""How often it is looked for another certificate, in seconds."""
BACKLOG: int = 1024
"""Connections that wait to be accepted: a thousand browsers come back at once after a restart."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. port 0: one that is free. tls: certificate and key; None for plain HTTP.

    stall_s: a peer that takes nothing for so long, in seconds, is dropped.
    """

    host: str
    port: int
    tls: tuple[Path, Path] | None = None
    stall_s: float = 60.0


def listen(address: Address) -> socket.socket:
    """The listening socket. Raises OSError where the address is in use, or none of this machine's."""
    family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio turns Nagle's algorithm off only where a socket names its protocol; with it on, each answer on a kept connection waits
        # 40 ms for the client's delayed acknowledgement of its headers.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(address.stall_s * 1000))
        bound.setblocking(False)
        bound.bind(where)
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def url_of(address: Address, bound: socket.socket) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'https' if address.tls else 'http'}://{host}:{bound.getsockname()[1]}"


class _Config(Config):
    """Hypercorn's, whose TLS can take up another certificate while it serves."""

    context: ssl.SSLContext | None = None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        self.context = super().create_ssl_context()
        return self.context


def _config(address: Address) -> _Config:
    config = _Config()
    config.graceful_timeout = GRACE_S
    config.shutdown_timeout = GRACE_S
    config.keep_alive_timeout = 75
    config.backlog = BACKLOG
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    config.h11_max_incomplete_size = 64 * 1024
    if address.tls is not None:
        config.certfile, config.keyfile = map(str, address.tls)
        config.ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20"
        config.alpn_protocols = ["h2", "http/1.1"]
    return config


async def serve(app: Quart, address: Address, bound: socket.socket, stop: asyncio.Event, said: Callable[[str], None]) -> None:
    """Serve until `stop` is set. `said` gets the URL when requests are accepted."""
    config = _config(address)
    setattr(constants, "SSL_SHUTDOWN_TIMEOUT", GOODBYE_S)  # noqa: B010 - a constant to type checkers, read at each connection
    asyncio.get_running_loop().set_exception_handler(_unless_gone)
    sockets = Sockets([bound], [], []) if address.tls else Sockets([], [bound], [])

    async def ready() -> None:
        said(url_of(address, bound))

    async def trigger() -> None:
        await ready()
        await stop.wait()
        of(app).hub.close()

    serving = asyncio.create_task(
        worker_serve(wrap_app(app, config.wsgi_max_body_size, "asgi"), config, sockets=sockets, shutdown_trigger=trigger)
    )
    stopped = asyncio.create_task(stop.wait())
    following = asyncio.create_task(_follow(config, address.tls)) if address.tls is not None else None
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    for task in filter(None, (stopped, following)):
        task.cancel()
    _, late = await asyncio.wait({serving}, timeout=LONGEST_END_S)
    if late:
        log.warning("requests were still under way at the end")
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)  # Hypercorn's tidying, cut short, may fail; nobody needs it any more
        return
    await serving


async def _follow(config: _Config, files: tuple[Path, Path]) -> None:
    """Show the certificate that is in the files, from the next connection on."""
    seen = _changed_at(files)
    while True:
        await asyncio.sleep(FOLLOW_S)
        now = _changed_at(files)
        if now == seen or config.context is None:
            continue
        try:
            check_tls(*files)
            config.context.load_cert_chain(*files)
        except OSError as error:
            log.warning("the certificate can't be read", extra={"error": str(error)})
        else:
            seen = now
            log.info("certificate read again")


def _changed_at(files: tuple[Path, Path]) -> tuple[int, ...]:
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


def _unless_gone(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A peer that says no goodbye is no failure of ours; Hypercorn lets that one pass, and asyncio would log it with a traceback."""
    if isinstance(context.get("exception"), TimeoutError) and context.get("transport") is not None:
        log.debug("a peer did not answer the end of its connection")
        return
    loop.default_exception_handler(context)


def check_tls(certificate: Path, key: Path) -> None:
    """Raises OSError (ssl.SSLError is one) where the files are absent or do not belong together."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)

"""The front door of the embedded broker: who may connect.

The guard does TLS with client certificates on sockets that `broker.lobby` has accepted, waits for the CONNECT (not long), decides by
`admit`, ends the connection that an admitted one takes over, and only then lets the broker behind it know. Identity is what this
connection's certificate says, never what an earlier one said. What a client may do afterwards is `broker.connection`'s; `broker.embedded`
puts guard and amqtt together.

Source: MQTT 3.1.1 section 3.1.4; contract.md section 3.
"""

import asyncio
import errno
import logging
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from broker.acl import Acl, Class, Grants, Identity
from broker.backlog import Backlog
from broker.connection import Admitted, Behind, Connection
from broker.limits import Counters, Limits
from broker.lobby import Lobby, Place
from broker.packets import Connect, Malformed, Refusal
from broker.refusals import Refusals
from broker.revocations import plain_serial
from broker.stamps import stamps
from broker.topics import TopicError

log = logging.getLogger(__name__)

_TAKEOVER_S = 5.0
"""How long the connection that is taken over may take to end; its Will is sent within that."""

_LOOK_S = 1.0
"""How often the files of TLS are looked at, in seconds, beside each new connection."""

REVOKED = "its certificate is revoked"
_DROPPED = "a CA is trusted no more"


@dataclass(frozen=True, slots=True)
class Refused:
    """CONNACK gets `code`; `reason` is for the log."""

    code: Refusal
    reason: str


Granting = Callable[[Identity], Grants]
"""What an identity may do: `Acl.grants`."""


def admit(connect: Connect, identity: Identity | None, granting: Granting, limits: Limits) -> Admitted | Refused:
    """Decide about a CONNECT. Client ids are unique within an identity, so that none can take over another's connection."""
    if connect.level != 4:
        return Refused(Refusal.VERSION, f"protocol level {connect.level}; 4 (MQTT 3.1.1) is spoken")
    if identity is None:
        return Refused(Refusal.NOT_AUTHORIZED, "the certificate names no device, service or integration")
    if not connect.clean:
        return Refused(Refusal.IDENTIFIER, "a persistent session; only clean ones are kept")
    if identity.kind is Class.DEVICE and connect.client_id != identity.name:
        return Refused(Refusal.IDENTIFIER, f"client id {connect.client_id!r} is not the certificate's name {identity.name!r}")
    try:
        grants = granting(identity)
    except TopicError as error:
        return Refused(Refusal.NOT_AUTHORIZED, str(error))
    if connect.will is not None and not grants.may_publish(connect.will.topic):
        return Refused(Refusal.NOT_AUTHORIZED, f"the Will's topic {connect.will.topic!r} is not the client's to publish to")
    if len(connect.client_id) > limits.client_id:
        return Refused(Refusal.IDENTIFIER, f"a client id of more than {limits.client_id} characters")
    client_id = identity.name
    if identity.kind is not Class.DEVICE:
        client_id = f"{identity.name}/{connect.client_id or secrets.token_hex(8)}"
    return Admitted(client_id, identity, grants, connect.keepalive_s, connect.will)


def identity_of(certificate: dict[str, object] | None) -> Identity | None:
    """Common name and OU of a certificate as `ssl.SSLSocket.getpeercert` gives it; None where it names no class of ours."""
    subject: dict[str, str] = {}
    for part in (certificate or {}).get("subject", ()):  # type: ignore[attr-defined]
        subject.update(part)
    name, unit = subject.get("commonName"), subject.get("organizationalUnitName")
    if not name or unit not in tuple(Class):
        return None
    return Identity(name, Class(unit))


def serial_of(certificate: dict[str, object] | None) -> str:
    """The serial number of a certificate as `ssl.SSLSocket.getpeercert` gives it, as lists of revoked ones have it; empty without one."""
    found = (certificate or {}).get("serialNumber")
    return plain_serial(found) if isinstance(found, str) else ""


class Tls:
    """The server's TLS, read again when its files change, so that a renewed certificate needs no restart."""

    def __init__(self, certificate: Path, key: Path, ca: Path) -> None:
        """Raises OSError or ssl.SSLError where the files can't be used."""
        self._files = (certificate, key, ca)
        self._read_at = stamps(self._files)
        self._context = self._load()
        self._trusted = frozenset(self._context.get_ca_certs(binary_form=True))

    def dropped(self) -> bool:
        """Whether, since this was asked last, a CA has gone that was trusted."""
        before, self._trusted = self._trusted, frozenset(self.context().get_ca_certs(binary_form=True))
        return not before <= self._trusted

    def stands(self, context: ssl.SSLContext) -> bool:
        """Whether each CA that this one of ours trusts is trusted still."""
        now = self._context
        return context is now or frozenset(context.get_ca_certs(binary_form=True)) <= frozenset(now.get_ca_certs(binary_form=True))

    def context(self) -> ssl.SSLContext:
        """For the next connection. Files that can't be used (written to just now) leave the one before."""
        try:
            changed_at = stamps(self._files)
            if changed_at != self._read_at:
                self._context, self._read_at = self._load(), changed_at
                log.info("certificates read again")
        except (OSError, ssl.SSLError) as error:
            log.warning("certificates can't be read", extra={"reason": str(error)})
        return self._context

    def _load(self) -> ssl.SSLContext:
        certificate, key, ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
        # No resumption: each connection shows its certificate.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        return context


class Sessions(Behind, Protocol):
    """The broker behind the guard, as the guard sees it."""

    async def serve(self, connection: Connection) -> None:
        """Run an admitted client's session. Returns when nothing of it is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How clients are told apart and what they may do."""

    granting: Granting
    identify: Callable[[Connection], Identity | None]
    tls: Tls | None
    """None: plain TCP, which only tests use."""

    @classmethod
    def by_certificate(cls, acl: Acl, tls: Tls) -> "Rules":
        return cls(granting=acl.grants, identify=lambda connection: identity_of(connection.certificate), tls=tls)


class Guard:
    """Listens, admits, and hands over to `sessions`."""

    def __init__(self, rules: Rules, sessions: Sessions, limits: Limits) -> None:
        self.counters = Counters()
        self._rules = rules
        self._sessions = sessions
        self._limits = limits
        self._lobby = Lobby(limits, lambda place: self._spawn(self._attend(place)), self._refuse)
        self._refusals = Refusals()
        self._backlog = Backlog()
        self._clients: dict[str, Connection] = {}
        self._revoked: frozenset[str] = frozenset()
        self._connections: Counter[str] = Counter()
        """By identity: with their successors, while they are taken over."""
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, host: str, port: int) -> int:
        """Begin to accept; returns the port, chosen by the system where 0 was asked for. Raises OSError where it is taken.

        `::` takes IPv4 along. Of a name's addresses one is enough: `localhost` names ::1 also where there is no IPv6.
        """
        listening = False
        for family, address in _addresses(host, port):
            try:
                listener = socket.create_server((address, port), family=family, backlog=4096, dualstack_ipv6=address == "::")
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                log.debug("can't listen on one of the addresses", extra={"address": address, "reason": str(error)})
                continue
            port = listener.getsockname()[1]
            self._lobby.open(listener)
            listening = True
        if not listening:
            raise OSError(errno.EADDRNOTAVAIL, f"{host} is no address of this machine")
        if self._rules.tls is not None:
            self._spawn(self._drop(self._rules.tls))
        return port

    async def _drop(self, tls: Tls) -> None:
        """Whoever has come in by a CA that is trusted no more has to show another certificate: everybody connects anew."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if tls.dropped():
                log.warning("a CA is trusted no more; all connections end")
                for connection in list(self._clients.values()):
                    connection.cut(_DROPPED)

    def revoke(self, serials: frozenset[str]) -> None:
        """Refuse the certificates of these serial numbers, and no others, from now on; connections that have shown one end at once."""
        self._revoked = serials
        for connection in list(self._clients.values()):
            if self._is_revoked(connection):
                connection.cut(REVOKED)

    def _is_revoked(self, connection: Connection) -> bool:
        return serial_of(connection.certificate) in self._revoked

    async def close(self, within_s: float) -> None:
        """Accept no more, and end every connection."""
        self._lobby.close()
        self._refusals.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait([*self._tasks, asyncio.create_task(asyncio.sleep(0))], timeout=within_s)

    async def _attend(self, place: Place) -> None:
        """One client, from its first byte to its end. Gives its place back when it is authenticated, or refused."""
        connection = Connection(self._limits, self.counters, self._sessions, self._backlog)
        try:
            try:
                admission = await self._first(connection, place)
            finally:
                self._lobby.leave(place)
            match admission:
                case Refused(code, reason):
                    self._refuse(place.peer, reason)
                    connection.refuse(code)
                case Admitted():
                    connection.admit(admission)
                    await self._serve(connection)
        except (Malformed, OSError, TimeoutError) as error:
            self._refuse(place.peer, str(error) or type(error).__name__)
            connection.cut("not a client")
        finally:
            connection.close()

    async def _first(self, connection: Connection, place: Place) -> Admitted | Refused:
        """TLS and CONNECT, in time. Raises TimeoutError, Malformed or OSError (ssl.SSLError is one)."""
        _prepare(place.sock)
        context = self._rules.tls.context() if self._rules.tls is not None else None
        try:
            async with asyncio.timeout(place.allowed_s) as place.limit:
                await _begin(connection, place.sock, context)
                connect = await connection.first
        except TimeoutError:
            raise TimeoutError("no CONNECT in time") from None
        if connection.closed.is_set():
            raise ConnectionError("closed before its CONNECT was answered")
        if self._rules.tls is not None and context is not None and not self._rules.tls.stands(context):
            raise ConnectionError(_DROPPED)  # `_drop` has cut everybody who was in by then
        if self._is_revoked(connection):
            return Refused(Refusal.NOT_AUTHORIZED, REVOKED)
        return self._bounded(admit(connect, self._rules.identify(connection), self._rules.granting, self._limits))

    def _bounded(self, admission: Admitted | Refused) -> Admitted | Refused:
        """No integration fills the broker with connections of different client ids."""
        match admission:
            case Admitted(client_id, Identity(name, Class.INTEGRATION | Class.INTEGRATION_SCOPED)) if client_id not in self._clients:
                if self._connections[name] >= self._limits.connections:
                    return Refused(Refusal.UNAVAILABLE, f"{name} has {self._limits.connections} connections, as many as it may")
        return admission

    async def _serve(self, connection: Connection) -> None:
        client_id, name = connection.admitted.client_id, connection.admitted.identity.name
        before = self._clients.get(client_id)
        self._clients[client_id] = connection
        self._connections[name] += 1
        try:
            if before is not None:
                await self._take_over(before)
            if self._clients.get(client_id) is connection and not connection.closed.is_set():
                self.counters.connected += 1
                try:
                    await self._sessions.serve(connection)
                finally:
                    self.counters.connected -= 1
        finally:
            connection.finished.set()
            self._connections[name] -= 1
            if not self._connections[name]:
                del self._connections[name]
            if self._clients.get(client_id) is connection:
                del self._clients[client_id]

    async def _take_over(self, before: Connection) -> None:
        """End the earlier connection of a client id (section 3.1.4-2), its Will included, before the new one begins."""
        before.cut("taken over by a new connection")
        try:
            async with asyncio.timeout(_TAKEOVER_S):
                await before.finished.wait()
        except TimeoutError:
            log.error("a connection that was taken over does not end", extra={"client": before.name})

    def _refuse(self, peer: str, reason: str) -> None:
        self.counters.refused += 1
        self._refusals.note(peer, reason)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a client's task failed", exc_info=error)


def _addresses(host: str, port: int) -> Iterable[tuple[socket.AddressFamily, str]]:
    """Raises OSError (socket.gaierror) where the host is unknown."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)


async def _begin(connection: Connection, sock: socket.socket, context: ssl.SSLContext | None) -> None:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    if context is None:
        await loop.connect_accepted_socket(lambda: connection, sock)
    else:
        await loop.connect_accepted_socket(lambda: connection, sock, ssl=context, ssl_shutdown_timeout=1.0)


def _prepare(sock: socket.socket) -> None:
    """Answers go out at once: asyncio asks for that only where a socket's protocol number is set, which an accepted one's is not. And dead
    peers are noticed, for clients with keepalive 0: by the kernel, within two minutes."""
    with suppress(OSError):  # gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)

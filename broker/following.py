"""Has a Mosquitto follow the list of revoked certificates: their connections end, and they can't come back.

Three steps, in this order (measured on Mosquitto 2.0): the CRL is written, Mosquitto reads it (SIGHUP), and then each owner's client is
disabled in the dynamic-security plugin, which cuts its connection. The CRL alone leaves the live connection; the plugin alone lets the
device come back within a second, because Mosquitto asks it nothing where the certificate gives the name. So nothing is left in the plugin:
the client is taken out of it again at once, and the CRL alone says who may connect.

Mosquitto forgets a SIGHUP that comes while it still reads for the one before (`mosquitto_main_loop` takes its mark down when it has read).
So it is told by `read_again` alone, once at a time, which returns when it has read.

A handshake that the old CRL has let pass may end after the cut. So a second later the CRL is had read, and the owners are cut, once more;
that holds against somebody else's SIGHUP, too, which may have swallowed ours. Whoever has another, good certificate under the same name is
back a moment later. Who is still to be cut stands in a file until that has been done: a Mosquitto of somebody's own goes on with its
connections where we end meanwhile, and the list alone would be no news to the next of us.

It connects as `svc-broker` and asks for the list at each connection, as Inventory may have told it to nobody. `broker.mosquitto` runs it,
and `broker.beside` for a Mosquitto of somebody's own.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

from broker.acl import CONTROL
from broker.client import NotConnected, Session, SessionDown, SessionUp, Settings
from broker.messages import now_text
from broker.mosquitto_files import Files, write
from broker.revocations import Follower, RevocationList
from broker.topics import BrokerTopic, Topics

log = logging.getLogger(__name__)

AGAIN_S = 1.0
"""After which owners are cut once more, in seconds: longer than a handshake that was under way."""
NAMES_A_MESSAGE = 100
_UNSEEN_S = 1.0
"""For Mosquitto to read its files, in seconds, where no connection shows when it has."""
_NOTHING = json.dumps({"commands": []}).encode()
"""For the dynamic-security plugin: it is acknowledged like anything else."""


class Following:
    """`reload` has Mosquitto read its files, as by SIGHUP."""

    def __init__(self, settings: Settings, topics: Topics, files: Files, reload: Callable[[], Awaitable[None]]) -> None:
        self._me = settings.name
        self._session = Session(settings, self._session_changed)
        self._topics, self._files, self._reload = topics, files, reload
        self._follower = Follower(files.revoked, self._act)
        self._asks = asyncio.Event()
        self._uncut: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.reading = asyncio.Lock()
        """Held while Mosquitto reads its files, or begins to run: by one at a time."""

    @property
    def revoked(self) -> RevocationList:
        """What it has been told is."""
        return self._follower.known

    def restore(self) -> RevocationList:
        """What was known before; and who was still to be cut, which `run` does."""
        try:
            self._uncut = Counter(str(name) for name in json.loads(self._files.uncut.read_text()))
        except FileNotFoundError:
            log.debug("nobody was still to be cut", extra={"path": str(self._files.uncut)})
        except (OSError, ValueError, TypeError) as error:
            log.error("who was still to be cut can't be read", extra={"path": str(self._files.uncut), "error": str(error)})
        return self._follower.restore()

    async def read_again(self, write: Callable[[], None]) -> None:
        """`write` files of Mosquitto's, and return when it has read them. Raises what `write` does."""
        async with self.reading:
            write()
            await self._reload()
            await self._has_read()

    async def _has_read(self) -> None:
        """Mosquitto reads between two rounds of messages: at the latest after the one in which it acknowledges the first of these, and the
        second comes in a later one."""
        try:
            for _ in range(2):
                await self._session.publish(CONTROL, _NOTHING)
        except NotConnected:
            await asyncio.sleep(_UNSEEN_S)

    async def run(self) -> None:
        """Until cancelled."""
        async with self._session, asyncio.TaskGroup() as group:
            await self._session.subscribe(self._topics.broker("revoked"))
            if self._uncut:
                self._begin(sorted(self._uncut))
            group.create_task(self._ask())
            async for received in self._session:
                if received.topic == BrokerTopic("revoked"):
                    self._follower.take(received.payload)

    def _session_changed(self, event: SessionUp | SessionDown) -> None:
        if isinstance(event, SessionUp):
            self._asks.set()

    async def _ask(self) -> None:
        while True:
            await self._asks.wait()
            self._asks.clear()
            body = {"v": 1, "sent_at": now_text(), "number": self._follower.known.number}
            try:
                await self._session.publish(self._topics.broker("ask"), json.dumps(body).encode())
            except NotConnected:
                pass  # the next connection asks again

    def _act(self, now: RevocationList, before: RevocationList) -> None:
        names = now.names_since(before)
        if names:
            self._uncut.update(names)
            self._keep_uncut()
        self._begin(names)

    def _begin(self, names: Sequence[str]) -> None:
        task = asyncio.create_task(self._take_back(names))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _keep_uncut(self) -> None:
        try:
            write(self._files.uncut, json.dumps(sorted(self._uncut)))
        except OSError as error:
            log.error("who is to be cut can't be kept", extra={"path": str(self._files.uncut), "error": str(error)})

    async def _take_back(self, names: Sequence[str]) -> None:
        await self._keep_out()
        if names:
            await self._end_connections(names)
            self._uncut -= Counter(names)
            self._keep_uncut()

    async def _end_connections(self, names: Sequence[str]) -> None:
        others = [name for name in names if name != self._me]
        await self._cut(others)
        await asyncio.sleep(AGAIN_S)
        await self._keep_out()
        await self._cut(others)
        log.info("connections of revoked certificates are cut", extra={"clients": len(names)})
        if self._me in names:
            await self._cut_ourselves()

    async def _keep_out(self) -> None:
        if not self.revoked.crl:
            log.error("Inventory signs no CRL, so revoked certificates come back: give it ca.key (fleetward certificate create)")
            return
        try:
            await self.read_again(lambda: self._files.write_crl(self.revoked.crl))
        except OSError as error:
            log.error("the CRL can't be written, so revoked certificates come back", extra={"error": str(error)})

    async def _cut(self, names: Sequence[str]) -> None:
        for payload in cutting(names):
            await self._insist(payload)

    async def _insist(self, payload: bytes) -> None:
        """However often the connection ends meanwhile."""
        while True:
            await self._session.connected()
            try:
                await self._session.publish(CONTROL, payload)
                return
            except NotConnected as error:
                log.warning("a cut waits for the broker", extra={"error": str(error)})

    async def _cut_ourselves(self) -> None:
        """Last, and once: the plugin ends the connection before it acknowledges. With another certificate in its place we are back."""
        await self._session.connected()
        for payload in cutting([self._me]):
            try:
                await self._session.publish(CONTROL, payload)
            except NotConnected:
                pass  # that is the cut


def cutting(names: Sequence[str]) -> Iterator[bytes]:
    """Messages to the dynamic-security plugin that end the connections of these names and leave nothing behind. One of a name that the
    plugin knows already, or not any more, gets an error there, which changes nothing."""
    for start in range(0, len(names), NAMES_A_MESSAGE):
        steps = ("createClient", "disableClient", "deleteClient")
        commands = [{"command": step, "username": name} for name in names[start : start + NAMES_A_MESSAGE] for step in steps]
        yield json.dumps({"commands": commands}).encode()

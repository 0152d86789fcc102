"""Another CA under a running broker: it is trusted once it stands beside the old one, and who came in by a CA that is gone has to leave."""

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.acl import Acl, Class
from broker.embedded import EmbeddedBroker
from broker.guard import Rules, Tls
from broker.mosquitto import Mosquitto
from broker.packets import data, packet
from broker.topics import Topics
from tests.broker.certificates import CertFactory
from tests.broker.wire import CONNACK, Wire
from tests.waiting import Deadline

FOLLOWS_S = 5.0


class Changing:
    """A broker and the two CAs that its clients' certificates may be by."""

    def __init__(self, secrets: Path, old: CertFactory, new: CertFactory, port: int) -> None:
        self.secrets, self.old, self.new, self.port = secrets, old, new, port
        self.made: list[Wire] = []

    def trust(self, *authorities: CertFactory) -> None:
        for name in ("ca.crl", "ca.crt"):
            fresh = self.secrets / "ca.new"
            fresh.write_text("".join((each.directory / name).read_text() for each in authorities))
            fresh.replace(self.secrets / name)

    def client(self, by: CertFactory, name: str) -> Wire:
        """With a certificate by this CA, not connected yet. By whom the broker's own is does not matter here."""
        context = by.client_context(name, Class.DEVICE)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.made.append(Wire("127.0.0.1", self.port, context))
        return self.made[-1]

    async def admitted(self, by: CertFactory, name: str) -> Wire | None:
        """A client that is let in; None where it is not."""
        wire = self.client(by, name)
        try:
            return wire if await wire.connect(name) == 0 else None
        except (OSError, EOFError, TimeoutError):
            return None

    async def follows(self, by: CertFactory, name: str, wanted: bool) -> Wire | None:
        deadline = Deadline(FOLLOWS_S)
        while True:
            wire = await self.admitted(by, name)
            if (wire is not None) == wanted:
                return wire
            assert not deadline.over(), f"after {FOLLOWS_S} s it is still the other way round"
            await asyncio.sleep(0.1)


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def changing(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Changing]:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = CertFactory(tmp_path / "old"), CertFactory(tmp_path / "new", "New CA")
    secrets = Path(shutil.copytree(old.directory, tmp_path / "secrets"))
    broker: EmbeddedBroker | Mosquitto
    if request.param == "embedded":
        tls = Tls(secrets / "broker.crt", secrets / "broker.key", secrets / "ca.crt")
        broker = EmbeddedBroker(Rules.by_certificate(Acl(Topics()), tls))
    else:
        broker = Mosquitto(Acl(Topics()), secrets=secrets, data=tmp_path / "broker")
    found = Changing(secrets, old, new, await broker.start("127.0.0.1", 0))
    yield found
    for wire in found.made:
        await wire.abort()
    await broker.stop()


def test_another_certificate_is_read_within_a_tick(tmp_path: Path) -> None:
    """The kernel counts a file's time in steps of milliseconds, so one that takes another's place may have the same."""
    certs = CertFactory(tmp_path)
    tls = Tls(tmp_path / "broker.crt", tmp_path / "broker.key", tmp_path / "ca.crt")
    before, found = tls.context(), (tmp_path / "ca.crt").stat()
    assert tls.context() is before
    shutil.copyfile(tmp_path / "ca.crt", tmp_path / "ca.new")
    os.utime(tmp_path / "ca.new", ns=(found.st_atime_ns, found.st_mtime_ns))
    (tmp_path / "ca.new").replace(certs.directory / "ca.crt")
    assert tls.context() is not before


async def test_a_rotation_of_the_ca(changing: Changing) -> None:
    """One after the other: only the old one's clients, both's, only the new one's; and those of the old one that are there are cut."""
    old, new = changing.old, changing.new
    assert await changing.admitted(new, "host-new") is None
    first = await changing.admitted(old, "host-old")
    assert first is not None
    changing.trust(old, new)
    await changing.follows(new, "host-new", wanted=True)
    there = await changing.follows(old, "host-old", wanted=True)
    assert there is not None
    changing.trust(new)
    assert await there.closed(FOLLOWS_S)
    await changing.follows(old, "host-old", wanted=False)
    await changing.follows(new, "host-new", wanted=True)


async def test_a_ca_that_goes_during_a_handshake(changing: Changing) -> None:
    """Who has shown a certificate of it by then, and says CONNECT afterwards, is not let in either."""
    there = await changing.admitted(changing.old, "host-old")
    assert there is not None
    late = await changing.client(changing.old, "host-late").open()
    changing.trust(changing.new)
    assert await there.closed(FOLLOWS_S)
    late.send(packet(1, 0, data(b"MQTT") + b"\x04\x02\x00\x00" + data(b"host-late")))
    with pytest.raises(EOFError):
        await late.expect(CONNACK)

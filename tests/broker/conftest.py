"""Brokers, certificates and clients for the tests of `broker`."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.acl import Acl, Class
from broker.embedded import EmbeddedBroker
from broker.guard import Rules, Tls
from broker.limits import Limits
from broker.mosquitto import Mosquitto, find_mosquitto
from broker.topics import Topics
from tests.broker.certificates import CertFactory
from tests.broker.wire import Wire

TOPICS = Topics()

MISSING = "there is no mosquitto on PATH: the tests against it are left out"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A fresh machine has no Mosquitto, nor does the product need one; the tests against it are then deselected, and that is said."""
    if find_mosquitto() is not None:
        return
    left_out = [item for item in items if item.get_closest_marker("mosquitto")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    if left_out:
        config.issue_config_time_warning(pytest.PytestWarning(MISSING), stacklevel=2)


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> CertFactory:
    """A CA with a broker's certificate; clients' certificates on demand."""
    return CertFactory(tmp_path_factory.mktemp("secrets"))


@pytest.fixture
def limits() -> Limits:
    """What a test file overrides."""
    return Limits()


@pytest.fixture
async def broker(certs: CertFactory, limits: Limits) -> AsyncIterator[EmbeddedBroker]:
    """The embedded broker as `python -m broker` builds it."""
    tls = Tls(certs.directory / "broker.crt", certs.directory / "broker.key", certs.directory / "ca.crt")
    broker = EmbeddedBroker(Rules.by_certificate(Acl(TOPICS), tls), limits)
    await broker.start("127.0.0.1", 0)
    yield broker
    await broker.stop()


@pytest.fixture
async def wire(certs: CertFactory, broker: EmbeddedBroker) -> AsyncIterator[Callable[..., Wire]]:
    """Makes raw MQTT clients of the embedded broker: `wire("host-a", Class.DEVICE)`; they are closed at the end."""
    made: list[Wire] = []

    def make(name: str, kind: Class = Class.DEVICE) -> Wire:
        made.append(Wire("127.0.0.1", broker.port, certs.client_context(name, kind)))
        return made[-1]

    yield make
    for each in made:
        await each.abort()


@dataclass
class Place:
    """A broker of either kind that runs, and clients of it."""

    kind: str
    port: int
    broker: EmbeddedBroker | Mosquitto
    certs: CertFactory
    made: list[Wire] = field(default_factory=list)

    def client(self, name: str, kind: Class | str = Class.DEVICE) -> Wire:
        """With that name's certificate, not connected yet."""
        self.made.append(Wire("127.0.0.1", self.port, self.certs.client_context(name, kind)))
        return self.made[-1]

    async def connected(self, name: str, kind: Class | str = Class.DEVICE) -> Wire:
        wire = self.client(name, kind)
        assert await wire.let_in(name) == 0
        return wire


INTEGRATIONS = [{"name": "erp", "scoped": False}, {"name": "mes", "scoped": False}, {"name": "line4", "scoped": True}]


def made_broker(kind: str, certs: CertFactory, data: Path) -> EmbeddedBroker | Mosquitto:
    """As `python -m broker` makes it."""
    acl, secrets = Acl(TOPICS), certs.directory
    if kind == "mosquitto":
        return Mosquitto(acl, secrets=secrets, data=data)
    tls = Tls(secrets / "broker.crt", secrets / "broker.key", secrets / "ca.crt")
    return EmbeddedBroker(Rules.by_certificate(acl, tls), topics=TOPICS, kept=data / "revoked.json")


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def place(request: pytest.FixtureRequest, certs: CertFactory, tmp_path: Path) -> AsyncIterator[Place]:
    """Both brokers, one after the other, with a few integrations that they know."""
    listed = certs.directory.parent / "broker" / "integrations.json"
    listed.parent.mkdir(exist_ok=True)
    listed.write_text(json.dumps(INTEGRATIONS))
    broker = made_broker(request.param, certs, tmp_path)
    found = Place(request.param, await broker.start("127.0.0.1", 0), broker, certs)
    yield found
    for each in found.made:
        await each.abort()
    await found.broker.stop()


@pytest.fixture(scope="session")
def secrets_dir(certs: CertFactory) -> Path:
    return certs.directory

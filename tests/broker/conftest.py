"""Brokers, certificates and clients for the tests of `broker`."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from broker.acl import Acl, Class
from broker.embedded import EmbeddedBroker
from broker.guard import Rules, Tls
from broker.limits import Limits
from broker.mosquitto import find_mosquitto
from broker.topics import Topics
from tests.broker.certificates import CertFactory
from tests.broker.wire import Wire

TOPICS = Topics()

MISSING = "there is no mosquitto on PATH: the tests against it are left out"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mosquitto: needs the mosquitto binary")


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


@pytest.fixture(scope="session")
def secrets_dir(certs: CertFactory) -> Path:
    return certs.directory

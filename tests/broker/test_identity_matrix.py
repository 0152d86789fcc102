"""Who a connection is: certificate × client id × username, on the wire, on both brokers.

Whatever a client calls itself, it is its certificate: it may do what that may, and displaces nobody. What is let in at all is what the
contract says: a device under its own id alone (Mosquitto gives it that id), services and integrations under any.
"""

import itertools
import ssl
from collections import Counter
from pathlib import Path

import pytest

from broker.acl import Class
from broker.topics import DeviceTopic, IntentTopic, Topics
from tests.broker.certificates import CertFactory
from tests.broker.conftest import Place
from tests.broker.wire import Wire

T = Topics()
SHOWN = {
    "host-a": Class.DEVICE,
    "mes": Class.INTEGRATION,
    "line4": Class.INTEGRATION_SCOPED,
    "svc-web": Class.SERVICE,
    "svc-managers": Class.SERVICE,
}
CLIENT_IDS = ("host-a", "host-b", "", "svc-inventory", "mes", "svc-inventory.2/x")
USERNAMES = (None, "host-a", "host-b", "svc-inventory")

VICTIM = "host-b"
FOREIGN = T.build(DeviceTopic(VICTIM, "up/facts"))
OWN = {"host-a": T.build(DeviceTopic("host-a", "up/facts")), **{name: T.build(IntentTopic(name, "host", "x")) for name in ("mes", "line4")}}


def allowed(kind: str, name: str, client_id: str) -> int:
    """The return code of CONNACK, by the contract."""
    if kind == "embedded" and SHOWN[name] is Class.DEVICE and client_id != name:
        return 2
    return 0


async def test_a_connection_is_its_certificate(place: Place) -> None:
    """Each of 120 ways to call oneself: let in as the contract says, heard on its own topic only, and the victim stays connected."""
    inventory = await place.connected("svc-inventory.2", Class.SERVICE)
    victim = await place.connected(VICTIM)
    await inventory.subscribe(T.uplinks(), T.intents())
    await victim.subscribe(T.downlinks(VICTIM))
    expected: Counter[str] = Counter()
    for name, client_id, username in itertools.product(SHOWN, CLIENT_IDS, USERNAMES):
        wire = place.client(name, SHOWN[name])
        code = await wire.connect(client_id, username=username)
        assert code == allowed(place.kind, name, client_id), (name, client_id, username)
        if code == 0:
            await wire.publish(FOREIGN, b"forged")
            if name in OWN:
                await wire.publish(OWN[name], b"own")
                expected[OWN[name]] += 1
        await wire.abort()
    await victim.publish(FOREIGN, b"last")
    assert await heard_until_last(inventory) == expected
    await inventory.publish(T.build(DeviceTopic(VICTIM, "down/ack")), b"still there")
    assert (await victim.message()).payload == b"still there"


async def heard_until_last(wire: Wire) -> Counter[str]:
    found: Counter[str] = Counter()
    while (came := await wire.message()).payload != b"last":
        found[came.topic] += 1
    return found


@pytest.mark.parametrize("client_id", ["host-b", "svc-inventory", ""])
@pytest.mark.parametrize("username", [None, "host-b"])
async def test_what_is_no_good_certificate_gets_nowhere(place: Place, tmp_path: Path, client_id: str, username: str | None) -> None:
    """None at all, one of another CA, one that has ended: no CONNACK of 0, whatever it calls itself."""
    certs = place.certs
    certs.client("host-ended", Class.DEVICE, ends_h=-1)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    contexts = [without_certificate(certs), certs.client_context("host-ended", Class.DEVICE), of_another_ca(certs, CertFactory(foreign))]
    for context in contexts:
        wire = Wire("127.0.0.1", place.port, context)
        place.made.append(wire)
        with pytest.raises((EOFError, OSError)):
            await wire.connect(client_id, username=username)


async def test_a_certificate_of_no_class_gets_nowhere_on_the_embedded_broker(place: Place) -> None:
    """Such as a server's. Mosquitto sees the name alone, which gives it the topics of a device of that name, which there is none of."""
    wire = place.client("odd", "server")
    code = await wire.connect("odd")
    assert code == (5 if place.kind == "embedded" else 0)
    inventory = await place.connected("svc-inventory", Class.SERVICE)
    await inventory.subscribe(T.uplinks(), T.intents())
    if code == 0:
        await wire.publish(FOREIGN, b"forged")
    victim = await place.connected(VICTIM)
    await victim.publish(FOREIGN, b"last")
    assert await heard_until_last(inventory) == Counter()


def without_certificate(certs: CertFactory) -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(certs.directory / "ca.crt"))


def of_another_ca(certs: CertFactory, other: CertFactory) -> ssl.SSLContext:
    context = without_certificate(certs)
    context.load_cert_chain(*other.client(VICTIM, Class.DEVICE))
    return context

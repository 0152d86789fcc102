"""CONNECTs with the ids of those who are connected, with Wills on their topics, by who has no right to them.

Bounds: none gets a CONNACK 0, nothing that they say or leave behind as a Will reaches anybody, whose id it is stays connected, and no
session is left behind.
"""

import asyncio
import random
import ssl
from collections.abc import Callable

from broker.acl import Class
from broker.packets import Will, connect
from broker.topics import DeviceTopic
from tests.broker.attack.ground import Finding, Ground, T, watched
from tests.broker.certificates import CertFactory
from tests.broker.wire import CONNACK, Wire, publish

MEMORY_MIB = 20.0
VICTIM = "host-victim"
FORGED = b'{"online":false,"forged":true}'
_AT_ONCE = 20

Making = Callable[[], ssl.SSLContext | None]


def _forms(ground: Ground, foreign: CertFactory) -> dict[str, Making]:
    """How the stranger presents itself; None is without TLS."""
    ours, theirs = ground.certs, foreign

    def bare() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(ours.directory / "ca.crt"))

    def with_foreign(kind: Class, name: str) -> ssl.SSLContext:
        context = bare()
        context.load_cert_chain(*theirs.client(name, kind))
        return context

    return {
        "without TLS": lambda: None,
        "without a certificate": bare,
        "with a certificate of another CA": lambda: with_foreign(Class.DEVICE, VICTIM),
        "with a service's certificate of another CA": lambda: with_foreign(Class.SERVICE, "svc-inventory"),
        "with an expired certificate": lambda: _expired(ours, bare()),
        "with another device's certificate": lambda: ours.client_context("host-other", Class.DEVICE),
        "with a device's certificate named as a service": lambda: ours.client_context("svc-managers", Class.DEVICE),
        "with a certificate of no class": lambda: ours.client_context(f"{VICTIM}.", "visitor"),
    }


def _expired(certs: CertFactory, context: ssl.SSLContext) -> ssl.SSLContext:
    """With one that the victim had once; it gets another."""
    certificate, key = certs.client(VICTIM, Class.DEVICE, ends_h=-1)
    context.load_cert_chain(certificate, key)
    certificate.unlink()
    return context


async def attack(ground: Ground, count: int, chance: random.Random) -> list[Finding]:
    """`count` attempts, of every form by chance."""
    elsewhere = ground.certs.directory.parent / "elsewhere"
    elsewhere.mkdir()
    foreign = CertFactory(elsewhere)
    making = _forms(ground, foreign)
    contexts = {form: make() for form, make in making.items()}
    presence, down = (T.build(DeviceTopic(VICTIM, channel)) for channel in ("up/presence", "down/command"))
    victim, spy = ground.wire(VICTIM), ground.wire("svc-inventory", Class.SERVICE)
    assert await victim.let_in(VICTIM, Will(presence, b"the victim's own", 1, False)) == await spy.let_in("spy") == 0
    assert await spy.subscribe(T.uplinks_of(VICTIM)) == await victim.subscribe(T.downlinks(VICTIM)) == [1]

    async def attempts() -> list[Finding]:
        forms = chance.choices(list(contexts), k=count)
        admitted: list[str] = []
        for at in range(0, count, _AT_ONCE):
            said = await asyncio.gather(*(_attempt(ground, contexts[form], presence, down) for form in forms[at : at + _AT_ONCE]))
            admitted += [form for form, code in zip(forms[at : at + _AT_ONCE], said, strict=True) if code == 0]
        return [Finding(f"{count:,} CONNECTs with another's id and Will: refused", f"{len(admitted)} admitted", not admitted)]

    findings = await watched(ground, attempts, MEMORY_MIB)
    findings.append(await _unharmed(victim, spy, presence))
    for each in (victim, spy):
        await each.abort()
    return findings


async def _attempt(ground: Ground, context: ssl.SSLContext | None, presence: str, down: str) -> int | None:
    """CONNECT as the victim with a Will, and what one would say as the victim right behind it. Returns CONNACK's code, if there is one."""
    stranger = Wire("127.0.0.1", ground.port, context)
    try:
        await stranger.open()
        stranger.send(connect(VICTIM, Will(presence, FORGED, 1, True)) + publish(presence, FORGED) + publish(down, FORGED))
        return (await stranger.expect(CONNACK, 10)).body[1]
    except (EOFError, OSError):
        return None
    finally:
        await stranger.abort()


async def _unharmed(victim: Wire, spy: Wire, presence: str) -> Finding:
    """The victim's own connection of before goes on, and the first that is heard of it is what it says now."""
    try:
        await victim.ping()
        await victim.publish(presence, b"here")
        heard = (await spy.message()).payload
    except (EOFError, TimeoutError) as error:
        return Finding("the victim is still connected, and nothing forged was heard", f"{type(error).__name__}", False)
    return Finding("the victim is still connected, and nothing forged was heard", heard.decode(), heard == b"here")

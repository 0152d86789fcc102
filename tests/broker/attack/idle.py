"""Many connections that are held open and say nothing, or stop halfway: at each stage that there is before the broker knows who it is.

Bounds: each is ended within 5 s, the broker has at most 20 MiB more, and who connects meanwhile waits 1 s at most.
"""

import asyncio
import random
import ssl

from broker.acl import Class
from tests.broker.attack.ground import Finding, Ground, watched
from tests.waiting import Stopwatch

IDLE_S = 5.0
MEMORY_MIB = 20.0


async def attack(ground: Ground, count: int, chance: random.Random) -> list[Finding]:
    """`count` connections a stage, one stage after the other."""
    findings = []
    for stage in _stages():
        found = await _together(ground, [stage] * count, stage)
        findings += [Finding(f"{stage}: {each.what}", each.seen, each.held) for each in found]
    return findings


async def mixed(ground: Ground, count: int, chance: random.Random) -> list[Finding]:
    """`count` connections, each at a stage by chance, all at once."""
    return await _together(ground, chance.choices(list(_stages()), k=count), "at any stage")


async def _together(ground: Ground, stages: list[str], where: str) -> list[Finding]:
    said, thief = _stages(), ground.certs.client_context("thief", Class.DEVICE)

    async def idlers() -> list[Finding]:
        took = await asyncio.gather(*(_idle(ground, said[stage], thief if stage == "after TLS" else None) for stage in stages))
        slowest = max(took)
        return [Finding(f"{len(stages):,} idle {where}: each ended within 5 s", f"the last after {slowest:.1f} s", slowest <= IDLE_S)]

    return await watched(ground, idlers, MEMORY_MIB)


def _stages() -> dict[str, bytes]:
    """What is said before the silence."""
    hello = client_hello()
    return {"before TLS": b"", "with a byte": hello[:1], "within TLS": hello, "with half a record": hello[:200], "after TLS": b""}


def client_hello() -> bytes:
    """The first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        pass  # it waits for the server's answer, which is not to come
    return outgoing.read()


async def _idle(ground: Ground, said: bytes, context: ssl.SSLContext | None) -> float:
    """Seconds until the broker ends it."""
    watch = Stopwatch()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", ground.port, ssl=context)
        writer.write(said)
        while await reader.read(65536):
            pass
        writer.transport.abort()
    except OSError:
        pass  # an end as well: ssl.SSLError is one
    return ground.seconds(watch)

"""Mutated MQTT against the embedded broker: `python -m tests.broker.mutations [--seconds 60] [--seed N]`; the tests run it for two seconds.

An attacker says what a client says, with bytes flipped, inserted, taken out, cut off and doubled, connection after connection, while two
bystanders exchange messages. What must hold: no message between the bystanders is lost, none takes a second, no task of the broker fails,
and nothing of the attackers is left behind.
"""

import argparse
import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.embedded import EmbeddedBroker
from broker.packets import Will, connect, data, packet
from tests.broker.open_rules import open_rules
from tests.broker.wire import Wire, publish

CONVERSATION = (
    packet(8, 2, b"\x00\x01" + data(b"a/+") + b"\x01" + data(b"b/#") + b"\x02"),
    publish("a/b", b"x" * 20, 0),
    publish("a/b", b"x" * 200, 1, 2),
    publish("b/c", b"x" * 20, 2, 3),
    packet(6, 2, b"\x00\x03"),
    packet(4, 0, b"\x00\x01"),
    packet(5, 0, b"\x00\x01"),
    packet(7, 0, b"\x00\x01"),
    packet(10, 2, b"\x00\x04" + data(b"a/+")),
    b"\xc0\x00",
    b"\xe0\x00",
)
CONNECT = connect("attacker", Will("a/b", b"gone", 1, True))


@dataclass
class Outcome:
    """`failures`: errors that the broker logged. `slowest`: seconds of CPU that went into attackers while an exchange of the bystanders
    waited, at most; the clock on the wall would measure the machine's other work too."""

    attacks: int
    exchanges: int
    slowest: float
    failures: list[str]
    left: int


class _Failures(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.name}: {record.getMessage()} {record.exc_info}")


def mutate(chance: random.Random, raw: bytes) -> bytes:
    """One to four changes anywhere."""
    changed = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                changed[at:at] = chance.randbytes(chance.randint(1, 8))
            case 2:
                del changed[at : at + chance.randint(1, 8)]
            case 3:
                del changed[at:]
            case _:
                changed[at:at] = changed[: chance.randint(1, 40)]
    return bytes(changed)


async def attack(chance: random.Random, port: int) -> None:
    """A connection that begins well more often than not, so that what follows is looked at too."""
    wire = await Wire("127.0.0.1", port, None).open()
    said = list(chance.choices(CONVERSATION, k=chance.randint(1, 12)))
    said[chance.randrange(len(said))] = mutate(chance, chance.choice(said))
    begin = CONNECT if chance.random() < 0.8 else mutate(chance, CONNECT)
    wire.send(begin + b"".join(said))
    if chance.random() < 0.5:
        await wire.closed(0.02)
    await wire.abort()


async def run(seconds: float, seed: int) -> Outcome:
    """Attack for so many seconds of CPU: on a busy machine hardly anything happens in as many of the clock.

    Raises TimeoutError where a bystander gets no answer within 5 s."""
    failures = _Failures()
    logging.getLogger().addHandler(failures)
    broker = EmbeddedBroker(open_rules())
    port = await broker.start("127.0.0.1", 0)
    end = time.process_time() + seconds
    chance = random.Random(seed)
    attacks = 0

    async def attackers() -> None:
        nonlocal attacks
        while time.process_time() < end:
            await attack(chance, port)
            attacks += 1

    async def bystanders() -> tuple[int, float]:
        speaker, hearer = Wire("127.0.0.1", port, None), Wire("127.0.0.1", port, None)
        for name, each in (("speaker", speaker), ("hearer", hearer)):
            assert await each.connect(name) == 0
        await hearer.subscribe("bystanders/x")
        exchanges, slowest = 0, 0.0
        while time.process_time() < end:
            begun = time.process_time()
            await speaker.publish("bystanders/x", str(exchanges).encode())
            assert (await hearer.message()).payload == str(exchanges).encode()
            slowest = max(slowest, time.process_time() - begun)
            exchanges += 1
        await speaker.abort()
        await hearer.abort()
        return exchanges, slowest

    attacking = asyncio.gather(*(attackers() for _ in range(8)))
    exchanges, slowest = await bystanders()
    await attacking
    left = await _left_behind(lambda: len(broker._broker._links) + len(broker._broker.sessions) + len(broker._broker._index))
    await broker.stop()
    logging.getLogger().removeHandler(failures)
    return Outcome(attacks, exchanges, slowest, failures.seen, left)


async def _left_behind(count: Callable[[], int]) -> int:
    """Links, sessions and subscriptions, once everyone has gone; whatever has not gone within 5 s has not."""
    for _ in range(500):
        if not count():
            break
        await asyncio.sleep(0.01)
    return count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    logging.getLogger("broker").setLevel(logging.ERROR)
    print(f"seed {options.seed}: {asyncio.run(run(options.seconds, options.seed))}")


if __name__ == "__main__":
    main()

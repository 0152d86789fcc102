"""Mutated packets, two connections at a time, to the embedded broker and to Mosquitto: the same bytes, and what came of them compared.

Each session is a connection that says a CONNECT, a few valid packets, one mutated one among them (the CONNECT too), a last valid message
and a PINGREQ. Compared are what a subscriber of everything was sent, and whether each session got to its end. Where the two brokers
differ, the session is said again to both, alone, and has to be one of those in which they may (`may_differ`).
"""

import asyncio
import getpass
import random
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker.filters import MAX_LEVELS
from broker.limits import Limits
from broker.mosquitto import find_mosquitto
from broker.packets import Will, connect, data, packet
from tests.broker.attack.ground import Finding, Ground, watched
from tests.broker.mutations import mutate
from tests.broker.wire import Wire, publish
from tests.ports import free_port
from tests.waiting import patience

PINGREQ = b"\xc0\x00"
CONNACK, PINGRESP = b"\x20\x02", b"\xd0\x00"
MEMORY_MIB = 20.0
ANSWER_S = 10.0
"""Where a session that was understood gets neither PINGRESP nor the end: a hang."""

Delivery = tuple[str, bytes, int]
"""Topic, payload, QoS: as the subscriber of everything got it."""


@dataclass(frozen=True, slots=True)
class Session:
    """`packets` in their order, of which the one at `mutated` is not as a client would say it."""

    number: int
    packets: tuple[bytes, ...]
    mutated: int

    @property
    def raw(self) -> bytes:
        return b"".join(self.packets)


def session(chance: random.Random, number: int) -> Session:
    """Topics and payloads carry the number, so that what came of it is found again."""
    name = f"{number:06}"
    will = Will(f"w/{name}", f"will {name} {name}".encode(), chance.randrange(3), chance.random() < 0.2) if chance.random() < 0.5 else None
    said = [connect(f"attacker-{name}", will), *chance.choices(_conversation(name), k=chance.randint(1, 5))]
    at = 0 if chance.random() < 0.2 else chance.randrange(1, len(said))
    said[at] = mutate(chance, said[at])
    last = publish(f"end/{name}", f"end {name}".encode(), 1, 99)
    return Session(number, (*said, last, PINGREQ), at)


def _conversation(name: str) -> tuple[bytes, ...]:
    payload = f"{name} {name} {name} {name}".encode()
    return (
        publish(f"t/{name}", payload, 0),
        publish(f"t/{name}/long", payload * 20, 0, retain=True),
        publish(f"t/{name}", payload, 1, 2),
        publish(f"t/{name}/2", payload, 2, 3) + packet(6, 2, b"\x00\x03"),
        packet(8, 2, b"\x00\x01" + data(f"t/{name}/+".encode()) + b"\x01" + data(b"nothing/#") + b"\x00"),
        packet(10, 2, b"\x00\x04" + data(f"t/{name}/+".encode())),
        packet(4, 0, b"\x00\x01"),
        packet(6, 2, b"\x00\x07"),
        PINGREQ,
    )


@dataclass
class Outcome:
    """Of a run on one broker. `answers`: by session, CONNACK's code (-1: none) and whether it was alive at its end."""

    deliveries: Counter[Delivery] = field(default_factory=Counter)
    answers: dict[int, tuple[int, bool]] = field(default_factory=dict)
    hung: list[int] = field(default_factory=list)

    def by_session(self) -> dict[int, Counter[Delivery]]:
        """Deliveries by every number that is found in them; under -1 those in which there is none of a session."""
        found: dict[int, Counter[Delivery]] = defaultdict(Counter)
        for delivery, count in self.deliveries.items():
            text = f"{delivery[0]} {delivery[1].decode('latin-1')}"
            for number in {int(each) for each in re.findall(r"\d{6}", text)} & set(self.answers) or {-1}:
                found[number][delivery] = count
        return found


async def run(port: int, sessions: list[Session], at_once: int = 2) -> Outcome:
    """All sessions, so many at a time. What they cause has been delivered when it returns. Raises TimeoutError or EOFError where the
    subscriber of everything is harmed."""
    outcome = Outcome()
    hearer = Wire("127.0.0.1", port, None)
    assert await hearer.connect("hearer") == 0
    assert await hearer.subscribe("#") == [1]
    hearing = asyncio.create_task(_hear(hearer, outcome))
    shares = [sessions[n::at_once] for n in range(at_once)]
    async with asyncio.TaskGroup() as speaking:
        for share in shares:
            speaking.create_task(_speak(port, share, outcome))
    if hearing.done():
        hearing.result()
    await _last_word(port)
    async with patience(60):
        await hearing
    await hearer.leave()
    return outcome


async def _last_word(port: int) -> None:
    """Wills and messages of QoS 2 come a moment after their session's end."""
    await asyncio.sleep(0.2)  # no event tells when a session's Will has been sent
    speaker = Wire("127.0.0.1", port, None)
    await speaker.connect("last")
    for _ in range(50):
        await speaker.ping()  # on a busy machine the broker has hardly had a turn in that time; now it has had many
    await speaker.publish("last/word", b"")
    await speaker.leave()


async def _hear(hearer: Wire, outcome: Outcome) -> None:
    while True:
        try:
            came = await hearer.message(600)
        except UnicodeDecodeError:
            raise AssertionError("a topic that is not UTF-8 was delivered") from None
        if came.topic == "last/word":
            return
        # One that only Mosquitto has retained, and those of who is not to be harmed, are no outcome of a session.
        if not came.flags & 1 and not came.topic.startswith("fleet/"):
            outcome.deliveries[came.topic, came.payload, came.flags >> 1 & 3] += 1


async def _speak(port: int, sessions: list[Session], outcome: Outcome) -> None:
    for each in sessions:
        outcome.answers[each.number] = await _say(port, each, outcome)


async def _say(port: int, session: Session, outcome: Outcome) -> tuple[int, bool]:
    """CONNECT, and once it is answered everything else at once; then wait until each PINGREQ is answered, if the last can be seen as one,
    and for the end. Returns CONNACK's code (-1: none) and whether each was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer, pings = bytearray(), sum(each == PINGREQ for each in frames(session.raw))
    hello = next(frames(session.raw))
    rest = session.raw[len(hello) :]
    whole, answered = ends_with_ping(session.raw), False
    try:
        writer.write(hello)
        if not whole and not rest:
            writer.write_eof()
        async with patience(ANSWER_S):
            while chunk := await reader.read(65536):
                answer += chunk
                if rest:
                    writer.write(rest)
                    rest = b""
                    if not whole:
                        writer.write_eof()
                elif whole and not answered and sum(each == PINGRESP for each in frames(bytes(answer))) >= pings:
                    answered = True
                    writer.write_eof()
    except TimeoutError:
        outcome.hung.append(session.number)
    except OSError:
        pass  # reset, which is an end
    finally:
        writer.transport.abort()
    code = answer[3] if answer.startswith(CONNACK) and len(answer) > 3 else -1
    return code, answered


def frames(raw: bytes) -> Iterator[bytes]:
    """The packets of a stream as their length fields have it; the last may be cut short."""
    at = 0
    while at < len(raw):
        length = shift = 0
        end = at + 1
        while end < len(raw) and shift <= 21:
            length |= (raw[end] & 0x7F) << shift
            shift += 7
            end += 1
            if not raw[end - 1] & 0x80:
                break
        yield raw[at : end + length]
        at = end + length


def ends_with_ping(raw: bytes) -> bool:
    *_, last = frames(raw)
    return last == PINGREQ and sum(len(each) for each in frames(raw)) == len(raw)


# --- comparing ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one session: what only one of the two delivered, and whether it got to its end with each."""

    session: Session
    ours: Counter[Delivery]
    theirs: Counter[Delivery]
    alive: tuple[bool, bool]

    def __str__(self) -> str:
        packet = self.session.packets[self.session.mutated]
        return (
            f"session {self.session.number}, {packet[:60]!r}: ours alone {dict(self.ours)}, theirs alone {dict(self.theirs)}, {self.alive}"
        )


async def differences(ports: tuple[int, int], sessions: list[Session], ours: Outcome, theirs: Outcome) -> list[Difference]:
    """Of every session that differs: as it does when said again without another beside it, or, where it then does not, as it did before."""
    before = _apart(sessions, ours, theirs)
    again = [each.session for each in before if each.session.number >= 0]
    after = {each.session.number: each for each in _apart(again, *[await run(port, again, 1) for port in ports])}
    return [after.get(each.session.number, each) for each in before]


def _apart(sessions: list[Session], ours: Outcome, theirs: Outcome) -> list[Difference]:
    """A delivery in which there is no session's number is a difference of nobody."""
    mine, others = ours.by_session(), theirs.by_session()
    found = []
    for session in (*sessions, Session(-1, (PINGREQ,), 0)):
        number = session.number
        alive = (ours.answers.get(number, NONE)[1], theirs.answers.get(number, NONE)[1])
        if mine[number] != others[number] or alive[0] != alive[1]:
            found.append(Difference(session, mine[number] - others[number], others[number] - mine[number], alive))
    return found


NONE = (-1, False)
VERSION = "another version of MQTT, which Mosquitto speaks and the embedded broker does not"
PERSISTENT = "a persistent session, which the embedded broker refuses"
LEVELS = f"a topic of more than {MAX_LEVELS} levels, which the embedded broker refuses"
STRICT = "a packet that only servers send, or that has but one form and is of another: the embedded broker ends it, Mosquitto overlooks it"
SECOND = "a second CONNECT: the embedded broker then sends the Will (3.1.2-8), Mosquitto does not"
RELEASED = "a message of QoS 2 of a session that ended before its PUBCOMP, which binds nobody"
UNEXPLAINED = "NOT EXPLAINED"


def may_differ(difference: Difference) -> set[str]:
    """Why the two brokers may differ there, by MQTT 3.1.1 or by what docs/broker.md says of the embedded one, for each thing that does."""
    packets = list(frames(difference.session.raw))
    if (whole := _by_connect(packets[0])) is not None:
        return {whole}
    strict = any(_overlooked(each) for each in packets[1:])
    reasons = set()
    if difference.alive[0] != difference.alive[1]:
        reasons.add(STRICT if strict and not difference.alive[0] else UNEXPLAINED)
    for topic, payload, _ in difference.theirs:
        if topic.count("/") >= MAX_LEVELS:
            reasons.add(LEVELS)
        elif strict and not difference.alive[0]:
            reasons.add(STRICT)
        elif not difference.alive[0] and _exactly_once(packets, payload):
            reasons.add(RELEASED)
        else:
            reasons.add(UNEXPLAINED)
    for topic, payload, _ in difference.ours:
        if any(each[0] >> 4 == 1 for each in packets[1:]) and data(topic.encode()) + data(payload) in packets[0]:
            reasons.add(SECOND)
        elif not difference.alive[1] and _exactly_once(packets, payload):
            reasons.add(RELEASED)
        else:
            reasons.add(UNEXPLAINED)
    return reasons


def _by_connect(hello: bytes) -> str | None:
    body = hello[2:] if hello[1:2] < b"\x80" else hello[3:]
    if not body.startswith(data(b"MQTT")) or body[6:7] != b"\x04":
        return VERSION
    if body[7:8] and not body[7] & 2:
        return PERSISTENT
    return None


_OF_SERVERS = (2, 9, 11, 13)
"""CONNACK, SUBACK, UNSUBACK, PINGRESP (2.2.1)."""


def _overlooked(packet: bytes) -> bool:
    """Whether only servers send it, or it is one of the packets that have but one form (3.4 to 3.7, 3.12, 3.14), and has another."""
    if packet[0] >> 4 in _OF_SERVERS:
        return True
    flags, length = {4: (0, 2), 5: (0, 2), 6: (2, 2), 7: (0, 2), 12: (0, 0), 14: (0, 0)}.get(packet[0] >> 4, (None, None))
    return flags is not None and (packet[0] & 15 != flags or packet[1:2] != bytes([length or 0]))


def _exactly_once(packets: list[bytes], payload: bytes) -> bool:
    """Whether a payload is one that was published at QoS 2."""
    return any(each[0] >> 4 == 3 and each[0] >> 1 & 3 == 2 and each.endswith(payload) for each in packets)


# --- the attack ---------------------------------------------------------------------------------------------------------------


async def attack(ground: Ground, count: int, chance: random.Random) -> list[Finding]:
    """`count` sessions, with one mutated packet each; compared with Mosquitto where there is one."""
    sessions, outcomes = [session(chance, number) for number in range(count)], []

    async def say() -> list[Finding]:
        outcomes.append(await run(ground.port, sessions))
        hung = outcomes[0].hung
        return [Finding(f"{count:,} mutated packets, two connections at once: none hangs", f"{len(hung)} hung {hung[:5]}", not hung)]

    findings = await watched(ground, say, MEMORY_MIB)
    if (binary := find_mosquitto()) is None:
        return [*findings, Finding("deliveries compared with Mosquitto", "not compared: there is no mosquitto on PATH", True)]
    async with _mosquitto(binary) as port:
        theirs = await run(port, sessions)
        return findings + _compared(await differences((ground.port, port), sessions, outcomes[0], theirs), outcomes[0], theirs)


def _compared(found: list[Difference], ours: Outcome, theirs: Outcome) -> list[Finding]:
    reasons = Counter(reason for each in found for reason in may_differ(each))
    seen = f"{ours.deliveries.total():,} by the embedded broker, {theirs.deliveries.total():,} by Mosquitto; {len(found):,} sessions differ"
    unexplained = [str(each) for each in found if UNEXPLAINED in may_differ(each)]
    return [
        Finding(
            "deliveries compared with Mosquitto: no difference that is not explained", "; ".join([seen, *unexplained[:3]]), not unexplained
        ),
        *(Finding(f"they may differ: {reason}", f"{count:,} sessions", True) for reason, count in reasons.items() if reason != UNEXPLAINED),
    ]


@asynccontextmanager
async def _mosquitto(binary: str) -> AsyncIterator[int]:
    """As bare as the other: no TLS, no ACL, nothing persistent, on the loopback."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        config = Path(directory) / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\npersistence false\nlog_dest none\n"
            f"set_tcp_nodelay true\nmax_inflight_messages 0\nmax_queued_messages 0\nmax_packet_size {Limits().packet_bytes}\n"
        )
        process = await asyncio.create_subprocess_exec(binary, "-c", str(config), stderr=subprocess.DEVNULL)
        try:
            await _answering(port)
            yield port
        finally:
            process.terminate()
            await process.wait()


async def _answering(port: int) -> None:
    async with patience(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.05)  # between two tries

"""The wire, byte for byte: one golden file a message type, read as the agent and the server do, and written again exactly.

A change of these files is a change of the contract. `FLEETWARD_WRITE_GOLDEN=1` writes those that are missing.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from broker.messages import (
    AUTHENTICATED,
    BY_SUFFIX,
    DURABLE,
    Ack,
    BadMac,
    CertificateAnswer,
    CertificateRequest,
    Checkpoint,
    Command,
    CommandState,
    Denial,
    Error,
    ErrorCode,
    Facts,
    Heartbeat,
    Item,
    Log,
    Message,
    Metrics,
    Presence,
    Result,
    Resync,
    Section,
    Status,
    encode,
    open_envelope,
    read,
    section_hash,
)
from broker.topics import DeviceTopic, Topics
from edge_agent import trust
from tests.agent.rig import START, Authority, text

GOLDEN = Path(__file__).parents[1] / "golden" / "messages"
KEY = bytes(range(32))
AUTHORITY = Authority(channel_key=KEY)
EPOCH = "01kb2v8m2c6x1s9q4k7w0t5b8n"
DATA = {"model": "AMD EPYC", "cores": 4, "features": ["aes", "µ-op"], "max_mhz": None}
ORDER = replace(
    AUTHORITY.order("cmd-01kb2v8m2c6x1s9q4k7w0t5b8n", 4711, at=START),
    args={"config": "motd", "digest": "sha256:00", "files": [], "on_change": None},
    first_fence=4709,
)


def _signed(payload: bytes, suffix: str) -> Message:
    return read(open_envelope(suffix, payload))


CSR = "-----BEGIN CERTIFICATE REQUEST-----\nMIH=\n-----END CERTIFICATE REQUEST-----\n"

SAMPLES: dict[str, Message] = {
    "up/presence": Presence(
        online=True,
        session="01kb2v8m2c000000000000000a",
        epoch=EPOCH,
        boot_id="bc1f34d8-2f0a-498c-9bef-2d1cd2518a16",
        agent_version="0.1.0",
        keepalive_s=30,
        heartbeat_s=30,
        nonce="01kb2v8m2c000000000000000b",
        keys=3,
    ),
    "up/heartbeat": Heartbeat(session="01kb2v8m2c000000000000000a", uptime_s=86400, unacked=0),
    "up/facts": Facts(
        sections={"cpu": Section(hash=section_hash(DATA), data=DATA)},
        manifest={"cpu": section_hash(DATA), "tpm": section_hash({"devices": []})},
    ),
    "up/status": Status(
        full=False,
        items=(
            Item(
                kind="host-config",
                id="hcfg-01kb2v8m2c6x1s9q4k7w0t5b8n",
                generation=3,
                state="drifted",
                digest="sha256:00",
                reason="Drifted",
                message="/etc/motd has other content",
            ),
            Item(kind="host-config", id="hcfg-01kb2v8m2c6x1s9q4k7w0t5b8p", generation=1, state="absent"),
        ),
    ),
    "up/result": Result(
        id=f"{ORDER.id}-failed",
        command=ORDER.id,
        state=CommandState.FAILED,
        progress=0,
        output="line 1\nline 2 “quoted”\n",
        error=Error(code=ErrorCode.READ_ONLY, message="Read-only file system: /etc/motd", recoverable=True),
        started_at=text(START),
        finished_at=text(START + 1.5),
    ),
    "up/log": Log(
        id=f"{EPOCH}-7",
        type="discovery-failed",
        severity="warning",
        message="tpm: no answer within 10 s",
        data={"section": "tpm"},
    ),
    "up/metrics": Metrics(samples=(("load.1m", 1795370000000, 0.25), ("disk.used:/", 1795370000000, 1e9))),
    "up/csr": CertificateRequest(csr=CSR, replaces="5f3a", proof="MEUCIQ=="),
    "down/ack": Ack(epoch=EPOCH, seq=17),
    "down/resync": Resync(sections=("cpu", "storage"), items=True, reason="the hash differs", session="session-1", id="5f1c"),
    "down/checkpoint": _signed(
        AUTHORITY.checkpoint("01kb2v8m2c000000000000000b", START, fence=4708, epoch=EPOCH, seq=17, awaiting=("cmd-1",)), "down/checkpoint"
    ),
    "down/command": _signed(AUTHORITY.command(ORDER, START), "down/command"),
    "down/certificate": CertificateAnswer(
        replaces="5f3a", certificate=None, reason=Denial.LAPSED, message="the certificate ended longer ago than the grace period"
    ),
    "down/keys": AUTHORITY.keys(4, [AUTHORITY.root], at=START),
}


def golden(suffix: str) -> tuple[str, bytes]:
    """The topic and the exact payload that a golden file holds."""
    path = GOLDEN / f"{suffix.replace('/', '-')}.json"
    if not path.exists() and os.environ.get("FLEETWARD_WRITE_GOLDEN"):
        topic = Topics().build(DeviceTopic(AUTHORITY.device, suffix))
        written = {"topic": topic, "key": KEY.hex(), "payload": _encoded(SAMPLES[suffix], topic).decode()}
        path.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    values = json.loads(path.read_text())
    assert bytes.fromhex(values["key"]) == KEY
    return values["topic"], values["payload"].encode()


def _encoded(message: Message, topic: str) -> bytes:
    suffix = message.suffix
    return encode(
        message,
        sent_at=text(START + 2),
        epoch=EPOCH if suffix in DURABLE else None,
        seq=18 if suffix in DURABLE else None,
        topic=topic if suffix in AUTHENTICATED else "",
        key=KEY if suffix in AUTHENTICATED else None,
    )


def test_there_is_one_for_each_message_and_no_other() -> None:
    """A new message needs its golden file."""
    for suffix in BY_SUFFIX:
        golden(suffix)
    assert {path.stem for path in GOLDEN.glob("*.json")} == {suffix.replace("/", "-") for suffix in BY_SUFFIX}


@pytest.mark.parametrize("suffix", BY_SUFFIX)
def test_it_is_read_as_what_was_meant(suffix: str) -> None:
    """Topic, envelope and every member."""
    topic, payload = golden(suffix)
    parsed = Topics().parse(topic)
    assert parsed == DeviceTopic(AUTHORITY.device, suffix)
    envelope = open_envelope(suffix, payload, topic=topic, key=KEY)
    assert (envelope.epoch, envelope.seq) == ((EPOCH, 18) if suffix in DURABLE else (None, None))
    assert read(envelope) == SAMPLES[suffix]


@pytest.mark.parametrize("suffix", BY_SUFFIX)
def test_written_again_it_is_the_same_byte_for_byte(suffix: str) -> None:
    """What was read from the file, not the sample, is encoded."""
    topic, payload = golden(suffix)
    message = read(open_envelope(suffix, payload, topic=topic, key=KEY))
    assert _encoded(message, topic) == payload


@pytest.mark.parametrize("suffix", sorted(AUTHENTICATED))
def test_its_mac_covers_topic_and_every_byte(suffix: str) -> None:
    """Another topic, another key, or one flipped bit is refused."""
    topic, payload = golden(suffix)
    flipped = payload.replace(b'"v":1', b'"v":2')
    for wrong in ((payload, topic.replace("devices/", "devices/x"), KEY), (payload, topic, b"x" * 32), (flipped, topic, KEY)):
        with pytest.raises(BadMac):
            open_envelope(suffix, wrong[0], topic=wrong[1], key=wrong[2])


def test_the_signed_ones_are_believed_by_the_agent() -> None:
    """Golden delegation, checkpoint and command verify under the golden root."""
    roots = (bytes(AUTHORITY.root.verify_key),)
    checkpoint = _signed(golden("down/checkpoint")[1], "down/checkpoint")
    command = _signed(golden("down/command")[1], "down/command")
    assert isinstance(checkpoint, Checkpoint) and isinstance(command, Command)
    assert trust.read_checkpoint(roots, checkpoint, AUTHORITY.device, "01kb2v8m2c000000000000000b", 1)[1] == START
    order, generation = trust.read_order(roots, command, AUTHORITY.device, START, 1)
    assert (order, generation) == (ORDER, 1)

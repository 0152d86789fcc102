"""Messages: what is encoded decodes to the same, MACs bind topic and bytes, bad bodies are told from bad envelopes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import (
    MAX_BYTES,
    TYPES,
    BadMac,
    CommandState,
    ContractError,
    ErrorCode,
    Facts,
    Heartbeat,
    Log,
    Order,
    Presence,
    Result,
    Section,
    Status,
    canonical,
    decode,
    decode_text,
    encode,
    encode_text,
    from_json,
    mac,
    open_envelope,
    read,
    section_hash,
)

AT = "2026-11-22T18:00:00.000Z"
KEY = b"k" * 32
TOPIC = "fleet/v1/devices/b9/host-01kb2v8m2c6x1s9q4k7w0t5b8n/up/log"
LOG = Log(id="l1", type="Drift", severity="warning", message="Grüße", data={"path": "/etc/motd"})

json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def sealed(message: Any = LOG, seq: int = 3) -> bytes:
    return encode(message, sent_at=AT, epoch="E1", seq=seq, topic=TOPIC, key=KEY)


@given(json_value, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50))
def test_durable_messages_survive_the_wire(data: Any, message: str) -> None:
    """Any data that JSON holds comes back as it was."""
    log = Log(id="x", type="t", severity="info", message=message, data={"d": data})
    assert decode("up/log", sealed(log), topic=TOPIC, key=KEY) == log


def test_the_mac_is_last_and_covers_topic_and_bytes() -> None:
    """Changing any byte, the topic or the key is noticed; so is a mac that is not the last member."""
    payload = sealed()
    assert payload.rfind(b',"mac":"') == len(payload) - 74
    for n in range(0, len(payload), 7):
        with pytest.raises(ContractError):
            open_envelope("up/log", payload[:n] + bytes([payload[n] ^ 1]) + payload[n + 1 :], topic=TOPIC, key=KEY)
    for topic, key in ((TOPIC + "x", KEY), (TOPIC, b"other"), (TOPIC, None)):
        with pytest.raises(BadMac):
            open_envelope("up/log", payload, topic=topic, key=key)
    moved = json.loads(payload)
    with pytest.raises(BadMac):
        open_envelope("up/log", json.dumps({"mac": moved.pop("mac"), **moved}).encode(), topic=TOPIC, key=KEY)


def test_a_bad_body_still_has_an_envelope() -> None:
    """Poison is known by epoch and seq, so that it can be set aside and acknowledged."""
    for spoil in (b'"severity":"loud"', b'"severity":7'):
        good = sealed().replace(b'"severity":"warning"', spoil)
        payload = _sealed_again(good)
        envelope = open_envelope("up/log", payload, topic=TOPIC, key=KEY)
        assert (envelope.epoch, envelope.seq) == ("E1", 3)
        with pytest.raises(ContractError, match="severity"):
            read(envelope)


def test_a_body_that_is_no_json_still_has_an_envelope() -> None:
    """Its epoch and seq, wherever they stand, say which one it is."""
    spaced = b'{ "seq" : 3 , "v": 1, "epoch" : "E1", "x": NaN'
    for payload in (_sealed_again(sealed().replace(b'{"path"', b"{path")), _sealed_again(spaced + b',"mac":')):
        envelope = open_envelope("up/log", payload, topic=TOPIC, key=KEY)
        assert (envelope.epoch, envelope.seq, envelope.body) == ("E1", 3, None)
        with pytest.raises(ContractError, match="JSON"):
            read(envelope)


@pytest.mark.parametrize(
    ("head", "problem"),
    [('"v":2,"sent_at":"AT"', "v: must be 1"), ('"sent_at":"AT"', "v: must"), ('"v":1', "sent_at"), ('"v":1,"sent_at":"soon"', "sent_at")],
)
def test_a_durable_message_without_version_or_time_has_an_envelope_too(head: str, problem: str) -> None:
    """It can't be used, but its number can be acknowledged."""
    body = "{" + head.replace("AT", AT) + ',"epoch":"E1","seq":3,"id":"x","type":"t","severity":"info","message":"m","mac":'
    envelope = open_envelope("up/log", _sealed_again(body.encode()), topic=TOPIC, key=KEY)
    assert (envelope.epoch, envelope.seq) == ("E1", 3)
    with pytest.raises(ContractError, match=problem):
        read(envelope)


@pytest.mark.parametrize("tail", [',"mac":"MAC"}', ',"mac": "MAC"}', ',"mac":"MAC" }\n', ',"mac":\n  "MAC"\n}\n'])
def test_a_mac_may_be_written_as_json_may(tail: str) -> None:
    """Other programs' JSON has white space and capital digits; what the MAC covers ends before its comma all the same."""
    unsealed = json.dumps({"v": 1, "sent_at": AT, "epoch": "E1", "seq": 3, "id": "x", "type": "t", "severity": "info", "message": "m"})[:-1]
    for code in (mac(KEY, TOPIC, unsealed.encode()), mac(KEY, TOPIC, unsealed.encode()).upper()):
        payload = (unsealed + tail.replace("MAC", code)).encode()
        assert isinstance(decode("up/log", payload, topic=TOPIC, key=KEY), Log)
        with pytest.raises(BadMac):
            decode("up/log", payload.replace(b'"m"', b'"M"'), topic=TOPIC, key=KEY)


def test_an_agent_may_call_its_version_what_it_likes() -> None:
    """As at enrollment: a name and a number, for instance."""
    body = {"v": 1, "sent_at": "2026-11-22T18:00:00.000+00:00", "online": True, "session": "s", "epoch": "E", "boot_id": "b", "nonce": "n"}
    found = decode("up/presence", json.dumps(body | {"agent_version": "acme 1.0 (arm)", "keepalive_s": 30, "heartbeat_s": 30}).encode())
    assert isinstance(found, Presence)
    assert found.agent_version == "acme 1.0 (arm)"


def _sealed_again(payload: bytes) -> bytes:
    unsealed = payload[: payload.rfind(b',"mac":')]
    return unsealed + b',"mac":"' + mac(KEY, TOPIC, unsealed).encode() + b'"}'


@pytest.mark.parametrize("text", ['"\\u0000"', '"\\ud800"', '{"\\u0000":1}', '["\\udfff"]'])
def test_nul_and_lone_surrogates_are_refused(text: str) -> None:
    """Postgres can't store the one, UTF-8 not the other; neither is decoded nor encoded."""
    body = (
        f'{{"v":1,"sent_at":"{AT}","epoch":"E1","seq":3,"id":"x","type":"t","severity":"info","message":"m","data":{{"d":{text}}}'.encode()
    )
    payload = _sealed_again(body + b',"mac":"0"}')
    with pytest.raises(ContractError, match="NUL"):
        decode("up/log", payload, topic=TOPIC, key=KEY)
    with pytest.raises(ContractError):
        sealed(Log(id="x", type="t", severity="info", message="m", data={"d": json.loads(text)}))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"v":2,"sent_at":"' + AT.encode() + b'"}',
        b'{"v":true,"sent_at":"' + AT.encode() + b'"}',
        b'{"v":1}',
        b'{"v":1,"sent_at":"yesterday"}',
        b'{"v":1,"sent_at":"2026-11-22T18:00:00+01:00"}',
        b'{"v":1,"sent_at":"' + AT.encode() + b'","session":"s","uptime_s":NaN,"unacked":0}',
        b'{"v":1,"sent_at":"' + AT.encode() + b'","session":"s","uptime_s":-1,"unacked":0}',
        b'{"v":1,"sent_at":"' + AT.encode() + b'","session":"s","uptime_s":1.5,"unacked":0}',
        b'{"v":1,"sent_at":"' + AT.encode() + b'","session":"s","uptime_s":true,"unacked":0}',
        b'{"v":1,"sent_at":"' + AT.encode() + b'","session":"s","uptime_s":1}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_bad_messages_raise_contract_errors_only(payload: bytes) -> None:
    """Whatever a device sends, decoding it says what is wrong and raises nothing else."""
    with pytest.raises(ContractError):
        decode("up/heartbeat", payload)


def test_unknown_members_are_ignored() -> None:
    """A newer sender may say more."""
    body = {"v": 1, "sent_at": AT, "session": "s", "uptime_s": 1, "unacked": 0, "future": {"a": 1}}
    assert decode("up/heartbeat", json.dumps(body).encode()) == Heartbeat(session="s", uptime_s=1, unacked=0)


def test_errors_name_the_place() -> None:
    """The member, and the element of a list within it, are in the text."""
    with pytest.raises(ContractError, match=r"items\.1\.generation: must be a whole number"):
        from_json(
            Status,
            {
                "full": True,
                "items": [
                    {"kind": "k", "id": "i", "generation": 1, "state": "present"},
                    {"kind": "k", "id": "i", "generation": "1", "state": "present"},
                ],
            },
        )


def test_the_size_limit_holds_when_encoding() -> None:
    """What could not be received is not sent."""
    big = Facts(sections={"os": Section(hash="sha256:0", data="x" * MAX_BYTES)}, manifest={})
    with pytest.raises(ContractError, match="bytes"):
        encode(big, sent_at=AT, epoch="E", seq=1, topic=TOPIC, key=KEY)


def test_only_durable_messages_carry_a_seq() -> None:
    """Forgetting it, or giving one where none belongs, fails at the sender."""
    with pytest.raises(ContractError):
        encode(LOG, sent_at=AT, topic=TOPIC, key=KEY)
    with pytest.raises(ContractError):
        encode(Heartbeat(session="s", uptime_s=1, unacked=0), sent_at=AT, epoch="E", seq=1)


def test_orders_are_signed_as_text() -> None:
    """An order's text decodes to the order, and a missing member is named."""
    order = Order(
        id="cmd-1",
        device="host-1",
        verb="config.apply",
        args={"a": 1},
        fence=7,
        attempt=1,
        issued_at=AT,
        not_after=AT,
        timeout_s=60,
        resource=None,
    )
    text = encode_text(order)
    assert decode_text(Order, text) == order
    with pytest.raises(ContractError, match="fence"):
        decode_text(Order, text.replace('"fence":7', '"fence":0'))


def test_section_hashes_do_not_depend_on_the_order_of_members() -> None:
    """Two devices that say the same have the same hash."""
    assert section_hash({"a": 1, "b": [1, 2]}) == section_hash({"b": [1, 2], "a": 1})
    assert canonical({"b": "ä", "a": None}) == '{"a":null,"b":"ä"}'.encode()


def test_states_and_codes() -> None:
    """Which states are final and which errors are tried again is the contract's."""
    assert [s for s in CommandState if not s.final] == ["queued", "sent", "accepted", "running"]
    assert {c for c in ErrorCode if c.recoverable} == {"ReadOnly", "PermissionDenied", "NoSpace", "Busy", "TimedOut", "Internal"}


def test_every_type_names_its_suffix_once() -> None:
    """Two messages can't share a channel."""
    suffixes = [kind.suffix for kind in TYPES]
    assert len(set(suffixes)) == len(suffixes) == 14
    assert Presence.suffix == "up/presence" and Result.suffix == "up/result"

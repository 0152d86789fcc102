"""The topic grammar: what is built can be parsed, what can't be built can't be parsed, and nobody else writes topics."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import BY_SUFFIX
from broker.topics import (
    BROKER_CHANNELS,
    CHANNELS,
    DOWNLINKS,
    UPLINKS,
    BrokerTopic,
    DeviceTopic,
    EventTopic,
    IntentTopic,
    NotificationTopic,
    ReplyTopic,
    Topic,
    TopicError,
    Topics,
    shard_of,
)

HOST = "host-01kb2v8m2c6x1s9q4k7w0t5b8n"
level = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
topic = st.one_of(
    st.builds(DeviceTopic, level, st.sampled_from(sorted(CHANNELS))),
    st.builds(EventTopic, level, level, st.none() | level),
    st.builds(NotificationTopic, level),
    st.builds(IntentTopic, level, level, level),
    st.builds(ReplyTopic, level, level),
    st.builds(BrokerTopic, st.sampled_from(BROKER_CHANNELS)),
)


def test_the_contract_s_topics() -> None:
    """The texts are those of contract.md, section 3."""
    topics = Topics()
    assert shard_of(HOST) == "b9"
    assert topics.build(DeviceTopic(HOST, "up/facts")) == f"fleet/v1/devices/b9/{HOST}/up/facts"
    assert topics.build(EventTopic("host", HOST)) == f"fleet/v1/events/host/{HOST}"
    assert topics.build(EventTopic("host", HOST, "erp")) == f"fleet/v1/integrations/erp/events/host/{HOST}"
    assert topics.build(NotificationTopic("error")) == "fleet/v1/notifications/error"
    assert topics.build(IntentTopic("erp", "host", HOST)) == f"fleet/v1/intents/erp/host/{HOST}"
    assert topics.build(ReplyTopic("erp", "c-1")) == "fleet/v1/replies/erp/c-1"


@given(topic, level)
def test_parse_undoes_build(it: Topic, root: str) -> None:
    """Every topic survives the round trip, under any root."""
    topics = Topics(root)
    assert topics.parse(topics.build(it)) == it


@given(st.text(max_size=60) | st.lists(st.sampled_from(["fleet", "v1", "devices", "b9", HOST, "up", "facts", "+", "#", ""])).map("/".join))
def test_only_what_is_built_is_parsed(text: str) -> None:
    """Any other text is refused with TopicError, never accepted in another spelling."""
    topics = Topics()
    try:
        parsed = topics.parse(text)
    except TopicError:
        return
    assert topics.build(parsed) == text


@pytest.mark.parametrize("bad", ["", "a/b", "+", "#", "a b", "ä", "\0", "-a", "x" * 256, "$share"])
def test_levels_hold_no_wildcards(bad: str) -> None:
    """No value can smuggle a separator, a wildcard or a NUL into a topic."""
    for make in (
        lambda: EventTopic(bad, "x"),
        lambda: EventTopic("x", bad),
        lambda: DeviceTopic(bad, "up/log"),
        lambda: ReplyTopic("x", bad),
    ):
        with pytest.raises(TopicError):
            Topics().build(make())


def test_a_device_in_another_shard_is_refused() -> None:
    """The shard belongs to the id: no other one is taken."""
    with pytest.raises(TopicError, match="shard"):
        Topics().parse(f"fleet/v1/devices/00/{HOST}/up/facts")


def test_every_message_has_a_channel() -> None:
    """Topics and messages name the same channels, apart from the reserved ones, which nothing speaks yet."""
    assert set(BY_SUFFIX) == CHANNELS
    assert set(UPLINKS) | set(DOWNLINKS) == set(BY_SUFFIX)


def test_nobody_else_writes_topics() -> None:
    """Outside broker/topics.py no string of the code begins like a topic or one of its parts."""
    root = Path(__file__).parents[2]
    written = re.compile(
        r"""["'](fleet/|/?v1/(devices|events|intents|replies|notifications|integrations|broker)|devices/\{|intents/\{|replies/\{)"""
    )
    offenders = [
        f"{path.relative_to(root)}:{number}"
        for part in ("broker", "inventory", "managers", "edge_agent", "web", "fleetward")
        for path in (root / part).rglob("*.py")
        if path.name != "topics.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if written.search(line)
    ]
    assert offenders == []

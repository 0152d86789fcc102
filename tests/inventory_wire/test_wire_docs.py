"""docs/wire.md against the code: each topic, member, state, verb and error code is there, and none that there is not."""

import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker import messages
from broker.messages import AUTHENTICATED, DURABLE, QOS, CommandState, Denial, ErrorCode, KeyList, Mandate, Moment, Order, Verb
from broker.topics import CHANNELS, EventTopic, IntentTopic, NotificationTopic, ReplyTopic, Topics
from inventory.changes import Change
from inventory.intents import Intent, verified
from inventory.streams import NEVER_GIVEN
from managers.rendering import RenderedFile

TEXT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()

NESTED: dict[tuple[type[Any], str], tuple[str, type[Any]]] = {
    (messages.Facts, "sections"): ("sections.*", messages.Section),
    (messages.Status, "items"): ("items.*", messages.Item),
    (messages.Result, "error"): ("error", messages.Error),
    (messages.Checkpoint, "delegation"): ("delegation", messages.Delegation),
    (messages.Command, "delegation"): ("delegation", messages.Delegation),
    (messages.Keys, "lists"): ("lists.*", messages.SignedKeys),
    (messages.SignedKeys, "signatures"): ("signatures.*", messages.KeySignature),
    (Order, "resource"): ("resource", messages.ResourceRef),
}
"""Members that are records themselves."""


def table(head: str) -> dict[str, list[str]]:
    """The rows of the table whose first heading is this, by their first cell."""
    lines = TEXT.split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = [row[0].strip("`") for row in rows]
    assert len(names) == len(set(names)), head
    return {name: row[1:] for name, row in zip(names, rows, strict=True)}


def members(kind: type[Any]) -> list[str]:
    found = []
    for field in dataclasses.fields(kind):
        found.append(field.name)
        if (kind, field.name) in NESTED:
            place, inner = NESTED[kind, field.name]
            found += [f"{place}.{name}" for name in members(inner)]
    return found


@pytest.mark.parametrize("kind", messages.TYPES, ids=lambda kind: kind.suffix)
def test_each_message_has_its_members(kind: Any) -> None:
    """In the order in which they are encoded."""
    assert list(table(f"`{kind.suffix}` | what it is")) == members(kind)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("the command's `signed`", Order),
        ("the checkpoint's `signed`", Moment),
        ("the delegation's `signed`", Mandate),
        ("a list's `signed`", KeyList),
    ],
)
def test_each_signed_text_has_its_members(head: str, kind: type[Any]) -> None:
    """What a signature covers."""
    assert list(table(head)) == members(kind)


def test_each_channel_is_there_with_how_it_is_sent() -> None:
    """QoS, durability and authentication as the code has them."""
    rows = table("topic after the prefix")
    assert set(rows) == CHANNELS == set(messages.BY_SUFFIX)
    for suffix, (qos, durable, by, _) in rows.items():
        assert int(qos) == QOS[suffix]
        assert (durable == "yes") == (suffix in DURABLE)
        assert (by == "MAC") == (suffix in AUTHENTICATED)


def test_each_topic_for_integrations_is_one() -> None:
    """With its levels filled in, the grammar parses it."""
    rows = table("topic")
    values = {"{kind}": "host", "{id}": "host-1", "{name}": "press", "{severity}": "warning", "{correlation}": "c-1"}
    parsed = set()
    for topic in rows:
        for name, value in values.items():
            topic = topic.replace(name, value)
        parsed.add(Topics().parse(topic))
    assert parsed == {
        EventTopic("host", "host-1"),
        EventTopic("host", "host-1", "press"),
        NotificationTopic("warning"),
        IntentTopic("press", "host", "host-1"),
        ReplyTopic("press", "c-1"),
    }


def test_events_and_intents_have_their_members() -> None:
    """As the change log and the reader of intents have them."""
    change = Change(1, "host", "host-1", "created", 1, 1, (), {}, None, None, {}, datetime.now(UTC), "entered")
    assert list(table("member of an event")) == list(change.body())
    intent = {field.name for field in dataclasses.fields(Intent)}
    assert set(table("member of an intent")) == intent | {"kind", "id"}


def test_states_verbs_and_error_codes_are_all_there() -> None:
    """And which errors are worth trying again."""
    assert list(table("state")) == list(CommandState)
    assert list(table("verb")) == list(Verb)
    assert {code: row[0] for code, row in table("error code").items()} == {code: "yes" if code.recoverable else "no" for code in ErrorCode}
    assert list(table("the `reason`")) == list(Denial)
    assert f" {NEVER_GIVEN}," in TEXT


def test_each_reason_to_refuse_is_there() -> None:
    """In the order of the code, and which of them people are told of."""
    assert {reason: row[1] == "yes" for reason, row in table("reason").items()} == {doubt: doubt.hostile for doubt in messages.Doubt}
    assert list(table("reason")) == list(messages.Doubt)


def test_the_example_signs_as_inventory_reads() -> None:
    """The Python in the document, run."""
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    key = ec.generate_private_key(ec.SECP256R1())
    assert verified(names["jws"](key, {"correlation": "c-1"}).encode(), key.public_key()) == b'{"correlation": "c-1"}'


def test_the_files_of_a_config_are_described() -> None:
    """Each member that a rendered file has on the wire has its row."""
    sent = RenderedFile("/etc/motd", b"x", "0644", None, None).argument()
    rows = table("`args` of `config.apply`")
    assert {row.removeprefix("files.*.") for row in rows if row.startswith("files.*.")} == set(sent)

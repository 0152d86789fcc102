"""docs/broker.md says what the code does: grants, limits, and options."""

import re
from pathlib import Path

from broker.__main__ import parser
from broker.acl import SERVICES, Acl, Class, Identity
from broker.filters import MAX_LEVELS
from broker.limits import Limits
from broker.topics import Topics
from tests.broker import interoperability
from tests.broker.attack.registry import ATTACKS

DOC = (Path(__file__).parents[2] / "docs" / "broker.md").read_text()
T = Topics()


def test_every_class_and_grant_is_documented() -> None:
    """The table of rights names each filter of each kind of client, with the same short forms."""
    names = [Identity(name, Class.SERVICE) for name in SERVICES]
    names += [Identity("NAME", Class.INTEGRATION), Identity("NAME", Class.INTEGRATION_SCOPED), Identity("NAME", Class.DEVICE)]
    spoken = {T.events(): "events", T.events("+"): "events", T.notifications(): "notifications", T.replies("+"): "replies"}
    for identity in names:
        assert f"`{identity.kind}`" in DOC
        grants = Acl(T).grants(identity)
        for filter_ in grants.subscribe + grants.publish:
            assert _short(filter_) in DOC or spoken.get(filter_, "?") in DOC, filter_


def _short(filter_: str) -> str:
    device, name = T.device_prefix("NAME"), "/NAME/"
    text = filter_.replace(device, "fleet/v1/devices/{shard}/{device}").replace(name, "/{name}/").replace("fleet/v1", "PREFIX")
    return f"`{text.removeprefix('PREFIX/devices/+/+/')}`" if "down/" in text and "/+/" in text else f"`{text}`"


def test_the_limits_are_documented() -> None:
    """The numbers in the table are the defaults."""
    limits = Limits()
    shown = [
        f"{limits.connect_s:g} s",
        f"| {limits.unauthenticated};",
        f"| {limits.lobby:,} ",
        f"| {limits.subscriptions:,} |",
        f"| {limits.releases} |",
    ]
    shown += [f"{limits.outbox_bytes >> 20} MiB, or {limits.unacknowledged:,} ", f"{limits.service_outbox_bytes >> 20} MiB, or "]
    shown += [f"or {limits.service_unacknowledged:,} messages", f"after {limits.stalled_s:g} s of that"]
    shown += [f"| {limits.connections}; further", f"| {limits.client_id} characters |"]
    shown += [f"for {limits.crowded_s:g} s at most", f"| {limits.connect_bytes >> 10} KiB |"]
    for text in shown:
        assert text in DOC, text


def test_every_option_is_documented() -> None:
    """As `python -m broker --help` lists them."""
    for action in parser()._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"{option} " in DOC, option


def test_the_attacks_are_documented() -> None:
    """Each with a row, and what the two brokers may differ in with a line."""
    section = DOC.split("\n## Under attack\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == set(ATTACKS)
    for words in (
        "only servers send",
        "a second CONNECT",
        "before its PUBCOMP",
        "MQTT 3.1 and 5, persistent sessions",
        f"{MAX_LEVELS} levels",
    ):
        assert words in section


def test_the_interoperability_tests_are_documented() -> None:
    """Those that pass, and those that clean sessions rule out, with the reason."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (yes|no)", DOC.split("\n## Interoperability\n")[1], re.MULTILINE))
    assert rows == dict.fromkeys(interoperability.PASSES, "yes") | dict.fromkeys(interoperability.RULED_OUT, "no")

"""docs/broker.md says what the code does: grants, limits, and options."""

from pathlib import Path

from broker.__main__ import parser
from broker.acl import SERVICES, Acl, Class, Identity
from broker.limits import Limits
from broker.topics import Topics

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
    shown = [f"{limits.connect_s:g} s", f"| {limits.unauthenticated};", f"| {limits.subscriptions:,} |", f"| {limits.releases} |"]
    shown += [f"{limits.outbox_bytes >> 20} MiB, or {limits.unacknowledged:,} ", f"{limits.service_outbox_bytes >> 20} MiB, or "]
    shown += [f"or {limits.service_unacknowledged:,} messages", f"after {limits.stalled_s:g} s of that"]
    for text in shown:
        assert text in DOC, text


def test_every_option_is_documented() -> None:
    """As `python -m broker --help` lists them."""
    for action in parser()._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"{option} " in DOC, option

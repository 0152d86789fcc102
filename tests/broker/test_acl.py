"""The access rules as pure decisions, and as text for Mosquitto and EMQX."""

from pathlib import Path

import pytest

from broker.acl import SERVICES, Acl, Class, Identity, _service_certificates, emqx_rules, mosquitto_acl
from broker.topics import CHANNELS, BrokerTopic, DeviceTopic, EventTopic, IntentTopic, NotificationTopic, ReplyTopic, TopicError, Topics

T = Topics()
ACL = Acl(T)
DEVICE = Identity("host-a", Class.DEVICE)
INVENTORY, MANAGERS, WEB, BROKER = (Identity(name, Class.SERVICE) for name in SERVICES)
OPEN, SCOPED = Identity("erp", Class.INTEGRATION), Identity("line4", Class.INTEGRATION_SCOPED)
EVERYONE = (DEVICE, INVENTORY, MANAGERS, WEB, BROKER, OPEN, SCOPED)
GOLDEN = Path(__file__).parents[1] / "golden" / "broker"


@pytest.mark.parametrize("channel", sorted(CHANNELS))
def test_a_device_publishes_its_uplinks_and_hears_its_downlinks(channel: str) -> None:
    """Each channel in its one direction, on its own prefix only."""
    own, others = T.build(DeviceTopic("host-a", channel)), T.build(DeviceTopic("host-b", channel))
    assert ACL.may_publish(DEVICE, own) == channel.startswith("up/")
    assert ACL.may_subscribe(DEVICE, own) == channel.startswith("down/")
    assert not ACL.may_publish(DEVICE, others)
    assert not ACL.may_subscribe(DEVICE, others)


@pytest.mark.parametrize("channel", sorted(CHANNELS))
def test_who_speaks_to_devices(channel: str) -> None:
    """Commands come from the managers alone, everything else from Inventory; nobody publishes as a device."""
    topic = T.build(DeviceTopic("host-a", channel))
    speakers = {identity.name for identity in EVERYONE if ACL.may_publish(identity, topic)}
    expected = {"down/command": {"svc-managers"}}.get(channel, {"svc-inventory"} if channel.startswith("down/") else {"host-a"})
    assert speakers == expected


def test_who_hears_devices() -> None:
    """Inventory alone, all of them or a shard at a time."""
    for filter_ in (T.uplinks(), T.uplinks("a7")):
        assert {identity.name for identity in EVERYONE if ACL.may_subscribe(identity, filter_)} == {"svc-inventory"}


def test_what_is_revoked_is_told_to_the_broker_alone() -> None:
    """By Inventory, which the broker may ask; nobody else tells it, hears it or asks."""
    for channel, speaker, hearer in (("revoked", "svc-inventory", "svc-broker"), ("ask", "svc-broker", "svc-inventory")):
        topic = T.build(BrokerTopic(channel))
        assert {i.name for i in EVERYONE if ACL.may_publish(i, topic)} == {speaker}
        assert {i.name for i in EVERYONE if ACL.may_subscribe(i, topic)} == {hearer}


def test_only_the_broker_s_identity_controls_mosquitto() -> None:
    """Whoever may publish there could cut anybody, or let anybody in."""
    text = mosquitto_acl(ACL, [SCOPED, OPEN])
    sections = {part.split("\n")[0]: part for part in text.split("\nuser ")[1:]}
    controlling = {name for name, part in sections.items() if "$CONTROL" in part}
    assert controlling == {identity.name for identity in _service_certificates() if identity.name.startswith("svc-broker")}
    assert "$" not in text.split("pattern", 1)[1]


def test_events_and_notifications() -> None:
    """Published by Inventory; read by unscoped integrations, and by a scoped one in its own copy only."""
    for topic in (EventTopic("host", "host-a"), EventTopic("host", "host-a", "line4"), NotificationTopic("error")):
        assert {identity.name for identity in EVERYONE if ACL.may_publish(identity, T.build(topic))} == {"svc-inventory"}
    assert {i.name for i in EVERYONE if ACL.may_subscribe(i, T.events())} == {"erp"}
    assert {i.name for i in EVERYONE if ACL.may_subscribe(i, T.notifications())} == {"erp"}
    assert ACL.may_subscribe(OPEN, "fleet/v1/notifications/+")
    assert {i.name for i in EVERYONE if ACL.may_subscribe(i, T.events("line4"))} == {"line4"}
    assert not ACL.may_subscribe(SCOPED, T.events("erp"))


@pytest.mark.parametrize("identity", [OPEN, SCOPED])
def test_an_integration_has_its_own_intents_and_replies(identity: Identity) -> None:
    """Publish under its own name, hear its own replies; not the other's."""
    other = {"erp": "line4", "line4": "erp"}[identity.name]
    assert ACL.may_publish(identity, T.build(IntentTopic(identity.name, "host", "host-a")))
    assert not ACL.may_publish(identity, T.build(IntentTopic(other, "host", "host-a")))
    for below in ("#", "+", "c1"):
        assert ACL.may_subscribe(identity, f"fleet/v1/replies/{identity.name}/{below}")
        assert not ACL.may_subscribe(identity, f"fleet/v1/replies/{other}/{below}")
    assert not ACL.may_subscribe(identity, T.intents(identity.name))
    assert ACL.may_subscribe(INVENTORY, T.intents())
    assert ACL.may_publish(INVENTORY, T.build(ReplyTopic(identity.name, "c1")))


@pytest.mark.parametrize("identity", EVERYONE)
@pytest.mark.parametrize("filter_", ["#", "+/#", "fleet/#", "fleet/v1/#", "fleet/v1/+/#", "$SYS/#", "fleet/v1/devices/+/+/down/#"])
def test_nobody_hears_everything(identity: Identity, filter_: str) -> None:
    """Filters wider than any grant, Inventory's included."""
    assert not ACL.may_subscribe(identity, filter_)


def test_a_shared_subscription_is_granted_to_nobody() -> None:
    """`$share/group/…` would take messages away from who is meant to have them."""
    assert not ACL.may_subscribe(DEVICE, "$share/g/" + T.downlinks("host-a"))
    assert not ACL.may_subscribe(INVENTORY, "$share/g/" + T.uplinks())


def test_the_web_service_has_no_topics() -> None:
    """It reads the database's change log instead."""
    assert ACL.grants(WEB).publish == ACL.grants(WEB).subscribe == ()


def test_a_replica_of_a_service_has_the_services_rights() -> None:
    """`svc-inventory.2` is Inventory; another service's name gives nothing, nor does a device of such a name."""
    assert ACL.grants(Identity("svc-inventory.2", Class.SERVICE)) == ACL.grants(INVENTORY)
    assert ACL.grants(Identity("svc-other", Class.SERVICE)).subscribe == ()
    assert not ACL.may_subscribe(Identity("svc-inventory", Class.DEVICE), T.uplinks())


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "host a", "-x"])
def test_a_name_that_can_not_be_a_level_has_no_rights(name: str) -> None:
    """A certificate with such a name must not become a wildcard."""
    with pytest.raises(TopicError):
        ACL.grants(Identity(name, Class.DEVICE))


def test_the_topic_root_is_part_of_every_grant() -> None:
    """Two installations on one broker don't meet."""
    assert not Acl(Topics("plant")).may_subscribe(INVENTORY, T.uplinks())
    assert Acl(Topics("plant")).may_subscribe(INVENTORY, Topics("plant").uplinks())


@pytest.mark.parametrize(("name", "render"), [("mosquitto.acl", mosquitto_acl), ("emqx-acl.conf", emqx_rules)])
def test_the_rendered_rules_are_the_golden_ones(name: str, render: object) -> None:
    """Mosquitto's file is tried against a real Mosquitto elsewhere; EMQX's is only read here, as none can run where tests run."""
    assert callable(render)
    assert render(ACL, [SCOPED, OPEN]) == (GOLDEN / name).read_text()

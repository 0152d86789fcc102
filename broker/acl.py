"""Who may publish and subscribe where, as grants of topic filters computed from `broker.topics`.

Pure: the embedded broker asks `Acl` at each CONNECT, SUBSCRIBE and new topic of a connection; `broker.mosquitto` writes the same grants
as an ACL file, and `emqx_rules` writes them for an EMQX cluster, so that no broker knows a rule that another lacks. It is not where
authenticity comes from (that is MACs and signatures): it keeps devices and integrations out of each other's sight.

Source: contract.md section 3.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from broker.filters import contains, matches, valid_filter, valid_topic
from broker.topics import Topics

REPLICAS = 8
"""How many certificates a service may have where a broker keeps one connection a certificate: `svc-web`, `svc-web.2` … `svc-web.8`."""


class Class(StrEnum):
    """What a certificate is for: its subject's organizational unit (OU)."""

    DEVICE = "device"
    SERVICE = "service"
    INTEGRATION = "integration"
    INTEGRATION_SCOPED = "integration-scoped"


BROKER = "svc-broker"
"""Who runs a broker that is a program of its own, and tells it which certificates are taken back (`broker.following`)."""

SERVICES = ("svc-inventory", "svc-managers", "svc-web", BROKER)
"""The common names of the services' certificates."""

CONTROL = "$CONTROL/dynamic-security/v1"
"""Where Mosquitto's dynamic-security plugin is told what to do; only `BROKER` may."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose certificate a connection has shown: common name and class."""

    name: str
    kind: Class


@dataclass(frozen=True, slots=True)
class Grants:
    """Filters: a topic may be published that one of `publish` matches, a filter subscribed that lies within one of `subscribe`."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    def may_publish(self, topic: str) -> bool:
        return valid_topic(topic) and any(matches(grant, topic) for grant in self.publish)

    def may_subscribe(self, filter_: str) -> bool:
        return valid_filter(filter_) and any(contains(grant, filter_) for grant in self.subscribe)


@dataclass(frozen=True, slots=True)
class Acl:
    """The rules under one topic root."""

    topics: Topics

    def grants(self, identity: Identity) -> Grants:
        """Raises TopicError where the identity's name can't be a level of a topic."""
        match identity.kind:
            case Class.DEVICE:
                return Grants(publish=(self.topics.uplinks_of(identity.name),), subscribe=(self.topics.downlinks(identity.name),))
            case Class.SERVICE:
                return self._service(identity.name.partition(".")[0])
            case Class.INTEGRATION:
                return self._integration(identity.name, self.topics.events(), self.topics.notifications())
            case Class.INTEGRATION_SCOPED:
                return self._integration(identity.name, self.topics.events(identity.name))

    def may_publish(self, identity: Identity, topic: str) -> bool:
        """Also for the topic of a Will."""
        return self.grants(identity).may_publish(topic)

    def may_subscribe(self, identity: Identity, filter_: str) -> bool:
        return self.grants(identity).may_subscribe(filter_)

    def device_pattern(self, name: str) -> Grants:
        """The grants of every device at once, for a broker that puts the client's name in place of `name` (such as `%u`)."""
        return Grants(
            publish=(self.topics.channel("up/#", device=name),),
            subscribe=(self.topics.channel("down/#", device=name),),
        )

    def _service(self, name: str) -> Grants:
        match name:
            case "svc-inventory":
                hears = (self.topics.uplinks(), self.topics.intents(), self.topics.broker("ask"))
                return Grants(publish=self._inventory_publishes(), subscribe=hears)
            case "svc-managers":
                return Grants(publish=(self.topics.channel("down/command"),))
            case "svc-broker":
                return Grants(publish=(self.topics.broker("ask"),), subscribe=(self.topics.broker("revoked"),))
        return Grants()

    def _inventory_publishes(self) -> tuple[str, ...]:
        down = ("down/ack", "down/resync", "down/checkpoint", "down/certificate", "down/keys")
        return (
            *(self.topics.channel(channel) for channel in down),
            self.topics.events(),
            self.topics.events("+"),
            self.topics.notifications(),
            self.topics.replies("+"),
            self.topics.broker("revoked"),
        )

    def _integration(self, name: str, *reads: str) -> Grants:
        return Grants(publish=(self.topics.intents(name),), subscribe=(*reads, self.topics.replies(name)))


def mosquitto_acl(acl: Acl, integrations: Iterable[Identity] = ()) -> str:
    """Mosquitto's `acl_file`: a section a service (and each of its replicas) and a listed integration, and a pattern for devices.

    An integration that is not listed has no section, and so no topic but those of a device of its name, which there is none of.
    """
    lines = ["# Computed from broker/acl.py. What is not granted here is denied."]
    for identity in (*_service_certificates(), *sorted(integrations, key=lambda each: each.name)):
        grants = acl.grants(identity)
        lines += ["", f"user {identity.name}"]
        lines += [f"topic write {topic}" for topic in grants.publish]
        lines += [f"topic read {topic}" for topic in grants.subscribe]
        if identity.name.partition(".")[0] == BROKER:
            lines.append(f"topic write {CONTROL}")
    devices = acl.device_pattern("%u")
    lines += ["", *(f"pattern write {topic}" for topic in devices.publish), *(f"pattern read {topic}" for topic in devices.subscribe)]
    return "\n".join(lines) + "\n"


def emqx_rules(acl: Acl, integrations: Iterable[Identity] = ()) -> str:
    """EMQX's `acl.conf` (Erlang terms, first match wins), for a listener with `peer_cert_as_username = cn`."""
    lines = ["%% Computed from broker/acl.py. Set authorization.no_match = deny and authorization.deny_action = ignore."]
    for identity in (*_service_certificates(), *sorted(integrations, key=lambda each: each.name)):
        lines += _emqx_terms(f'{{user, "{identity.name}"}}', acl.grants(identity))
    lines += _emqx_terms("all", acl.device_pattern("${username}"))
    return "\n".join([*lines, "{deny, all}."]) + "\n"


def _emqx_terms(who: str, grants: Grants) -> list[str]:
    terms = []
    for action, topics in (("publish", grants.publish), ("subscribe", grants.subscribe)):
        if topics:
            listed = ", ".join(f'"{topic}"' for topic in topics)
            terms.append(f"{{allow, {who}, {action}, [{listed}]}}.")
    return terms


def _service_certificates() -> Iterable[Identity]:
    for name in SERVICES:
        yield Identity(name, Class.SERVICE)
        for number in range(2, REPLICAS + 1):
            yield Identity(f"{name}.{number}", Class.SERVICE)

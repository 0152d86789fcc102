"""Rules without TLS and without restrictions, for what needs a bare MQTT broker: the interoperability suite and the benchmarks.

They exist here only: nothing in the product can be told to use them.
"""

from dataclasses import dataclass

from broker.acl import Class, Grants, Identity
from broker.filters import valid_filter, valid_topic
from broker.guard import Rules


@dataclass(frozen=True, slots=True)
class _Everything(Grants):
    """All but the subscription of one filter."""

    refused: str = ""

    def may_publish(self, topic: str) -> bool:
        return valid_topic(topic)

    def may_subscribe(self, filter_: str) -> bool:
        return valid_filter(filter_) and filter_ != self.refused


def open_rules(refused: str = "") -> Rules:
    """Everyone is the same service and may do everything but subscribe to the filter `refused`."""
    everything = _Everything(refused=refused)
    return Rules(granting=lambda _: everything, identify=lambda _: Identity("anyone", Class.SERVICE), tls=None)

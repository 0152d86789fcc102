"""Which of several processes of a role this one is: the number in its certificate's name and in its metrics.

On a broker that keeps one connection a certificate (Mosquitto), each replica of a service needs one of its own: `svc-inventory`,
`svc-inventory.2` … `svc-inventory.8`, which `fleetward certificate create` issues. Pure; the entry points' settings call it.
"""

from collections.abc import Mapping

from broker.acl import REPLICAS

VARIABLE = "FLEETWARD_REPLICA"


def replica_number(environment: Mapping[str, str]) -> int:
    """1 where nothing is said. Raises ValueError naming the variable."""
    text = environment.get(VARIABLE, "1")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= REPLICAS:
        raise ValueError(f"{VARIABLE} must be a number from 1 to {REPLICAS}, not {text!r}")
    return int(text)


def certificate_name(service: str, replica: int) -> str:
    """Such as `svc-inventory`, or `svc-inventory.2` for the second one."""
    return service if replica == 1 else f"{service}.{replica}"

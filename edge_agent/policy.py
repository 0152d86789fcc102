"""The owner's word on a device: what the server may have done here, whoever has signed it. Pure.

It comes from `agent.toml`, which the server has no verb to write; `commands` asks it before anything starts, and `standing` reports it, so
that people see on the host's page why something is refused. Roots and `on_change` are held by the appliers themselves.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Policy:
    """`verbs`: those that may run. `roots`, `on_change`: as in the settings. `maintenance`: why the device is locked; empty: it is not."""

    verbs: tuple[str, ...]
    roots: tuple[str, ...]
    on_change: bool
    maintenance: str = ""

    def veto(self, verb: str, changes: bool) -> str:
        """Why a command must not start; empty where it may. `changes`: it would change the device. What only looks, or stops something,
        is safe under a lock."""
        if verb not in self.verbs:
            return f"this device's owner does not allow {verb}: `verbs` in its agent.toml names what he does"
        if self.maintenance and changes:
            return f"this device is locked for maintenance: {self.maintenance}"
        return ""

    def as_json(self) -> dict[str, Any]:
        return {
            "verbs": list(self.verbs),
            "roots": list(self.roots),
            "on_change": self.on_change,
            "maintenance": self.maintenance or None,
        }

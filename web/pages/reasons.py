"""Why a resource is not as wanted, for people: `inventory.explain`, asked only where there is something to explain."""

from collections.abc import Mapping
from typing import Any

from inventory.explain import explain
from inventory.resource import Resource
from web.identity import view

Reasons = Mapping[str, Any]
"""`summary`, and `causes` [{`reason`, `message`, `since`, `next_attempt_at`}]."""


async def reasons(kind: str, resource: Resource) -> Reasons | None:
    """None where it is as wanted."""
    settled = (resource["status"] or {}).get("indicator") == "idle" and resource["deleted_at"] is None
    if settled and not resource.get("pending"):
        return None
    return await explain(view(), kind, resource["id"])

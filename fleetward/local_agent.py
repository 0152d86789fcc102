"""This machine's own agent under `fleetward up`: what it may touch, and how it is enrolled.

It is an agent like any other: it gets a token from the API and enrolls over HTTP. `fleetward.up` calls it.
"""

import json
from enum import Enum
from pathlib import Path
from typing import Any

from fleetward.client import Client, NotFound
from fleetward.layout import DataDir
from fleetward.services import Table
from fleetward.settings import bracketed
from fleetward.trust import certificates


def enrolled_as(data: DataDir) -> str | None:
    """The device id, once it is enrolled."""
    found = _identity(data).get("device")
    return str(found) if found else None


class Standing(Enum):
    """How this machine stands with the fleet."""

    MEMBER = "member"
    OUTDATED = "outdated"
    """It has a host, but looks for the broker where that no longer is, or trusts a CA that is no longer this installation's."""
    STRANGER = "stranger"
    """It was never enrolled, its host has been deleted, or was another database's."""


def standing(data: DataDir, client: Client, broker: str) -> Standing:
    """`broker`: where it is now, as host:port. Raises ClientError."""
    device = enrolled_as(data)
    if device is None:
        return Standing.STRANGER
    try:
        client.get("hosts", device)
    except NotFound:
        return Standing.STRANGER
    known = _identity(data).get("broker")
    found = f"{bracketed(str(known.get('host')))}:{known.get('port')}" if isinstance(known, dict) else ""
    issuing = _certificates(data.secrets / "ca.crt")[:1]
    trusting = set(issuing) <= set(_certificates(data.agent / "ca.crt"))
    return Standing.MEMBER if found == broker and trusting else Standing.OUTDATED


def configure(data: DataDir) -> None:
    """It may place files below `D/agent/files` only, until its owner says otherwise in agent.toml."""
    path = data.agent / "agent.toml"
    if not path.exists():
        # A TOML basic string and a JSON string escape alike.
        path.write_text(f"roots = [{json.dumps(str(data.agent / 'files'))}]\n")


def token(client: Client, uses: int, *, approve: bool) -> str:
    """An enrollment token, for the server's default of 15 minutes. Raises ClientError."""
    made = client.create("enrollment-tokens", {"uses": uses, "approve": approve})
    return str(made["token"])


def enroll_command(table: Table) -> tuple[str, ...]:
    """The step that makes key and certificate; the token is in its environment."""
    return (*table.programs("edge_agent"), "enroll", *table.joining(table.data.agent))


def _certificates(path: Path) -> list[str]:
    try:
        return certificates(path)
    except FileNotFoundError:
        return []


def _identity(data: DataDir) -> dict[str, Any]:
    try:
        found = json.loads((data.agent / "identity.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""This machine's own agent under `fleetward up`: what it may touch, and how it is enrolled.

It is an agent like any other: it gets a token from the API and enrolls over HTTP. `fleetward.up` calls it.
"""

import json
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Token:
    """An enrollment token: its id, and the secret."""

    id: str
    secret: str


def token(client: Client, uses: int, *, approve: bool) -> Token:
    """For the server's default of 15 minutes. Raises ClientError."""
    made = client.create("enrollment-tokens", {"uses": uses, "approve": approve})
    return Token(str(made["id"]), str(made["token"]))


def enroll_command(table: Table) -> tuple[str, ...]:
    """The step that makes key and certificate; the token is in its environment. It fails where the machine has to be approved."""
    return (*table.programs("edge_agent"), "enroll", "--no-wait", *table.joining(table.data.agent))


def approved(client: Client, used: Token) -> bool:
    """Whether a device that came with this token waited, and may come in now. A machine that the fleet knows already waits whatever its
    token says; this one belongs to whoever starts `up`. What a person has distrusted stays so. Raises ClientError."""
    waiting = client.page("hosts", filter=f'enrollment.token = "{used.id}" AND enrollment.waiting = true').items
    mine = [host for host in waiting if not _distrusted(client, host.get("replaces"))]
    for host in mine:
        client.patch("hosts", str(host["id"]), {"desired_state": "onboarded"})
    return bool(mine)


def _distrusted(client: Client, host: Any) -> bool:
    return host is not None and client.get("hosts", str(host)).get("desired_state") == "untrusted"


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

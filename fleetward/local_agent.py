"""This machine's own agent under `fleetward up`: what it may touch, and how it is enrolled.

It is an agent like any other: it gets a token from the API and enrolls over HTTP. `fleetward.up` calls it.
"""

import json

from fleetward.client import Client
from fleetward.layout import DataDir
from fleetward.services import Table


def enrolled_as(data: DataDir) -> str | None:
    """The device id, once it is enrolled."""
    try:
        return str(json.loads((data.agent / "identity.json").read_text())["device"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def configure(data: DataDir) -> None:
    """It may place files below `D/agent/files` only, until its owner says otherwise in agent.toml."""
    path = data.agent / "agent.toml"
    if not path.exists():
        # A TOML basic string and a JSON string escape alike.
        path.write_text(f"roots = [{json.dumps(str(data.agent / 'files'))}]\n")


def token(client: Client, uses: int) -> str:
    """An enrollment token that approves, for the server's default of 15 minutes. Raises ClientError."""
    made = client.create("enrollment-tokens", {"uses": uses, "approve": True})
    return str(made["token"])


def enroll_command(table: Table, secret: str) -> tuple[str, ...]:
    """The step that makes key and certificate. Over HTTPS it is told which CA to trust."""
    where = ("--server", table.settings.url, "--token", secret, "--state-dir", str(table.data.agent))
    return (*table.programs("edge_agent"), "enroll", *where, *table.trust())

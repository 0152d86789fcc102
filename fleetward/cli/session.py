"""How a command finds its server and its token, and what it knows of the server's kinds.

Flags first, then the environment, then the local `fleetward up` (its server.json and admin-token). The local token is never sent to any
other server. `connected` gives a command the options and a `Session`.
"""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import click

from fleetward.cli.documents import Document
from fleetward.cli.exits import CommandError, Exit
from fleetward.client import Client, Kind
from fleetward.layout import DataDir, default_data_dir

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Server:
    """`advertised`: the URL for other machines, where it is another one."""

    url: str
    token: str | None
    ca: Path | None
    advertised: str | None = None


@dataclass(frozen=True)
class Session:
    """One connection to one server, for one command."""

    client: Client
    ca: Path | None = None
    advertised: str | None = None

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(self.client.kinds())

    def kind(self, word: str) -> Kind:
        """The kind of that name, singular or plural, in any case."""
        wanted = word.lower().replace("_", "-")
        for kind in self.kinds:
            if wanted in (kind.kind, kind.collection):
                return kind
        raise CommandError(f"{word} is no kind; there is {', '.join(kind.kind for kind in self.kinds)}", Exit.USAGE)

    def kind_of(self, document: Document) -> Kind:
        """The kind of a document, named as in the API or in the plural. Raises CommandError saying where it stands."""
        try:
            return self.kind(document.kind)
        except CommandError as error:
            raise CommandError(f"{document.where}: kind: {error}", Exit.USAGE) from None


def discover(server: str | None, token: str | None, ca: str | None, data: DataDir) -> Server:
    """Raises CommandError where nothing says which server."""
    local = _local(data)
    trusted = Path(ca) if ca else None
    if server is None and local is None:
        raise CommandError(
            f"no server: start one with `fleetward up`, or give --server and --token (nothing runs on {data.root})", Exit.USAGE
        )
    if local is not None and server in (None, local.url, local.advertised):
        return replace(local, token=token or local.token, ca=trusted or local.ca)
    assert server is not None
    if "://" not in server:
        raise CommandError(f"--server {server}: give a URL, such as https://fleet.example:8080", Exit.USAGE)
    return Server(server, token, trusted)


def _local(data: DataDir) -> Server | None:
    """The `up` that runs on a data directory, if one does."""
    try:
        server = json.loads(data.server_json.read_text())
        url = str(server["url"])
        token = data.admin_token.read_text().strip()
    except PermissionError as error:
        raise CommandError(
            f"{error.filename} belongs to another user: run as that user, or give --server and --token", Exit.USAGE
        ) from None
    except (OSError, ValueError, KeyError):
        return None
    ca = data.secrets / "ca.crt"
    return Server(url, token, ca if url.startswith("https:") and ca.exists() else None, server.get("advertised"))


def connected(command: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """Adds --server, --token and --ca, and hands the command a Session first."""

    @click.option("--server", envvar="FLEETWARD_SERVER", metavar="URL", help="The server; else the local `fleetward up`.")
    @click.option("--token", envvar="FLEETWARD_TOKEN", metavar="TOKEN", help="Who you are to it.")
    @click.option("--ca", envvar="FLEETWARD_CA", metavar="FILE", help="Certificates to trust instead of the system's.")
    @functools.wraps(command)
    def wrapped(*args: Any, server: str | None, token: str | None, ca: str | None, **kwargs: Any) -> R:
        # The same three may stand before the command's name.
        outer = click.get_current_context().find_root().params
        found = discover(
            server or outer.get("server"), token or outer.get("token"), ca or outer.get("ca"), DataDir(default_data_dir(os.environ))
        )
        try:
            client = Client(found.url, found.token, ca=found.ca)
        except OSError as error:
            raise CommandError(f"{found.ca}: {error.strerror or error}", Exit.USAGE) from None
        with client:
            return command(Session(client, found.ca, found.advertised), *args, **kwargs)

    return cast(Callable[P, R], wrapped)

"""`fleetward doctor`: looks at this machine and at the server, and says what is wrong and what to do about it."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import click

from fleetward import __version__, owner, postgres, settings
from fleetward.cli import checkup
from fleetward.cli.checkup import Finding
from fleetward.cli.exits import CommandError, Exit, words_for
from fleetward.cli.session import discover
from fleetward.cli.terminal import echo
from fleetward.client import Client, ClientError
from fleetward.layout import DataDir, default_data_dir
from fleetward.preflight import Unusable, check_port

_FREE_BYTES = 1024**3
"""A database that can't write stops everything: below this much room, say so."""


@click.command()
def doctor() -> None:
    """Check this machine and the server; exit 2 when something needs doing."""
    findings = [*machine(), *server()]
    for one in findings:
        echo(f"{'ok ' if not one.advice else 'BAD'} {one.about}: {one.found}{f'; {one.advice}' if one.advice else ''}")
    if any(one.advice for one in findings):
        click.get_current_context().exit(int(Exit.USAGE))


def machine() -> Iterator[Finding]:
    yield Finding("fleetward", f"{__version__}, Python {sys.version.split()[0]}")
    yield _tried("PostgreSQL", lambda: f"{postgres.installed()[0].major()}, for user {owner.owner().name}")
    data = DataDir(default_data_dir(os.environ))
    yield _room(data)
    if not data.server_json.exists():
        for port, flag in ((settings.DEFAULT_HTTP_PORT, "--http-port"), (settings.DEFAULT_MQTT_PORT, "--mqtt-port")):
            yield _port(port, flag)


def server() -> Iterator[Finding]:
    environment = os.environ
    try:
        found = discover(
            environment.get("FLEETWARD_SERVER"),
            environment.get("FLEETWARD_TOKEN"),
            environment.get("FLEETWARD_CA"),
            DataDir(default_data_dir(environment)),
        )
    except CommandError as error:
        yield Finding("server", "none", str(error).removeprefix("no server: "))
        return
    with Client(found.url, found.token, ca=found.ca) as client:
        yield from asked(client)


def asked(client: Client) -> Iterator[Finding]:
    """What a server says of itself."""
    try:
        checks, theirs = client.readiness()
        yield Finding("server", client.server)
        yield from checkup.readiness(checks)
        yield from checkup.clock(theirs, datetime.now(UTC))
        yield _tried("token", lambda: f"of {client.whoami().get('name')}")
        if set(checks.values()) == {"ok"}:
            yield from checkup.numbers(checkup.parse(client.metrics()), __version__)
    except ClientError as error:
        yield Finding("server", client.server, f"{words_for(error)}: start it, or look at its logs")


def _port(port: int, flag: str) -> Finding:
    try:
        check_port("127.0.0.1", port, flag)
    except Unusable as error:
        return Finding(f"port {port}", "not usable", str(error))
    return Finding(f"port {port}", "free")


def _room(data: DataDir) -> Finding:
    place = next(path for path in (data.root, *data.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    advice = "" if writable else "choose another with --data-dir"
    if free < _FREE_BYTES:
        advice = "make room: less than 1 GiB is free"
    return Finding("data directory", f"{data.root} ({free / 1024**3:.1f} GiB free)", advice)


def _tried(about: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(about, look())
    except ClientError as error:
        return Finding(about, "refused", words_for(error))
    except (Unusable, postgres.PostgresError, LookupError) as error:
        return Finding(about, "no", str(error))

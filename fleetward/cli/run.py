"""What runs: `up` (all of it, here), and the roles on their own: broker, inventory, managers, web; and `migrate`.

A role's command becomes the role's process; flags of the shell here end up in its environment, flags of its own are handed on.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from fleetward import settings
from fleetward.cli.exits import CommandError, Exit
from fleetward.layout import DataDir, default_data_dir
from fleetward.services import modules


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="[default: /var/lib/fleetward for root, else ~/.local/share/fleetward]",
)
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where to listen; anything but loopback turns HTTPS on."
)
@click.option(
    "--http-port", type=click.IntRange(1, 65535), default=settings.DEFAULT_HTTP_PORT, show_default=True, help="Of API and dashboard."
)
@click.option("--mqtt-port", type=click.IntRange(1, 65535), default=settings.DEFAULT_MQTT_PORT, show_default=True, help="Of the broker.")
@click.option("--database", envvar="FLEETWARD_DATABASE", metavar="URL", help="A PostgreSQL that stands, instead of one of its own.")
@click.option(
    "--broker",
    envvar="FLEETWARD_BROKER",
    default="embedded",
    show_default=True,
    metavar="embedded|mosquitto|URL",
    help="Which broker; a URL is one that stands.",
)
@click.option("--advertise", multiple=True, metavar="NAME", help="A name or address devices reach this machine by; repeatable.")
@click.option("--no-agent", is_flag=True, help="Leave this machine itself out of the fleet.")
@click.option("--simulate", type=click.IntRange(min=0), default=0, metavar="N", help="Also run N simulated devices.")
def up(
    data_dir: Path | None,
    host: str,
    http_port: int,
    mqtt_port: int,
    database: str | None,
    broker: str,
    advertise: tuple[str, ...],
    no_agent: bool,
    simulate: int,
) -> None:
    """Run all of Fleetward on this machine, until Ctrl-C."""
    if broker not in ("embedded", "mosquitto") and "://" not in broker:
        raise CommandError(f"--broker {broker}: give embedded, mosquitto, or the URL of one that runs (mqtts://HOST:PORT)", Exit.USAGE)
    asked = settings.Up(
        data_dir=data_dir or default_data_dir(os.environ),
        host=host,
        http_port=http_port,
        mqtt_port=mqtt_port,
        database=database,
        broker=broker,
        advertise=advertise,
        agent=not no_agent,
        simulate=simulate,
    )
    # The other commands need none of the supervisor.
    from fleetward.up import up as run_up

    click.get_current_context().exit(run_up(asked, os.environ))


_HANDED_ON = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}


def _role(name: str, doc: str, module: str, *fixed: str, database_here: Callable[[], str | None] = lambda: None) -> click.Command:
    """A command that becomes `python -m MODULE`. The three that services take are flags here, whatever else is given goes through.
    `database_here`: which one it is for where none is given."""

    @click.command(name=name, help=doc, context_settings=_HANDED_ON)
    @click.option("--database", envvar="FLEETWARD_DATABASE", metavar="URL", help="The PostgreSQL.")
    @click.option("--broker", envvar="FLEETWARD_BROKER", metavar="URL", help="The MQTT broker.")
    @click.option("--secrets", envvar="FLEETWARD_SECRETS", metavar="DIR", help="Certificates and keys.")
    @click.argument("more", nargs=-1, type=click.UNPROCESSED)
    def role(database: str | None, broker: str | None, secrets: str | None, more: tuple[str, ...]) -> None:
        given = {"FLEETWARD_DATABASE": database or database_here(), "FLEETWARD_BROKER": broker, "FLEETWARD_SECRETS": secrets}
        _become((*modules(module), *fixed, *more), os.environ | {name: value for name, value in given.items() if value})

    return role


class _RunsByDefault(click.Group):
    """`fleetward broker --host …` is `fleetward broker run --host …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        runs = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["run", *args] if runs else args)


@click.group(cls=_RunsByDefault)
def broker() -> None:
    """The MQTT broker: run one, or print the configuration of one of your own and keep that up to date."""


def _broker_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("more", nargs=-1, type=click.UNPROCESSED),
        click.option(
            "--topic-root", envvar="FLEETWARD_TOPIC_ROOT", default="fleet", show_default=True, help="The first level of all topics."
        ),
        click.option("--secrets", envvar="FLEETWARD_SECRETS", metavar="DIR", help="Certificates and keys; else those of the local `up`."),
    ):
        command = option(command)
    return command


@broker.command(name="run", context_settings=_HANDED_ON)
@_broker_options
def run_broker(secrets: str | None, topic_root: str, more: tuple[str, ...]) -> None:
    """Run the MQTT broker, which is what `fleetward broker` does by itself: --kind embedded|mosquitto, --host, --port, --data."""
    given = secrets or _secrets(None)  # what is given the broker checks itself, after its flags
    _become((*modules("broker"), "--secrets", given, "--topic-root", topic_root, *more), dict(os.environ))


@broker.command(name="config", context_settings=_HANDED_ON)
@click.argument("kind", type=click.Choice(["mosquitto", "emqx"]))
@_broker_options
def broker_config(kind: str, secrets: str | None, topic_root: str, more: tuple[str, ...]) -> None:
    """Print the complete configuration of a broker of your own, with the rules of this installation: --host, --port, --user, --data (where
    its files will be), --out DIR (write them there)."""
    given = ("--secrets", _secrets(secrets), "--topic-root", topic_root, *more)
    _become((*modules("broker"), "config", kind, *given), dict(os.environ))


@broker.command(name="follow", context_settings=_HANDED_ON)
@_broker_options
def broker_follow(secrets: str | None, topic_root: str, more: tuple[str, ...]) -> None:
    """Run beside a Mosquitto of your own, so that revoked certificates are cut and kept out there too: --broker URL, --data (where its
    files are), --reload COMMAND (has it read them again)."""
    given = ("--secrets", _secrets(secrets), "--topic-root", topic_root, *more)
    _become((*modules("broker"), "follow", *given), dict(os.environ))


def _secrets(given: str | None) -> str:
    found = Path(given) if given else DataDir(default_data_dir(os.environ)).secrets
    if not found.exists():
        raise CommandError(f"{found} is not there: give --secrets, or start `fleetward up` once", Exit.USAGE)
    return str(found.absolute())


def _become(command: tuple[str, ...], environment: dict[str, str]) -> None:
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def _local_database() -> str | None:
    """The PostgreSQL of the `up` that runs here, where it has one of its own."""
    from fleetward.postgres import url_within

    data = DataDir(default_data_dir(os.environ))
    return url_within(data.postgres) if data.server_json.exists() else None


inventory: click.Command = _role("inventory", "Run the Inventory service.", "inventory")
managers: click.Command = _role("managers", "Run the Resource Managers.", "managers")
web: click.Command = _role("web", "Run the API and the dashboard: --host, --port, --tls.", "web")
migrate: click.Command = _role(
    "migrate",
    "Bring a database to this release's schema; without --database that of the `fleetward up` that runs here.",
    "inventory",
    "migrate",
    database_here=_local_database,
)

"""The `fleetward` command itself: its commands, one visible list, and what becomes of an error."""

import sys
from typing import Any

import click

from fleetward import __version__
from fleetward.cli import (
    accounts,
    apply,
    audit,
    authority,
    backups,
    certificates,
    doctor,
    enrolling,
    events,
    resources,
    run,
    secrets,
    tokens,
    wait,
)
from fleetward.cli.configuration import complete_environment
from fleetward.cli.exits import CommandError, Exit, code_for, words_for
from fleetward.cli.terminal import echo
from fleetward.client import ClientError

COMMANDS: tuple[click.Command, ...] = (
    resources.get,
    resources.describe,
    resources.create,
    resources.edit,
    resources.delete,
    resources.label,
    resources.retry,
    resources.explain,
    apply.apply,
    apply.diff,
    wait.wait,
    events.events,
    audit.audit,
    tokens.token,
    enrolling.waiting,
    enrolling.approve,
    enrolling.reject,
    enrolling.preregister,
    tokens.integration,
    accounts.user,
    accounts.sessions,
    accounts.api_token,
    run.up,
    run.broker,
    run.inventory,
    run.managers,
    run.web,
    run.migrate,
    doctor.doctor,
    backups.back_up,
    backups.restore,
    certificates.certificate,
    authority.authority,
    secrets.secrets,
)


class Fleetward(click.Group):
    """Commands in the order of the list, and errors as one line with the contract's exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [str(command.name) for command in COMMANDS]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            _give_up(ctx, str(error), error.code)
        except ClientError as error:
            _give_up(ctx, words_for(error), code_for(error))


def _give_up(ctx: click.Context, text: str, code: Exit) -> None:
    echo(f"fleetward: {text}", err=True)
    ctx.exit(int(code))


def _told_whole(command: click.Command) -> None:
    """Lists of commands wrap the first sentence of each; click would cut it off at the width of the terminal."""
    text = " ".join((command.help or "").split("\n\n")[0].split())
    command.short_help = text.split(". ")[0].removesuffix(".") + "."
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        _told_whole(each)


@click.group(cls=Fleetward, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--server", envvar="FLEETWARD_SERVER", metavar="URL", help="The server; else the local `fleetward up`.")
@click.option("--token", envvar="FLEETWARD_TOKEN", metavar="TOKEN", help="Who you are to it.")
@click.option("--ca", envvar="FLEETWARD_CA", metavar="FILE", help="Certificates to trust instead of the system's.")
@click.version_option(__version__)
def cli(server: str | None, token: str | None, ca: str | None) -> None:
    """Keep a fleet of edge machines in the state you asked for."""


for _command in COMMANDS:
    _told_whole(_command)
    cli.add_command(_command)


def main() -> None:
    """The console script. Ctrl-C ends a watch without a word."""
    try:
        complete_environment()
        cli(prog_name="fleetward")
    except CommandError as error:
        echo(f"fleetward: {error}", err=True)
        sys.exit(int(error.code))
    except KeyboardInterrupt:
        sys.exit(130)

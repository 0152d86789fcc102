"""docs/cli.md, written from the commands themselves: `python -m fleetward.cli.reference > docs/cli.md`. A test keeps the two equal."""

from collections.abc import Iterator

import click

from fleetward.cli.entry import COMMANDS
from fleetward.cli.exits import Exit
from fleetward.cli.terminal import echo

_HEAD = """\
# The `fleetward` command

Written by `python -m fleetward.cli.reference`. KIND may be singular or plural; `KIND/NAME` works wherever KIND and NAME do. The server
and the token come from flags, from the environment, or from the `fleetward up` that runs here. Roles read `fleetward.toml`
(`$FLEETWARD_CONFIG`, else `./fleetward.toml`, else `/etc/fleetward.toml`), with keys like `database` for `FLEETWARD_DATABASE`.

Data goes to standard output, talk to standard error. `NO_COLOR` is respected.
"""
_EXITS = {
    Exit.OK: "done",
    Exit.FAILED: "it failed",
    Exit.USAGE: "the command line or the surroundings: a filter that is none, no server, no valid token, a file that can't be read",
    Exit.NOT_FOUND: "there is no such resource",
    Exit.CONFLICT: "in use, taken, changed meanwhile, or not allowed from this state",
    Exit.TIMED_OUT: "time was up",
}


def reference() -> str:
    """The whole page."""
    parts = [_HEAD, "| exit | means |\n|---|---|\n" + "".join(f"| {code.value} | {words} |\n" for code, words in _EXITS.items())]
    parts += [section for command in COMMANDS for section in _sections(command, "fleetward")]
    return "\n".join(parts)


def _sections(command: click.Command, above: str) -> Iterator[str]:
    name = f"{above} {command.name}"
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _sections(inner, name)
        return
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {name}\n\n`{name} {usage}`\n\n{' '.join((command.help or '').split())}\n{_options(command, context)}"


def _options(command: click.Command, context: click.Context) -> str:
    records = [one.get_help_record(context) for one in command.params if isinstance(one, click.Option)]
    rows = [f"| `{_cell(flags)}` | {_cell(text)} |" for flags, text in (record for record in records if record is not None)]
    return "\n| option | |\n|---|---|\n" + "".join(f"{row}\n" for row in rows) if rows else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    echo(reference(), nl=False)

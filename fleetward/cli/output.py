"""Printing in the format asked for with -o: data to standard output, talk to standard error, colour only for people."""

import os
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

import click

from fleetward.cli import render
from fleetward.client import Json, Kind, Resource

_GOOD = {"online", "Reconciled", "present", "onboarded", "succeeded"}
_BAD = {"offline", "failed", "Halted", "untrusted", "critical", "error"}
_WORTH_A_LOOK = {"stale", "Retrying", "Drifted", "drifted", "warning", "Pending", "WaitingForDevice", "WaitingForApproval"}


class Format(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    JSONL = "jsonl"
    NAME = "name"


format_option = click.option(
    "-o", "--output", "output", type=click.Choice([one.value for one in Format]), default=Format.TABLE.value, help="How to print."
)


def talk(text: str) -> None:
    """To the person, not to the pipe."""
    click.echo(text, err=True)


def reference(resource: Resource) -> str:
    """`kind/name`, as other commands take it."""
    return f"{resource.get('kind')}/{resource.get('name') or resource.get('id')}"


def now() -> datetime:
    return datetime.now(UTC)


def show_list(kind: Kind, resources: list[Resource], listing: Json, output: str, names: Mapping[str, str] | None = None) -> None:
    """`listing` is the API's answer around the items, for JSON; `names` are for the ids in a table."""
    match Format(output):
        case Format.JSON:
            click.echo(render.to_json(listing | {"items": resources}))
        case Format.YAML:
            for resource in resources:
                click.echo("---\n" + render.to_yaml(resource), nl=False)
        case Format.JSONL:
            for resource in resources:
                click.echo(render.to_json_line(resource))
        case Format.NAME:
            for resource in resources:
                click.echo(reference(resource))
        case Format.TABLE | Format.WIDE as chosen:
            shown = render.columns(kind, wide=chosen is Format.WIDE)
            show_table([render.title(column) for column in shown], render.rows(resources, shown, now(), names))
            if not resources:
                talk(f"no {kind.collection}")


def show_one(kind: Kind, resource: Resource, output: str, names: Mapping[str, str] | None = None) -> None:
    match Format(output):
        case Format.JSON:
            click.echo(render.to_json(resource))
        case Format.YAML:
            click.echo(render.to_yaml(resource), nl=False)
        case _:
            show_list(kind, [resource], {}, output, names)


def show_done(resource: Resource, what: str, output: str) -> None:
    """The outcome of a write: a line, or with a format the resource itself."""
    match Format(output):
        case Format.JSON:
            click.echo(render.to_json(resource))
        case Format.YAML:
            click.echo(render.to_yaml(resource), nl=False)
        case Format.JSONL:
            click.echo(render.to_json_line(resource))
        case Format.NAME:
            click.echo(reference(resource))
        case Format.TABLE | Format.WIDE:
            click.echo(f"{reference(resource)} {what}")


def show_table(head: list[str], body: Iterable[list[str]]) -> None:
    lines = render.table(head, list(body))
    for number, line in enumerate(lines):
        click.echo(line if number == 0 and head else coloured(line))


def coloured(line: str) -> str:
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return line
    for words, colour in ((_GOOD, "green"), (_BAD, "red"), (_WORTH_A_LOOK, "yellow")):
        for word in words:
            line = line.replace(f"  {word}  ", f"  {click.style(word, fg=colour)}  ")
    return line

"""Printing in the format asked for with -o: data to standard output, talk to standard error."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

import click

from fleetward.cli import render
from fleetward.cli.terminal import echo
from fleetward.client import Json, Kind, Resource


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
    echo(text, err=True)


def reference(resource: Resource) -> str:
    """`kind/name`, as other commands take it."""
    return f"{resource.get('kind')}/{resource.get('name') or resource.get('id')}"


def now() -> datetime:
    return datetime.now(UTC)


def show_list(kind: Kind, resources: list[Resource], listing: Json, output: str, names: Mapping[str, str] | None = None) -> None:
    """`listing` is the API's answer around the items, for JSON; `names` are for the ids in a table."""
    match Format(output):
        case Format.JSON:
            echo(render.to_json(listing | {"items": resources}))
        case Format.YAML:
            for resource in resources:
                echo("---\n" + render.to_yaml(resource), nl=False)
        case Format.JSONL:
            for resource in resources:
                echo(render.to_json_line(resource))
        case Format.NAME:
            for resource in resources:
                echo(reference(resource))
        case Format.TABLE | Format.WIDE as chosen:
            shown = render.columns(kind, wide=chosen is Format.WIDE)
            show_table([render.title(column) for column in shown], render.rows(resources, shown, now(), names))
            if not resources:
                talk(f"no {kind.collection}")


def show_one(kind: Kind, resource: Resource, output: str, names: Mapping[str, str] | None = None) -> None:
    match Format(output):
        case Format.JSON:
            echo(render.to_json(resource))
        case Format.YAML:
            echo(render.to_yaml(resource), nl=False)
        case _:
            show_list(kind, [resource], {}, output, names)


def show_done(resource: Resource, what: str, output: str) -> None:
    """The outcome of a write: a line, or with a format the resource itself."""
    match Format(output):
        case Format.JSON:
            echo(render.to_json(resource))
        case Format.YAML:
            echo(render.to_yaml(resource), nl=False)
        case Format.JSONL:
            echo(render.to_json_line(resource))
        case Format.NAME:
            echo(reference(resource))
        case Format.TABLE | Format.WIDE:
            echo(f"{reference(resource)} {what}")


def show_table(head: list[str], body: Iterable[list[str]]) -> None:
    lines = render.table(head, list(body))
    for number, line in enumerate(lines):
        echo(line, coloured=number > 0 or not head)

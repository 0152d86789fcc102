"""`fleetward events`: the change log, its newest part or live."""

import click

from fleetward.cli import render
from fleetward.cli.output import format_option, now, show_table
from fleetward.cli.session import Session, connected
from fleetward.cli.terminal import echo
from fleetward.cli.watching import following
from fleetward.client import Event


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Go on showing what happens.")
@click.option("--after", type=click.IntRange(min=0), metavar="POSITION", help="Only what came after this position.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind; repeatable.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this resource; repeatable.")
@format_option
@connected
def events(session: Session, watch: bool, after: int | None, kinds: tuple[str, ...], ids: tuple[str, ...], output: str) -> None:
    """Show what changed: the newest changes or those after a position; with --watch what is to come, after a position or from now on."""
    wanted = tuple(session.kind(kind).kind for kind in kinds)
    if watch:
        for event in following(session.client, after, wanted, ids):
            show(event, output)
        return
    found, upto = session.client.events(after=after, kinds=wanted, ids=ids)
    if output == "json":
        echo(render.to_json({"items": [event.body for event in found], "next": upto}))
    elif output in ("table", "wide"):
        show_table(["POSITION", "AGE", "OP", "RESOURCE", "CHANGED", "BY"], [row(event) for event in found])
    else:
        for event in found:
            show(event, output)


def show(event: Event, output: str) -> None:
    match output:
        case "json" | "jsonl":
            echo(render.to_json_line(event.body))
        case "yaml":
            echo("---\n" + render.to_yaml(event.body), nl=False)
        case "name":
            echo(named(event))
        case _:
            echo("  ".join(row(event)))


def row(event: Event) -> list[str]:
    when = render.age(str(event.body.get("at")), now())
    return [str(event.position), when, event.what, named(event), render.cell("changed", event.changed, now()), event.actor or "-"]


def named(event: Event) -> str:
    return f"{event.kind}/{event.resource.get('name') or event.id}"

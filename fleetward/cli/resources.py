"""Commands on single resources and lists: get, describe, create, edit, delete, label, retry, explain."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

from fleetward.cli import render, watching
from fleetward.cli.describing import description
from fleetward.cli.documents import parse, scalar
from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.naming import names_for
from fleetward.cli.output import Format, format_option, now, reference, show_done, show_list, show_one, talk
from fleetward.cli.session import Session, connected
from fleetward.cli.terminal import echo
from fleetward.client import PAGE_SIZE, Client, Json, Kind, NotFound, Resource

dry_run_option = click.option("--dry-run", is_flag=True, help="Check it and show the outcome; write nothing.")


def targets(session: Session, kind: str, names: tuple[str, ...]) -> tuple[Kind, tuple[str, ...]]:
    """`host a b`, `hosts a b` and `host/a` are all taken."""
    word, slash, name = kind.partition("/")
    if slash and not names:
        names = (name,)
    return session.kind(word), names


def one_target(session: Session, kind: str, name: str | None) -> tuple[Kind, str]:
    found, names = targets(session, kind, (name,) if name else ())
    if not names:
        raise CommandError(f"which {found.kind}? Give its name or id", Exit.USAGE)
    return found, names[0]


@click.command()
@click.argument("kind")
@click.argument("names", nargs=-1, metavar="[NAME|ID]...")
@click.option("--filter", "filter_", metavar="EXPRESSION", help="""Such as 'presence = "online" AND labels.line = "4"'.""")
@click.option("--sort", metavar="FIELDS", help="Such as 'name' or '-last_seen,name'.")
@click.option("-w", "--watch", is_flag=True, help="Go on showing what changes.")
@format_option
@connected
def get(session: Session, kind: str, names: tuple[str, ...], filter_: str | None, sort: str | None, watch: bool, output: str) -> None:
    """Show resources of a KIND: all, those that match a filter, or those named."""
    found, names = targets(session, kind, names)
    if names and (filter_ or sort):
        raise CommandError("give names, or --filter and --sort", Exit.USAGE)
    if watch:
        watching.watch(session, found, names, filter_, order_by(sort), output)
    elif not names:
        items, listing = everything(session.client, found, filter_, order_by(sort))
        show_list(found, items, listing, output, names_for(session, found, items, output))
    else:
        items = [session.client.get(found.collection, name) for name in names]
        referred = names_for(session, found, items, output)
        if len(items) == 1:
            show_one(found, items[0], output, referred)
        else:
            show_list(found, items, {}, output, referred)


def order_by(sort: str | None) -> str | None:
    """`-last_seen,name` as AIP-132 has it: `last_seen desc, name`."""
    if not sort:
        return None
    fields = [field.strip() for field in sort.split(",")]
    return ", ".join(f"{field[1:]} desc" if field.startswith("-") else field for field in fields)


def everything(client: Client, kind: Kind, filter_: str | None, order: str | None) -> tuple[list[Resource], Json]:
    """All that match, and the API's answer around them: the position is that of the first page, from where a watch goes on."""
    page = client.page(kind.collection, filter=filter_, order_by=order, page_size=PAGE_SIZE)
    items, position = page.items, page.position
    while page.next_page_token is not None:
        page = client.page(kind.collection, filter=filter_, order_by=order, page_size=PAGE_SIZE, page_token=page.next_page_token)
        items += page.items
    return items, {"items": items, "next_page_token": None, "position": position}


@click.command()
@click.argument("kind")
@click.argument("name", required=False, metavar="[NAME|ID]")
@connected
def describe(session: Session, kind: str, name: str | None) -> None:
    """Tell everything about one resource: its fields, why it is as it is, its last changes."""
    found, one = one_target(session, kind, name)
    resource = session.client.get(found.collection, one)
    explained = _or_nothing(session, found, resource)
    changes = session.client.changes(found.collection, str(resource["id"]))
    for line in description(found, resource, explained, changes, now()):
        echo(line)


def _or_nothing(session: Session, kind: Kind, resource: Resource) -> Json:
    """Kinds without a state of their own have nothing to explain."""
    try:
        return session.client.explain(kind.collection, str(resource["id"]))
    except NotFound:
        return {}


@click.command()
@click.argument("kind")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A field's value, written as in YAML; repeatable.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; repeatable.")
@click.option("--title", help="Free text for people.")
@dry_run_option
@format_option
@connected
def create(
    session: Session,
    kind: str,
    name: str | None,
    settings: tuple[str, ...],
    labels: tuple[str, ...],
    title: str | None,
    dry_run: bool,
    output: str,
) -> None:
    """Create a resource of a KIND. From files: `fleetward apply -f`."""
    found, names = targets(session, kind, (name,) if name else ())
    body: Json = {"name": names[0]} if names else {}
    for setting in settings:
        field, value = pair(setting, "--set")
        body[field] = scalar(value)
    if labels:
        body["labels"] = dict(pair(label, "--label") for label in labels)
    if title is not None:
        body["title"] = title
    made = session.client.create(found.collection, body, dry_run=dry_run)
    show_done(made, "would be created" if dry_run else "created", output)


def pair(text: str, flag: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise CommandError(f"{flag} {text}: must be KEY=VALUE", Exit.USAGE)
    return key, value


@click.command()
@click.argument("kind")
@click.argument("name", required=False, metavar="[NAME|ID]")
@format_option
@connected
def edit(session: Session, kind: str, name: str | None, output: str) -> None:
    """Change a resource in your editor ($VISUAL, $EDITOR, else vi)."""
    found, one = one_target(session, kind, name)
    resource = session.client.get(found.collection, one)
    before = {key: value for key, value in resource.items() if key in settable(found) or key in ("kind", "name")}
    text = _edited(f"# {reference(resource)}. Save to apply; leave it unchanged to do nothing.\n{render.to_yaml(before)}")
    documents = parse("the edited text", text)
    after = documents[0].body if documents else before
    patch = merge_patch({key: value for key, value in before.items() if key != "kind"}, {key: after[key] for key in after if key != "kind"})
    if not patch:
        talk("nothing changed")
        return
    show_done(session.client.patch(found.collection, str(resource["id"]), patch, version=int(resource["version"])), "changed", output)


def settable(kind: Kind) -> frozenset[str]:
    """The fields that a user owns."""
    return frozenset(str(field["name"]) for field in kind.fields if field.get("owner") == "user") | {"title", "labels"}


def merge_patch(before: Any, after: Json) -> Json:
    """RFC 7396: what turns one object into the other; null for what is gone."""
    patch: Json = {}
    for key in {**before, **after}:
        if key not in after:
            patch[key] = None
        elif key not in before or before[key] != after[key]:
            both = isinstance(before.get(key), dict) and isinstance(after[key], dict)
            patch[key] = merge_patch(before[key], after[key]) if both else after[key]
    return patch


def _edited(text: str) -> str:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="fleetward-") as directory:
        path = Path(directory) / "resource.yaml"
        path.write_text(text)
        try:
            code = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
        except OSError as error:
            raise CommandError(f"{editor}: {error.strerror}: set EDITOR to your editor", Exit.USAGE) from None
        if code != 0:
            raise CommandError(f"{editor} ended with {code}: nothing was changed")
        return path.read_text()


@click.command()
@click.argument("kind")
@click.argument("names", nargs=-1, metavar="NAME|ID...")
@click.option("--force", is_flag=True, help="Drop it without waiting for the device, on which something may remain.")
@dry_run_option
@connected
def delete(session: Session, kind: str, names: tuple[str, ...], force: bool, dry_run: bool) -> None:
    """Delete resources. What a device has to undo first is gone when it has said so."""
    found, names = targets(session, kind, names)
    if not names:
        raise CommandError(f"which {found.kind}? Give names or ids", Exit.USAGE)
    for name in names:
        left = session.client.delete(found.collection, name, force=force, dry_run=dry_run)
        outcome = "deleted" if left is None else "is being deleted; it goes when that is confirmed"
        echo(f"{found.kind}/{name} {'would be ' if dry_run else ''}{'deleted' if dry_run else outcome}")


@click.command()
@click.argument("kind")
@click.argument("words", nargs=-1, required=True, metavar="NAME|ID KEY=VALUE|KEY-...")
@format_option
@connected
def label(session: Session, kind: str, words: tuple[str, ...], output: str) -> None:
    """Set labels of a resource (KEY=VALUE), or take them away (KEY-)."""
    named = () if "/" in kind else words[:1]
    found, [name] = targets(session, kind, named)
    labels = words[len(named) :]
    if not labels:
        raise CommandError("which labels? Give KEY=VALUE, or KEY- to take one away", Exit.USAGE)
    changes: dict[str, str | None] = {}
    for one in labels:
        if one.endswith("-") and "=" not in one:
            changes[one[:-1]] = None
        else:
            key, value = pair(one, "label")
            changes[key] = value
    show_done(session.client.patch(found.collection, name, {"labels": changes}), "labelled", output)


@click.command()
@click.argument("kind")
@click.argument("name", required=False, metavar="[NAME|ID]")
@format_option
@connected
def retry(session: Session, kind: str, name: str | None, output: str) -> None:
    """Have another go at a resource that halted."""
    found, one = one_target(session, kind, name)
    show_done(session.client.verb(found.collection, one, "retry"), "will be tried again", output)


@click.command()
@click.argument("kind")
@click.argument("name", required=False, metavar="[NAME|ID]")
@format_option
@connected
def explain(session: Session, kind: str, name: str | None, output: str) -> None:
    """Say why a resource is not as it was asked for."""
    found, one = one_target(session, kind, name)
    told = session.client.explain(found.collection, one)
    match Format(output):
        case Format.JSON:
            echo(render.to_json(told))
        case Format.JSONL:
            echo(render.to_json_line(told))
        case Format.YAML:
            echo(render.to_yaml(told), nl=False)
        case Format.NAME:
            echo(f"{found.kind}/{one}")
        case Format.TABLE | Format.WIDE:
            for line in render.story(told, now()):
                echo(line)

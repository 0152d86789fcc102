"""`fleetward apply` and `fleetward diff`: files say what is wanted; the server says what that changes.

A document whose name is not there is created, any other is a merge patch of the given fields alone: what a file does not mention is left as
it is. Documents that refer to each other are put in order, and all of them are tried before the first is written. `--prune` deletes what an
earlier `apply` of the same places from this machine named and the files no longer do; that memory is local (`fleetward.cli.applied`).
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field

import click

from fleetward.cli import applied, render
from fleetward.cli.documents import Document, read
from fleetward.cli.exits import CommandError, Exit, code_for
from fleetward.cli.output import Format, format_option, reference, talk
from fleetward.cli.session import Session, connected
from fleetward.cli.terminal import echo
from fleetward.client import ApiError, Client, Json, Kind, NotFound, Resource

_UNINTERESTING = (
    "id",
    "version",
    "generation",
    "observed_generation",
    "status",
    "created_at",
    "updated_at",
    "facts",
    "last_seen",
    "pending",
)

files_option = click.option(
    "-f",
    "--filename",
    "places",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="YAML documents: a file, all files of a directory, or standard input; repeatable.",
)


@click.command()
@files_option
@click.option("--prune", is_flag=True, help="Delete what an earlier apply of the same places named and the files no longer do.")
@click.option("--dry-run", is_flag=True, help="Check all of it and show the outcome; write nothing.")
@format_option
@connected
def apply(session: Session, places: tuple[str, ...], prune: bool, dry_run: bool, output: str) -> None:
    """Bring about what YAML documents say, keyed by kind and name."""
    documents = [(session.kind_of(document), document) for document in read(places)]
    memory = applied.Memory.of(session.client.server, places)
    outcome: list[Resource] = []
    ordered = in_order(documents)
    if not dry_run:
        _rehearse(session.client, ordered)
    applier = Applier(session.client, dry_run)
    for kind, document in ordered:
        _, resource, what = applier.one(kind, document)
        outcome.append(resource)
        _say(resource, f"{what}{' (dry run)' if dry_run else ''}", output)
        if not dry_run:
            memory.add(kind.collection, document.name)
    if prune:
        _prune(session, memory, {(kind.collection, document.name) for kind, document in documents}, dry_run)
    if Format(output) is Format.JSON:
        echo(render.to_json({"items": outcome}))


def _rehearse(client: Client, ordered: list[tuple[Kind, Document]]) -> None:
    """See what all of it would do before any of it is done: one wrong document must not leave the others half applied. A single one is
    written whole or not at all anyhow. Raises CommandError."""
    if len(ordered) > 1:
        rehearsal = Applier(client, dry_run=True)
        for kind, document in ordered:
            rehearsal.one(kind, document)


@dataclass(slots=True)
class Applier:
    """Applies documents, or asks what that would do. `rehearsed` are those that a dry run has been through: by now they would be there,
    as their documents say."""

    client: Client
    dry_run: bool
    rehearsed: set[tuple[str, str]] = field(default_factory=set)

    def one(self, kind: Kind, document: Document) -> tuple[Resource | None, Resource, str]:
        """Create or patch: the resource before and after, and what became of it. Raises CommandError saying where the document stands."""
        before = found(self.client, kind, document.name)
        body = document.body if before is None else to_set(document.body, before)
        try:
            after = self._written(kind, before, body)
        except ApiError as error:
            if not self._only_awaits(error, kind, document):
                raise CommandError(f"{document.where}: {error}", code_for(error)) from error
            after = {"kind": kind.kind, **(before or {}), **body}
        if self.dry_run:
            self.rehearsed.add((kind.kind, document.name))
        if before is None:
            return None, after, "created"
        return before, after, "unchanged" if comparable(after) == comparable(before) else "configured"

    def _written(self, kind: Kind, before: Resource | None, body: Json) -> Resource:
        if before is None:
            return self.client.create(kind.collection, body, dry_run=self.dry_run)
        return self.client.patch(kind.collection, str(before["id"]), body, dry_run=self.dry_run) if body else before

    def _only_awaits(self, error: ApiError, kind: Kind, document: Document) -> bool:
        """Whether all that the server objects to are references to what a dry run has not really written."""
        awaited = {f"/{name}" for name, to in references(kind, document.body) if to in self.rehearsed}
        return bool(error.errors) and all(problem.pointer in awaited for problem in error.errors)


def to_set(body: Json, before: Resource) -> Json:
    """The given fields that differ from what is there: an exported document also names fields that are not the user's to set."""
    return {key: value for key, value in body.items() if key not in before or before[key] != value}


def comparable(resource: Resource) -> Json:
    """Without what changes by itself, or because something else did."""
    return {key: value for key, value in resource.items() if key not in _UNINTERESTING}


def found(client: Client, kind: Kind, name: str) -> Resource | None:
    try:
        return client.get(kind.collection, name)
    except NotFound:
        return None


def in_order(documents: list[tuple[Kind, Document]]) -> list[tuple[Kind, Document]]:
    """Stable, but what a document refers to comes before it. A circle is left to the server to refuse."""
    by_key = {(kind.kind, document.name): (kind, document) for kind, document in documents}
    ordered: dict[tuple[str, str], tuple[Kind, Document]] = {}

    def place(key: tuple[str, str], above: frozenset[tuple[str, str]]) -> None:
        if key in ordered or key in above or key not in by_key:
            return
        kind, document = by_key[key]
        for _, needed in references(kind, document.body):
            place(needed, above | {key})
        ordered[key] = (kind, document)

    for key in by_key:
        place(key, frozenset())
    return list(ordered.values())


def references(kind: Kind, body: Json) -> Iterator[tuple[str, tuple[str, str]]]:
    """The fields that refer to something, each with the kind and the name (or id) it refers to."""
    for one in kind.fields:
        name, to = str(one["name"]), one.get("reference")
        target = to.get("kind") if isinstance(to, dict) else to
        if isinstance(target, str) and isinstance(body.get(name), str):
            yield name, (target, body[name])


def _prune(session: Session, memory: applied.Memory, kept: set[tuple[str, str]], dry_run: bool) -> None:
    if not memory.existed:
        talk("nothing to prune: these places have not been applied from this machine before")
    for collection, name in [entry for entry in reversed(memory.entries()) if entry not in kept]:
        shown = f"{session.kind(collection).kind}/{name}"
        try:
            session.client.delete(collection, name, dry_run=dry_run)
            echo(f"{shown} pruned{' (dry run)' if dry_run else ''}")
        except NotFound:
            talk(f"{shown} was gone already")
        if not dry_run:
            memory.forget(collection, name)


def _say(resource: Resource, what: str, output: str) -> None:
    match Format(output):
        case Format.TABLE | Format.WIDE:
            echo(f"{reference(resource)} {what}")
        case Format.NAME:
            echo(reference(resource))
        case Format.JSONL:
            echo(render.to_json_line(resource))
        case Format.YAML:
            echo("---\n" + render.to_yaml(resource), nl=False)
        case Format.JSON:
            talk(f"{reference(resource)} {what}")


@click.command()
@files_option
@click.option("--exit-code", is_flag=True, help="Exit 1 when something differs.")
@connected
def diff(session: Session, places: tuple[str, ...], exit_code: bool) -> None:
    """Show what `apply` would change, as the server sees it."""
    different = False
    applier = Applier(session.client, dry_run=True)
    for kind, document in in_order([(session.kind_of(document), document) for document in read(places)]):
        before, after, _ = applier.one(kind, document)
        for line in difference(before, after, document):
            different = True
            echo(line)
    if different and exit_code:
        click.get_current_context().exit(int(Exit.FAILED))


def difference(before: Resource | None, after: Resource, document: Document) -> Iterator[str]:
    """A unified diff of a resource before and after."""
    name = reference(after)
    old, new = (render.to_yaml(comparable(one)).splitlines() if one else [] for one in (before, after))
    return difflib.unified_diff(old, new, name, f"{name} in {document.file}", lineterm="")

"""`get --watch`: a list, and then what changes, without a hole between the two. `following` is the stream that never ends by itself.

With a filter the server is asked anew about each resource that changed, because filters are evaluated in one place only.
"""

import time
from collections.abc import Iterator, Sequence

from fleetward.cli import render
from fleetward.cli.naming import names_for
from fleetward.cli.output import Format, now, reference, talk
from fleetward.cli.session import Session
from fleetward.cli.terminal import echo
from fleetward.client import Client, Event, Kind, Resource, Unreachable

_RECONNECT_SECONDS = 1.0
_GONE = {"deleted": "deleted", "left": "left your scope"}


def following(client: Client, after: int | None, kinds: Sequence[str] = (), ids: Sequence[str] = ()) -> Iterator[Event]:
    """Changes for ever, over broken connections. Raises NotFound when the change log no longer reaches back to where it was."""
    said = False
    while True:
        try:
            for event in client.stream(after=after, kinds=kinds, ids=ids):
                after, said = event.position, False
                yield event
        except Unreachable as error:
            if after is None:
                # Nothing seen yet: there is no position to come back to without a hole.
                raise
            if not said:
                talk(f"{error}; trying again")
                said = True
        time.sleep(_RECONNECT_SECONDS)


def watch(session: Session, kind: Kind, names: tuple[str, ...], filter_: str | None, order: str | None, output: str) -> None:
    """Print what there is, then each change, until interrupted."""
    client = session.client
    page = client.page(kind.collection, filter=filter_, order_by=order, page_size=1000)
    chosen = [one for one in page.items if not names or one.get("name") in names or one["id"] in names]
    printer = _Printer(session, kind, Format(output))
    ids = tuple(str(client.get(kind.collection, name)["id"]) for name in names)
    printer.first(chosen)
    for event in following(client, page.position, (kind.kind,), ids):
        shown = event.resource if event.op == "deleted" or filter_ is None else _matching(client, kind, event.id, filter_)
        if shown is not None:
            printer.one(shown, _GONE.get(event.what, ""))


def _matching(client: Client, kind: Kind, one: str, filter_: str) -> Resource | None:
    """The resource as it is, if it matches."""
    page = client.page(kind.collection, filter=f'({filter_}) AND id = "{one}"')
    return page.items[0] if page.items else None


class _Printer:
    """Rows keep the widths of the first table, so that what comes later stands below it."""

    def __init__(self, session: Session, kind: Kind, output: Format) -> None:
        self._session = session
        self._kind = kind
        self._format = output
        self._columns = render.columns(kind, wide=output is Format.WIDE)
        self._widths: list[int] = []

    def first(self, resources: list[Resource]) -> None:
        if self._format not in (Format.TABLE, Format.WIDE):
            for resource in resources:
                self.one(resource, "")
            return
        head = [render.title(column) for column in self._columns]
        body = render.rows(resources, self._columns, now(), names_for(self._session, self._kind, resources, self._format))
        self._widths = [max(len(line[n]) for line in [head, *body]) for n in range(len(head))]
        for line in render.table(head, body):
            echo(line, coloured=True)

    def one(self, resource: Resource, remark: str) -> None:
        match self._format:
            case Format.JSON | Format.JSONL:
                echo(render.to_json_line(resource))
            case Format.YAML:
                echo("---\n" + render.to_yaml(resource), nl=False)
            case Format.NAME:
                echo(reference(resource))
            case Format.TABLE | Format.WIDE:
                names = names_for(self._session, self._kind, [resource], self._format)
                [line] = render.table([], render.rows([resource], self._columns, now(), names), self._widths)
                echo(f"{line}  ({remark})" if remark else line, coloured=True)

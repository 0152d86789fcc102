"""Names for the ids that references hold, for people who read tables. Programs get the ids."""

from collections.abc import Iterable, Iterator

from fleetward.cli.output import Format
from fleetward.cli.render import columns, value_at
from fleetward.cli.session import Session
from fleetward.client import Kind, Resource

_AT_ONCE = 100
"""Ids in one filter, which has to fit a query string."""


def names_for(session: Session, kind: Kind, resources: list[Resource], output: str) -> dict[str, str]:
    """id -> name, for the references that a table of these resources would show; nothing for other formats."""
    if Format(output) not in (Format.TABLE, Format.WIDE):
        return {}
    shown = columns(kind, wide=Format(output) is Format.WIDE)
    names: dict[str, str] = {}
    for column, target in _references(session, kind):
        if column in shown:
            ids = {value for resource in resources if isinstance(value := value_at(resource, column), str)}
            for some in _chunks(sorted(ids)):
                found = session.client.page(target.collection, filter=f"id = ({' OR '.join(some)})", page_size=_AT_ONCE, fields="id,name")
                names |= {str(one["id"]): str(one["name"]) for one in found.items}
    return names


def _references(session: Session, kind: Kind) -> Iterator[tuple[str, Kind]]:
    for field in kind.fields:
        if isinstance(field.get("reference"), str):
            yield str(field["name"]), session.kind(field["reference"])


def _chunks(ids: list[str]) -> Iterable[list[str]]:
    return (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE))

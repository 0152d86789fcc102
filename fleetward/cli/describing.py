"""What `fleetward describe` tells, as lines. Pure; derives from the kind's own description of its fields."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from fleetward.cli import render
from fleetward.client import Event, Json, Kind, Resource

_LAST_CHANGES = 10
_APART = ("status", "labels", "effective_labels", "facts", "secrets")


def description(kind: Kind, resource: Resource, explained: Json, changes: Iterable[Event], now: datetime) -> Iterator[str]:
    plain = {key: value for key, value in resource.items() if key not in _APART}
    yield from _fields(plain, now)
    for name in ("labels", "effective_labels"):
        if resource.get(name):
            yield from ("", f"{render.title(name)}:", *_fields(resource[name], now, "  "))
    if resource.get("secrets"):
        told = {name: f"set {render.age(str(mark.get('changed_at')), now)} ago" for name, mark in resource["secrets"].items()}
        yield from ("", "SECRETS:", *_fields(told, now, "  "))
    if resource.get("status"):
        yield from ("", "STATUS:", *_fields(resource["status"], now, "  "))
    if explained.get("summary"):
        yield from ("", "WHY:", *(f"  {line}" for line in render.story(explained, now)))
    if resource.get("facts"):
        yield from ("", f"FACTS: {', '.join(sorted(resource['facts']))} (all of it: -o yaml)")
    yield from _history(list(changes)[-_LAST_CHANGES:], now)


def _fields(values: Mapping[str, Any], now: datetime, indent: str = "") -> list[str]:
    """Aligned `name: value` lines; long values stand below their names."""
    width = max((len(name) for name in values), default=0) + 1
    lines = []
    for name, value in values.items():
        if (isinstance(value, list) and any(isinstance(one, Mapping) for one in value)) or (isinstance(value, Mapping) and value):
            lines += [f"{indent}{name}:", *(f"{indent}  {line}" for line in render.to_yaml(value).splitlines())]
        else:
            lines.append(f"{indent}{name + ':':<{width}} {_shown(name, value, now)}")
    return lines


def _shown(name: str, value: Any, now: datetime) -> str:
    text = render.cell(name, value, now)
    exact = value if isinstance(value, str) and name.endswith(("_at", "_seen", "since")) else ""
    return f"{exact} ({text})" if exact else (render.one_line(value) if isinstance(value, str) and value else text)


def _history(changes: list[Event], now: datetime) -> Iterator[str]:
    if not changes:
        return
    yield from ("", "LAST CHANGES:")
    body = [
        [render.age(str(one.body.get("at")), now), one.what, one.actor or "-", render.cell("changed", one.changed, now)] for one in changes
    ]
    yield from (f"  {line}" for line in render.table([], body))

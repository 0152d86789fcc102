"""A resource to take along: as YAML for `fleetward apply`, as a command of the CLI, as curl. Pure."""

import shlex
from typing import Any

import yaml

from inventory.kind import USER, Kind
from inventory.kinds import BY_NAME
from inventory.resource import Resource


def of(resource: Resource, url: str) -> dict[str, str]:
    """By title: what to copy. `url`: this installation's."""
    kind = BY_NAME[resource["kind"]]
    at = f"{url}/api/v1/{kind.collection}/{resource['name']}"
    return {
        "YAML": document(kind, resource),
        "CLI": f"fleetward get {kind.name} {shlex.quote(resource['name'])} -o yaml",
        "curl": f'curl -sS -H "Authorization: Bearer $FLEETWARD_TOKEN" {shlex.quote(at)}',
    }


def document(kind: Kind, resource: Resource) -> str:
    """What a person wants of it, as `fleetward apply -f` takes it: nothing that others own, nothing that says what is so anyhow."""
    kept: dict[str, Any] = {"kind": kind.name}
    for field in kind.fields:
        value = resource.get(field.name)
        default = None if callable(field.default) else field.default
        if field.owner == USER and value is not None and (value != default or field.required or field.name == "name"):
            kept[field.name] = value
    return yaml.dump(kept, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)


class _Plain(yaml.SafeDumper):
    """Texts of several lines as blocks, as people write them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)

"""YAML files as resources: reading, and saying exactly what is wrong where. Pure but for reading the files.

A document is shaped as the API's resource and keyed by `kind` and `name`. The YAML taken is the plain part of it: no aliases (they can
grow without bound), no duplicate keys, and of the implicit types only null, true, false and decimal numbers, so that `mode: 0644` stays the
text that was written. What `get -o yaml` prints can be read back.

Source: YAML 1.2 section 10.2 (the JSON schema, with strings as the rest).
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fleetward.cli.exits import CommandError, Exit
from fleetward.client import Json

MAX_BYTES = 16 * 1024 * 1024
_SUFFIXES = (".yaml", ".yml", ".json")
_NOT_APPLIED = frozenset(
    {"kind", "id", "version", "generation", "observed_generation", "current_state", "status", "created_at", "updated_at", "deleted_at"}
)
"""Members that a resource shows and nobody sets: left out, so that an exported document can be applied."""


@dataclass(frozen=True, slots=True)
class Document:
    """`body` is what is to be set: `name` and the given fields."""

    file: str
    number: int
    kind: str
    name: str
    body: Json

    @property
    def where(self) -> str:
        return f"{self.file}, document {self.number} ({self.kind} {self.name})"


def read(places: tuple[str, ...]) -> list[Document]:
    """All documents of files, directories (their .yaml, .yml and .json files, by path) and `-`. Raises CommandError with file, document
    number and field."""
    found = [document for place in places for file, text in _texts(place) for document in parse(file, text)]
    if not found:
        raise CommandError(f"{', '.join(places)}: no document in it", Exit.USAGE)
    seen: dict[tuple[str, str], Document] = {}
    for document in found:
        other = seen.setdefault((document.kind, document.name), document)
        if other is not document:
            raise CommandError(f"{document.where}: is there already, in {other.where}", Exit.USAGE)
    return found


def _texts(place: str) -> Iterator[tuple[str, str]]:
    if place == "-":
        yield "standard input", sys.stdin.read()
        return
    path = Path(place)
    files = sorted(one for one in path.rglob("*") if one.suffix in _SUFFIXES and one.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            if file.stat().st_size > MAX_BYTES:
                raise CommandError(f"{file}: is larger than {MAX_BYTES // 1024 // 1024} MiB", Exit.USAGE)
            yield str(file), file.read_text("utf-8")
        except UnicodeDecodeError:
            raise CommandError(f"{file}: is not UTF-8 text", Exit.USAGE) from None
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}", Exit.USAGE) from None


def parse(file: str, text: str) -> list[Document]:
    """The documents of one file. Raises CommandError."""
    documents: list[Document] = []
    loader = None
    number = 0
    try:
        loader = _Loader(text)
        while loader.check_data():  # type: ignore[no-untyped-call]
            number += 1
            value = loader.get_data()
            documents += [_document(file, number, one) for one in _unwrapped(value)]
    except yaml.YAMLError as error:
        raise CommandError(f"{file}, document {max(number, 1)}: {_yaml_words(error)}", Exit.USAGE) from None
    except RecursionError:
        raise CommandError(f"{file}, document {max(number, 1)}: is nested too deeply", Exit.USAGE) from None
    finally:
        if loader is not None:
            loader.dispose()
    return documents


def _unwrapped(value: Any) -> list[Any]:
    """Empty documents are none; a list as `get -o json` prints it is its items."""
    if value is None:
        return []
    if isinstance(value, dict) and "kind" not in value and isinstance(value.get("items"), list):
        return list(value["items"])
    return [value]


def _document(file: str, number: int, value: Any) -> Document:
    where = f"{file}, document {number}"
    if not isinstance(value, dict):
        raise CommandError(f"{where}: must be a mapping with kind and name", Exit.USAGE)
    for key in ("kind", "name"):
        if not isinstance(value.get(key), str) or not value[key]:
            raise CommandError(f"{where}: {key}: must be there, as text", Exit.USAGE)
    body = {key: inner for key, inner in value.items() if key not in _NOT_APPLIED}
    return Document(file, number, value["kind"], value["name"], body)


def _yaml_words(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """See the module's docstring."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way of declaring it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not taken: write it out", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value}: is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return {str(key.value): self.construct_object(value, deep=True) for key, value in node.value}


def _construct_map(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_map)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"-?(?:0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def scalar(text: str) -> Any:
    """A value given on the command line, read as one in a file would be. Raises CommandError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise CommandError(f"{text}: {_yaml_words(error)}", Exit.USAGE) from None

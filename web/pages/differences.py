"""What a save would change, for people: member by member, files line by line. Pure."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from web.pages.formats import plain

CONTEXT = 3
MOST_LINES = 2000


@dataclass(frozen=True, slots=True)
class DiffLine:
    """sign: `+`, `-`, a space for what stays, `@` for a gap. old, new: line numbers."""

    sign: str
    text: str
    old: int | None = None
    new: int | None = None


@dataclass(frozen=True, slots=True)
class FileDiff:
    """`what`: added, removed, changed. `attributes`: (name, old, new) of mode, owner, and so on."""

    path: str
    what: str
    attributes: tuple[tuple[str, str, str], ...]
    lines: tuple[DiffLine, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    members: tuple[tuple[str, str, str], ...]
    files: tuple[FileDiff, ...]

    def __bool__(self) -> bool:
        return bool(self.members or self.files)


MEMBERS = ("name", "title", "labels", "selector", "priority", "on_change")


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Difference:
    """Two configs; an empty mapping is none at all."""
    members = tuple(
        (name, plain(before.get(name)), plain(after.get(name))) for name in MEMBERS if _differ(before.get(name), after.get(name))
    ) + tuple(_secrets(before.get("secrets") or {}, after.get("secrets") or {}))
    old = {file["path"]: file for file in before.get("files", [])}
    new = {file["path"]: file for file in after.get("files", [])}
    files = tuple(compare_files(path, old.get(path), new.get(path)) for path in [*new, *(path for path in old if path not in new)])
    return Difference(members, tuple(file for file in files if file is not None))


def _secrets(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of each only whether there is one."""
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            new = "—" if name not in after else "another value" if name in before else "a value"
            yield f"secret {name}", "a value" if name in before else "—", new


def _differ(old: Any, new: Any) -> bool:
    return old != new and not (old in (None, "", {}) and new in (None, "", {}))


def compare_files(path: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> FileDiff | None:
    if old == new:
        return None
    what = "added" if old is None else "removed" if new is None else "changed"
    before, after = old or {}, new or {}
    names = [name for name in ("mode", "owner", "group") if before.get(name) != after.get(name)]
    attributes = [(name, plain(before.get(name)), plain(after.get(name))) for name in names]
    if _source(before) != _source(after) and old and new:
        attributes.append(("source", _source(before), _source(after)))
    return FileDiff(path, what, tuple(attributes), tuple(diff_lines(_text(before).splitlines(), _text(after).splitlines())))


def _source(file: Mapping[str, Any]) -> str:
    return "template" if file.get("template") is not None else "content"


def _text(file: Mapping[str, Any]) -> str:
    return str(file.get("template") or file.get("content") or "")


def diff_lines(old: Sequence[str], new: Sequence[str]) -> list[DiffLine]:
    """As `diff -u` shows them, at most MOST_LINES."""
    lines: list[DiffLine] = []
    for number, group in enumerate(difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(CONTEXT)):
        if number:
            lines.append(DiffLine("@", "⋯"))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                lines += [DiffLine(" ", old[i1 + step], i1 + step + 1, j1 + step + 1) for step in range(i2 - i1)]
                continue
            lines += [DiffLine("-", old[i], i + 1, None) for i in range(i1, i2)]
            lines += [DiffLine("+", new[j], None, j + 1) for j in range(j1, j2)]
    return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], DiffLine("@", f"… and {len(lines) - MOST_LINES} lines more")]

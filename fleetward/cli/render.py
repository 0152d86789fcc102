"""Resources as text: tables, YAML, JSON. Pure; the clock is an argument. `fleetward.cli.output` prints what this makes.

Devices choose many of these texts. What a terminal would obey is shown as what it is (`harmless`), and a text within a line makes no
further lines. Source: ECMA-48; Unicode Technical Report 36, section 2.10 (bidirectional text).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from fleetward.client import Kind, Resource

WIDEST = 60
"""Characters of a cell, above which it is cut; JSON and YAML show all."""
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]")
"""Control characters but for tab and line feed, C1 too (0x9b is ESC and a bracket in one), and those that turn the direction of writing."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def columns(kind: Kind, *, wide: bool) -> tuple[str, ...]:
    shown = kind.columns + (kind.wide_columns if wide else ())
    return tuple(dict.fromkeys(shown)) or ("name",)


def title(column: str) -> str:
    """`status.reason` is headed REASON, `memory_bytes` MEMORY, `created_at` AGE's relative: CREATED."""
    last = column.rpartition(".")[2]
    return last.removesuffix("_bytes").removesuffix("_at").replace("_", " ").upper()


def value_at(resource: Mapping[str, Any], path: str) -> Any:
    """A member by its dotted path; label keys may hold dots themselves. None where there is none."""
    if path in resource:
        return resource[path]
    head, _, rest = path.partition(".")
    inner = resource.get(head)
    return value_at(inner, rest) if rest and isinstance(inner, Mapping) else None


def cell(column: str, value: Any, now: datetime) -> str:
    if value in (None, "", [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case int() | float() if column.endswith("_bytes"):
            return size(value)
        case str() if column.endswith("_at") or column.rpartition(".")[2] in ("last_seen", "first_seen", "since"):
            return age(value, now)
        case Mapping():
            return _cut(",".join(f"{key}={_inner(inner)}" for key, inner in value.items()))
        case list() | tuple():
            return _cut(",".join(str(inner) for inner in value))
        case _:
            return _cut(str(value))


def _inner(value: Any) -> str:
    return str(value) if not isinstance(value, list | tuple | Mapping) else json.dumps(value)


def _cut(text: str) -> str:
    line = harmless(one_line(text))
    return line if len(line) <= WIDEST else line[: WIDEST - 1] + "…"


def one_line(text: str) -> str:
    """Its own line breaks can't make it look like further lines."""
    return " ".join(text.split())


def harmless(text: str) -> str:
    """With what a terminal would obey written as JSON and YAML escape it, so that those stay what they were."""
    return _UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def size(number: float) -> str:
    """Bytes with a binary unit, three digits."""
    unit = 0
    while abs(number) >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {_UNITS[unit]}" if number >= 100 else f"{number:.3g} {_UNITS[unit]}"


def age(text: str, now: datetime) -> str:
    """How long ago (or, with `in`, how far ahead) an RFC 3339 time is: one number and one unit."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    seconds = (now - at.astimezone(UTC)).total_seconds()
    return f"in {_span(-seconds)}" if seconds < -1 else _span(max(seconds, 0.0))


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def rows(resources: Iterable[Resource], shown: Sequence[str], now: datetime, names: Mapping[str, str] | None = None) -> list[list[str]]:
    """A line of cells for each. `names` replaces the ids that references hold."""

    def text(resource: Resource, column: str) -> str:
        value = value_at(resource, column)
        return cell(column, names.get(value, value) if names and isinstance(value, str) else value, now)

    return [[text(resource, column) for column in shown] for resource in resources]


def table(head: Sequence[str], body: Sequence[Sequence[str]], widths: Sequence[int] = ()) -> list[str]:
    """Aligned lines, two blanks between columns, the head first unless it is empty. `widths` are the least ones."""
    lines = [*([head] if head else []), *body]
    least = list(widths) or [0] * max((len(line) for line in lines), default=0)
    full = [max(least[n], *(len(line[n]) for line in lines)) for n in range(len(least))] if lines else []
    return ["  ".join(text.ljust(width) for text, width in zip(line, full, strict=True)).rstrip() for line in lines]


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def to_json_line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def story(told: Mapping[str, Any], now: datetime) -> list[str]:
    """What `explain` answers, as sentences: the summary, then each cause with its age and its next attempt."""
    lines = [one_line(str(told.get("summary") or ""))]
    for cause in told.get("causes") or ():
        since = f", for {age(cause['since'], now)}" if cause.get("since") else ""
        again = f"; next attempt {age(cause['next_attempt_at'], now)}" if cause.get("next_attempt_at") else ""
        lines.append(f"- {cause.get('reason')}{since}: {one_line(cause.get('message') or 'nothing more is known')}{again}")
    return lines


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a config's files can be read and edited; in quotes, where something has to be escaped."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _UNFIT.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _block)


def to_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

"""Renders templates in a process of its own, which `managers.rendering` starts, limits and, if need be, kills.

A template is a user's program: it may loop for ever or ask for a gigabyte. Jinja2's sandbox stops it from reaching anything, not from that;
memory is limited here, and time by the parent, or by an alarm if the parent is no more. Reads a JSON line a job ({"template", "context",
"limit", and "secrets" for a template that uses some}) and writes one an answer ({"text"} or {"error"}). What goes wrong in a template with
secrets is told by its kind and line alone: the words may hold one. Run by its path; imports nothing of ours.
"""

import json
import resource
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 512 * 1024 * 1024
"""Address space, in bytes; the interpreter with Jinja2 takes about a fifth."""

ALARM_S = 10
"""The parent kills long before; SIGALRM ends an orphan."""

_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)


@lru_cache(maxsize=64)
def _compile(text: str) -> Template:
    return _environment.from_string(text)


def render(template: str, context: Mapping[str, Any], limit: int) -> str:
    """Raises whatever the template makes Jinja2 or Python raise, and ValueError above `limit` bytes."""
    parts, size = [], 0
    for part in _compile(template).generate(**context):
        size += len(part.encode())
        if size > limit:
            raise ValueError(f"it renders to more than {limit} bytes")
        parts.append(part)
    return "".join(parts)


class Values:
    """Secrets by name. No mapping, whose methods would stand before secrets of their names (`secrets.items`)."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __repr__(self) -> str:
        raise TypeError("name one of them")

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def answer(job: Mapping[str, Any]) -> dict[str, str]:
    secrets = {"secrets": Values(job["secrets"])} if "secrets" in job else {}
    try:
        text = render(job["template"], {**job["context"], **secrets}, job["limit"])
        text.encode("utf-8")
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as error:  # a template can raise anything: it is the answer
        return {"error": _place(error) if secrets else _words(error)}
    return {"text": text}


def _words(error: Exception) -> str:
    if not isinstance(error, TemplateError):
        return f"{type(error).__name__}: {error}"
    line = getattr(error, "lineno", None)
    return f"{error.message or type(error).__name__}" + (f" (line {line})" if line else "")


def _place(error: Exception) -> str:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    where = f" in line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{where} (no more is told of a template that uses secrets)"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        signal.alarm(ALARM_S)
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
        signal.alarm(0)


if __name__ == "__main__":
    main()

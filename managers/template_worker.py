"""Renders templates in a process of its own, which `managers.rendering` starts, limits and, if need be, kills.

A template is a user's program: it may loop for ever or ask for a gigabyte. Jinja2's sandbox stops it from reaching anything, not from that;
memory is limited here, and time by the parent, or by an alarm if the parent is no more. Reads a JSON line a job ({"template", "context",
"limit"}) and writes one an answer ({"text"} or {"error"}). Run by its path; imports nothing of ours.
"""

import json
import resource
import signal
import sys
from collections.abc import Mapping
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


def answer(job: Mapping[str, Any]) -> dict[str, str]:
    try:
        text = render(job["template"], job["context"], job["limit"])
        text.encode("utf-8")
    except MemoryError:
        return {"error": "it needs too much memory"}
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        return {"error": f"{error.message or type(error).__name__}" + (f" (line {line})" if line else "")}
    except Exception as error:  # a template can raise anything: it is the answer
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": text}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        signal.alarm(ALARM_S)
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
        signal.alarm(0)


if __name__ == "__main__":
    main()

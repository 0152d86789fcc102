"""Structured logs: constant messages, documented fields, JSON lines from every process."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_agent.logs
from broker.logs import Lines

ROOT = Path(__file__).parents[2]
PACKAGES = ("broker", "inventory", "managers", "web", "edge_agent")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
COUNTED = {"inventory/service.py", "inventory/retention.py"}
"""Where a line counts: a field for each thing that is counted."""


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a logger, and the agent's notes, each with where it is."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    on = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                    if (on == "log" and node.func.attr in LEVELS) or (on in ("turn", "self") and node.func.attr == "note"):
                        yield str(path.relative_to(ROOT)), node


def fields(call: ast.Call) -> Iterator[str]:
    assert isinstance(call.func, ast.Attribute)
    if call.func.attr == "note":
        yield from (keyword.arg for keyword in call.keywords if keyword.arg)
    for keyword in call.keywords:
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
            yield from (str(key.value) for key in keyword.value.keys if isinstance(key, ast.Constant))


def test_messages_are_constant() -> None:
    """What differs from one time to the next is a field, so that lines can be counted by their message."""
    for where, call in calls():
        assert isinstance(call.func, ast.Attribute)
        message = call.args[1 if call.func.attr == "note" else 0]
        assert isinstance(message, ast.Constant) and isinstance(message.value, str), f"{where}:{call.lineno}"


def test_every_field_is_documented() -> None:
    """docs/operating.md has a row for each, and none that nobody writes."""
    found = {name for _, call in calls() for name in fields(call)} | {"tasks", "most", "threads", "blocks"}
    section = (ROOT / "docs" / "operating.md").read_text().split("\n## Logs\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert found - documented == set()
    assert documented - found - {"code"} == set()


@pytest.mark.parametrize("formatter", [Lines(), edge_agent.logs.JsonLines()], ids=["server", "agent"])
def test_a_line_is_an_object(formatter: logging.Formatter) -> None:
    """Whatever the fields hold: one line, with the members that every line has; a traceback is a member too."""
    try:
        raise ValueError("broken\nin two")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("inventory.x", logging.WARNING, __file__, 1, "message set aside", None, trace)
    record.__dict__.update(device="host-1", error="two\nlines", path=Path("/x"))
    line = formatter.format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"], said["device"], said["path"]) == (
        "warning",
        "inventory.x",
        "message set aside",
        "host-1",
        "/x",
    )
    assert said["at"].endswith("Z") and "ValueError" in said["traceback"]

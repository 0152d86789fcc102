"""What devices chose to say can't command the terminal of whoever reads it, nor look like a line of its own."""

import ast
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from fleetward.cli import render
from fleetward.cli.describing import description
from fleetward.client import Kind
from tests.front.conftest import Fleet

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
CLI = Path(render.__file__).parent

OBEYED = (
    *("\x1b]0;owned\x07", "\x1b[2J\x1b[31m", "\x9b31m", "\x1b]52;c;Y3VybA==\x07", "\x90q\x9c", "\x08\x08\x08", "\x7f", "\x00", "\x0e\x0f"),
    *("\rfalse line", "\u202egnp.exe", "\u2066\u2069", "\u200f", "\u2028line", "\x85line", "\ufeff", "\u061c"),
)
"""Title, screen and colours, with ESC and with C1; the clipboard; device control; backspaces; NUL; the other character set; line beginnings
and ends; the bidirectional controls."""


def kind() -> Kind:
    return Kind("host", "hosts", "host", "mixed", "", ("name", "hostname", "labels"), (), ())


@pytest.mark.parametrize("text", OBEYED)
def test_no_format_lets_it_through(text: str) -> None:
    """Tables, descriptions, stories, JSON and YAML hold none of it; and JSON and YAML are still read as what it was."""
    resource = {"kind": "host", "name": "edge", "hostname": f"a{text}b", "labels": {f"k{text}": text}, "status": {"message": text}}
    told = {"summary": text, "causes": [{"reason": text, "message": f"x{text}"}]}
    shown = [
        *render.table(["HEAD"], render.rows([resource], ("hostname", "labels"), NOW)[:0]),
        *render.table([], render.rows([resource], ("hostname", "labels"), NOW)),
        *description(kind(), resource, told, [], NOW),
        *render.story(told, NOW),
        render.to_json(resource),
        render.to_json_line(resource),
        render.to_yaml(resource),
    ]
    for line in map(render.harmless, shown):
        assert not any(ord(c) < 32 and c not in "\n\t" for c in line), repr(line)
        assert not set("\x7f\x85\x90\x9b\x9c\u061c\u200f\u2028\u202e\u2066\u2069\ufeff") & set(line), repr(line)
    assert json.loads(render.harmless(render.to_json(resource))) == resource
    assert json.loads(render.harmless(render.to_json_line(resource))) == resource
    assert yaml.safe_load(render.harmless(render.to_yaml(resource))) == resource


def test_a_text_makes_no_further_lines() -> None:
    """In a description and in a story, where a line break could pretend a field or a cause."""
    resource = {"hostname": "edge\ncurrent_state: onboarded", "status": {"message": "bad\nWHY:"}}
    lines = list(description(kind(), resource, {}, [], NOW)) + render.story({"summary": "s\n- Reconciled: all is well"}, NOW)
    assert not any("\n" in line or line.startswith(("current_state", "WHY", "- Reconciled")) for line in lines)


def test_everything_is_printed_by_echo() -> None:
    """No command prints past `terminal.echo`, which lets nothing of it through."""
    for path in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if path.name != "terminal.py" and isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write"), (
                    f"{path.name}:{node.lineno}"
                )


def test_a_title_reaches_the_terminal_as_text(fleet: Fleet) -> None:
    """Through the API and back: in a table, in a description, and in YAML, which has an escape of its own."""
    assert fleet("create", "site", "hostile-terminal", "--title", "\x1b]0;owned\x07 \u202egnp").exit_code == 0
    for command in (("get", "sites"), ("describe", "site", "hostile-terminal"), ("get", "sites", "-o", "yaml")):
        result = fleet(*command)
        assert "\x1b" not in result.output and "\u202e" not in result.output, command
        assert "\\u202egnp" in result.output, command

"""docs/threat-model.md says for each adversary what holds and which test shows it, and the tests that it names exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "threat-model.md").read_text()
ADVERSARIES = ("A stolen device", "A hostile network", "A hostile broker", "A hostile device", "A curious operator", "A leaked backup")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL))
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+(?:::\w+)?))?`", DOC)


@cache
def defined(path: Path) -> set[str]:
    """Names of the tests of a file, those of a class as `Class::test` too."""
    found = set[str]()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {node.name} | {
                f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[f"{file}::{name}" for file, name in NAMED])
def test_a_named_test_exists(file: str, name: str) -> None:
    """The file is there, and the test in it."""
    assert (ROOT / file).is_file(), f"docs/threat-model.md names {file}, which there is not"
    assert not name or name in defined(ROOT / file), f"docs/threat-model.md names {name}, which {file} has not"


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_each_adversary_is_answered(adversary: str) -> None:
    """What they have, what holds with a test in each row, and what does not hold."""
    section = SECTIONS[adversary]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| what holds")]
    assert rows, "nothing holds?"
    for row in rows:
        assert "`tests/" in row, f"no test shows it: {row}"
    assert "**Has.**" in section and "**Does not hold.**" in section

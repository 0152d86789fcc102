"""docs/overload.md says what the code does: every bound is the constant's value, every metric exists."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from inventory.metrics import BY_NAME

DOC = (Path(__file__).parents[2] / "docs" / "overload.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOC.splitlines() if re.match(r"\|.*`[a-z_]+\.[a-z_.]+", line)]
UNITS = {"": 1, "MiB": 2**20}


def value(dotted: str) -> Any:
    """What a constant is; of a dataclass's field, its default."""
    parts = dotted.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            defaults = {f.name: f.default for f in dataclasses.fields(found)} if isinstance(found, type) else {}
            found = defaults[name] if name in defaults else getattr(found, name)
        return found
    raise AssertionError(f"there is no {dotted}")


def test_the_table_is_found() -> None:
    """All of it, so that no row escapes by its form."""
    assert len(ROWS) > 30 and all(len(row) == 5 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_bound_is_what_the_code_has(row: list[str]) -> None:
    """The numbers of the second column, in the order of the constants of the third."""
    constants = re.findall(r"`([a-zA-Z_.]+)`", row[2])
    shown = row[1] if "(" not in row[2] else row[2].split("(")[1]
    numbers = [float(n.replace(",", "")) * UNITS[unit] for n, unit in re.findall(r"([\d,]+) ?(MiB)?", shown)]
    assert numbers == [value(constant) for constant in constants]
    for metric in re.findall(r"`(fleetward_\w+)`", row[4]):
        assert metric in BY_NAME

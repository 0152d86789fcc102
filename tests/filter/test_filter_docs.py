"""docs/filters.md against the code: its examples compile, its limits are the real ones."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from inventory.filter import MAX_ORDER, SEARCHED, compile_filter
from inventory.filter_syntax import MAX_BYTES, MAX_DEPTH, MAX_TERMS
from inventory.kind import STATUS_MEMBERS
from inventory.kinds.host import HOST
from inventory.listing import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
PAGE = (Path(__file__).parents[2] / "docs" / "filters.md").read_text()
EXAMPLES = re.search(r"```filter\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES[1].splitlines() if EXAMPLES else [])
def test_examples_compile(text: str) -> None:
    """Each example is a filter on hosts."""
    assert compile_filter(HOST, text, now=NOW).fields


def test_there_are_examples() -> None:
    """The block of examples is found."""
    assert EXAMPLES and len(EXAMPLES[1].splitlines()) > 5


def test_limits_are_documented() -> None:
    """The page names the limits that the code has."""
    assert f"{MAX_BYTES // 1024} KiB, {MAX_DEPTH} levels and {MAX_TERMS} conditions" in PAGE
    assert f"1 to {MAX_PAGE_SIZE}, default {DEFAULT_PAGE_SIZE}" in PAGE
    assert MAX_ORDER == 5 and "at most five fields" in PAGE


def test_members_and_searched_fields_are_documented() -> None:
    """The page names each member of status and each field that a bare value is looked for in."""
    assert all(f".{member}`" in PAGE for member in STATUS_MEMBERS)
    assert all(name in PAGE for name in SEARCHED)

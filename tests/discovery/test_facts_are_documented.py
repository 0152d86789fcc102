"""docs/facts.md against what probes really say."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_agent import discovery

DOCUMENT = Path(__file__).parents[2] / "docs" / "facts.md"
MACHINES = ("server", "raspberry", "laptop", "vm")


def members(value: Any, place: str) -> Iterator[str]:
    """Dotted names of the leaves below a value; `[]` stands for any index, `*` for names that are data."""
    match value:
        case dict():
            for name, item in value.items():
                yield from members(item, f"{place}.*" if place == "cpu.caches" else f"{place}.{name}")
        case list():
            for item in value:
                yield from members(item, f"{place}[]")
        case _:
            yield place


def test_the_table_names_exactly_the_members_there_are(machines: Callable[[str], Any]) -> None:
    """Nothing undocumented, and nothing documented that no machine ever says."""
    documented = re.findall(r"^\| `([a-z_0-9.*\[\]]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert len(documented) == len(set(documented))
    said: set[str] = set()
    for name in MACHINES:
        machine = machines(name)
        for section, facts in discovery.scan(machine.root, calls=machine).sections.items():
            said |= set(members(facts, section))
    assert said - set(documented) == set()
    assert set(documented) - said == set()


def test_this_machine_says_nothing_that_is_undocumented() -> None:
    """The real thing has members that recorded trees may lack."""
    documented = set(re.findall(r"^\| `([a-z_0-9.*\[\]]+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    said = {name for section, facts in discovery.scan().sections.items() for name in members(facts, section)}
    assert said <= documented

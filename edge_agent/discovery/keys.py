"""How a component is known: by its serial number, else its WWID, else its MAC, else where it sits. Pure; called by the probes.

A key outlives a renaming (`sda` today, `sdb` tomorrow) and is unique within its list. Where two entries claim the same identity (two
identical cheap sticks, a cloned serial number), neither gets it: both fall back to the next one that tells them apart.

Source: contract.md section 4, "Facts sections".
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edge_agent.discovery.cleaning import clean, meaningful, without_nulls

KEY_LIMIT = 200
"""Characters of a key."""


@dataclass(frozen=True, slots=True)
class Component:
    """An entry of a component list before it has its key. `path`: its bus path; `identities`: what else identifies it, best first."""

    path: str
    name: str
    identities: tuple[str | None, ...]
    attributes: dict[str, Any]


def keyed(components: Iterable[Component]) -> list[dict[str, Any]]:
    """Entries with `key` and `name` first, in the order given; members of which nothing is known are left out."""
    ordered = list(components)
    candidates = [_candidates(component) for component in ordered]
    claims = Counter(candidate for of_one in candidates for candidate in set(of_one))
    taken: set[str] = set()
    entries = []
    for component, of_one in zip(ordered, candidates, strict=True):
        free = next((candidate for candidate in of_one if claims[candidate] == 1), of_one[-1])
        key = _untaken(free, taken)
        taken.add(key)
        entries.append({"key": key, "name": clean(component.name) or key, **without_nulls(component.attributes)})
    return entries


def _candidates(component: Component) -> list[str]:
    found = [clean(text, KEY_LIMIT) for identity in component.identities if (text := meaningful(identity))]
    return [*found, clean(f"path:{component.path}", KEY_LIMIT)]


def _untaken(key: str, taken: set[str]) -> str:
    """Two things in one place happen only in garbage; then they are numbered."""
    number = 2
    candidate = key
    while candidate in taken:
        candidate = f"{key}#{number}"
        number += 1
    return candidate

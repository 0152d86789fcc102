"""What a probe is: the section it fills, and a function of a `Tree`. Called by `scan`; implemented by one module a domain."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_agent.discovery.tree import Tree

Facts = dict[str, Any]
"""A section: members as in docs/facts.md, JSON values only."""


@dataclass(frozen=True, slots=True)
class Probe:
    """`read` may raise anything and take for ever: `scan` bounds it, and that costs this section alone."""

    section: str
    read: Callable[[Tree], Facts]

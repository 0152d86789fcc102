"""Topic filters: validity, matching, containment, and an index of them.

Pure. The access rules (`broker.acl`) ask whether one filter lies within another, the embedded broker routes by `FilterIndex`, whose cost
follows the depth of a topic and not the number of filters. It knows nothing of what the levels mean: that is `broker.topics`.

Source: MQTT 3.1.1 sections 4.7.1 to 4.7.3.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_LEVELS = 32
"""Deeper filters and topics are refused: the contract's deepest has 8 levels, and matching must not be made to walk far."""


def valid_topic(text: str) -> bool:
    """Whether a PUBLISH or a Will may carry this topic name."""
    return _plain(text) and "+" not in text and "#" not in text


def valid_filter(text: str) -> bool:
    """Whether a SUBSCRIBE may carry this topic filter: wildcards fill a level, and `#` is the last."""
    if not _plain(text):
        return False
    levels = text.split("/")
    if any(len(level) > 1 and ("+" in level or "#" in level) for level in levels):
        return False
    return "#" not in levels[:-1]


def _plain(text: str) -> bool:
    return bool(text) and "\0" not in text and len(text.encode("utf-8", "surrogatepass")) <= 65535 and text.count("/") < MAX_LEVELS


def matches(filter_: str, topic: str) -> bool:
    """Whether a topic name matches a valid filter. `sport/#` matches `sport` too; a leading wildcard never matches `$…`."""
    return not (topic.startswith("$") and filter_[0] in "+#") and _within(filter_.split("/"), topic.split("/"))


def contains(outer: str, inner: str) -> bool:
    """Whether every topic that the filter `inner` matches is matched by the filter `outer` as well.

    A shared subscription (`$share/…`) is a filter like any other here, so it lies within nothing that was granted.
    """
    return not (inner.startswith("$") and outer[0] in "+#") and _within(outer.split("/"), inner.split("/"))


def _within(outer: list[str], inner: list[str]) -> bool:
    for n, level in enumerate(outer):
        if level == "#":
            return True
        if n == len(inner):
            return False
        if inner[n] == "#" or (level != "+" and level != inner[n]):
            return False
    return len(inner) == len(outer)


K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Node(Generic[K]):
    """One level of the trie; `here` are the subscribers whose filter ends at this level, with the QoS granted to each."""

    children: dict[str, "_Node[K]"] = field(default_factory=dict)
    here: dict[K, int] = field(default_factory=dict)


class FilterIndex(Generic[K]):
    """Filters of many subscribers as a trie of their levels."""

    def __init__(self) -> None:
        self._root: _Node[K] = _Node()
        self._filters: dict[K, dict[str, int]] = {}

    def __len__(self) -> int:
        return sum(len(filters) for filters in self._filters.values())

    def add(self, key: K, filter_: str, qos: int) -> None:
        """Subscribe; a filter that the subscriber has already gets the new QoS."""
        node = self._root
        for level in filter_.split("/"):
            node = node.children.setdefault(level, _Node())
        node.here[key] = qos
        self._filters.setdefault(key, {})[filter_] = qos

    def remove(self, key: K, filter_: str) -> bool:
        """Unsubscribe. False where there was no such subscription."""
        filters = self._filters.get(key, {})
        if filters.pop(filter_, None) is None:
            return False
        if not filters:
            del self._filters[key]
        self._prune(key, filter_.split("/"))
        return True

    def remove_all(self, key: K) -> None:
        """Forget a subscriber."""
        for filter_ in list(self._filters.get(key, {})):
            self.remove(key, filter_)

    def filters(self, key: K) -> Mapping[str, int]:
        """What a subscriber has, with the QoS of each."""
        return self._filters.get(key, {})

    def match(self, topic: str) -> dict[K, int]:
        """Every subscriber of a topic name, once, with the highest QoS of its filters that match (section 3.3.5): a snapshot."""
        found: dict[K, int] = {}
        for here in self._matching(topic):
            for key, qos in here.items():
                if qos > found.get(key, -1):
                    found[key] = qos
        return found

    def _matching(self, topic: str) -> Iterator[dict[K, int]]:
        levels = topic.split("/")
        nodes = [self._root]
        for n, level in enumerate(levels):
            wild = n > 0 or not level.startswith("$")
            below = []
            for node in nodes:
                children = node.children
                if wild and "#" in children:
                    yield children["#"].here
                if wild and "+" in children:
                    below.append(children["+"])
                if level in children:
                    below.append(children[level])
            nodes = below
        for node in nodes:
            yield node.here
            if "#" in node.children:
                yield node.children["#"].here

    def _prune(self, key: K, levels: list[str]) -> None:
        path = [self._root]
        for level in levels:
            path.append(path[-1].children[level])
        path[-1].here.pop(key, None)
        for parent, level in zip(reversed(path[:-1]), reversed(levels), strict=True):
            node = parent.children[level]
            if node.here or node.children:
                break
            del parent.children[level]

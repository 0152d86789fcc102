"""Verification of the change log: every row against the hash chain, the chain against what is signed, and where it is broken.

What it finds: a row that was edited, removed, added or moved, wherever in the log; hashes that were computed anew, by the signed heads
above them; a log that was cut off at its end, by the heads that are kept in the database or, where those were removed too, by a head that
was saved elsewhere. What it can't: what happened to a change before it got its position, and whatever somebody does who has the audit key
besides the database.

`Walk` is pure: rows in, findings out. `verify` reads a live log in portions, each a short query, so that it holds up neither the relay nor
retention, and takes the same memory for any length. Called by `python -m inventory verify`. Source: docs/adr/0018-audit.md.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from inventory.changes import chain
from inventory.db import SQL, Connection
from inventory.resource import ReadRow, time_text
from inventory.seals import Head, anchored, missing, stands

PORTION = 500
"""Rows a query: some MiB at most."""
MOST = 1000
"""Findings kept; further ones are counted."""

Acquire = Callable[[], AbstractAsyncContextManager[Connection]]
Progress = Callable[[int, int], None]
"""Told the position that has been reached, and the last there is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. what: `edited`, `missing`, `surplus`, `end`, `head`, `anchor` or `gap`."""

    position: int
    what: str
    detail: str


@dataclass(slots=True)
class Report:
    """What was looked at, from the first position to the last, and what was found. `notes`: what could not be compared, and why."""

    first: int = 0
    last: int = 0
    changes: int = 0
    heads: int = 0
    anchors: int = 0
    gaps: int = 0
    seconds: float = 0.0
    hash: bytes = b""
    count: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, found: Iterator[Finding]) -> None:
        for finding in found:
            self.count += 1
            if len(self.findings) < MOST:
                self.findings.append(finding)

    def to_json(self) -> dict[str, Any]:
        return {
            "intact": not self.count,
            **{name: getattr(self, name) for name in ("first", "last", "changes", "heads", "anchors", "gaps")},
            "hash": self.hash.hex(),
            "seconds": round(self.seconds, 3),
            "found": self.count,
            "findings": [{"position": f.position, "what": f.what, "detail": f.detail} for f in self.findings],
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Ground:
    """What stands beside the rows: the relay's word of both ends, and what is signed."""

    floor: int
    position: int
    hash: bytes
    lowest: int | None
    highest: int | None
    anchors: Sequence[ReadRow]
    gaps: Sequence[ReadRow]
    heads: Sequence[Head]


class Walk:
    """Takes the rows from the floor up, in their order."""

    def __init__(self, ground: Ground, key: bytes, heads: Sequence[Head]) -> None:
        """key: the public audit key. heads: all that are to be compared, their signatures checked."""
        self._ground, self._key = ground, key
        self._gaps = {row["before"]: row["after"] for row in ground.gaps if _gap_stands(key, row)}
        self._heads: dict[int, list[Head]] = {}
        for head in heads:
            self._heads.setdefault(head.position, []).append(head)
        self.at = ground.floor
        self._digest: bytes | None = b""
        """The hash that the next row's stands on; None where the row before is missing."""

    def begin(self) -> Iterator[Finding]:
        """What is wrong before the first row."""
        ground = self._ground
        for row in ground.gaps:
            if self._gaps.get(row["before"]) != row["after"]:
                yield Finding(row["after"], "gap", f"that a restore lost positions up to {row['before']} is not signed")
        for row in ground.anchors:
            if not stands(self._key, anchored(row["position"], bytes(row["hash"])), row["signature"]):
                yield Finding(row["position"], "anchor", "the signature under where the log begins does not fit")
            elif row["position"] == ground.floor:
                self._digest = bytes(row["hash"])
        if ground.floor and not self._digest:
            self._digest = None
            yield Finding(ground.floor, "anchor", f"the log is said to begin above {ground.floor}, and nothing signed says so")
        yield from self._compare(ground.floor, self._digest)
        if ground.lowest is not None and ground.lowest <= ground.floor:
            yield Finding(ground.lowest, "surplus", f"a row stands at or below {ground.floor}, where the log begins")

    def take(self, row: ReadRow) -> Iterator[Finding]:
        """The next row. Findings are where they show: an edited row at its own position, a removed one at the position it had."""
        position, stored = row["position"], bytes(row["hash"] or b"")
        if position != self.at + 1 and not self._lost(position - 1):
            yield Finding(self.at + 1, "missing", _range(self.at + 1, position - 1))
            self._digest = None
        if row["at"] is None:
            yield Finding(position, "edited", "its time is none that there can be")
        elif self._digest is not None and chain(self._digest, position, row) != stored:
            yield Finding(position, "edited", "the row, or the hash that it stands on, is not what it was")
        self.at, self._digest = position, stored
        yield from self._compare(position, stored)

    def end(self) -> Iterator[Finding]:
        """What is wrong behind the last row."""
        ground = self._ground
        if self.at < ground.position and not self._lost(ground.position):
            yield Finding(self.at + 1, "missing", _range(self.at + 1, ground.position))
        elif self._digest != ground.hash:
            yield Finding(ground.position, "end", "the last row's hash is not the one that the relay goes on from")
        if ground.highest is not None and ground.highest > ground.position:
            yield Finding(ground.highest, "surplus", f"rows stand above {ground.position}, the last position given")
        for head in (head for heads in self._heads.values() for head in heads):
            yield from self._unmet(head)

    def _lost(self, up_to: int) -> bool:
        """Whether the positions from here up to that one were lost by a restore."""
        after = self._gaps.get(up_to)
        return after is not None and after <= self.at

    def _compare(self, position: int, stored: bytes | None) -> Iterator[Finding]:
        for head in self._heads.pop(position, ()):
            if stored is not None and head.hash != stored:
                yield Finding(position, "head", f"its hash is not the one signed at {time_text(head.at)}: the log was rewritten")

    def _unmet(self, head: Head) -> Iterator[Finding]:
        when = f"at {time_text(head.at)} the log went to {head.position}, as was signed"
        if head.position > self._ground.position:
            yield Finding(self._ground.position, "end", f"{when}; now it ends at {self._ground.position}: its tail was cut")
        elif head.position > self._ground.floor:
            lost = next((gap for gap in self._ground.gaps if gap["after"] < head.position <= gap["before"]), None)
            why = "" if lost is None else f"; a restore at {time_text(lost['at'])} went back to {lost['after']}"
            yield Finding(head.position, "head", f"{when}; there is no such row now{why}")


async def verify(
    acquire: Acquire, key: bytes, saved: Mapping[str, Head] | None = None, progress: Progress = lambda at, last: None
) -> Report:
    """Look at all of the log. key: the public audit key; saved: heads kept elsewhere, by where. Raises Unavailable.

    Should retention drop what is being read, it begins anew where the log then begins."""
    began = time.monotonic()
    while True:
        ground = await _ground(acquire)
        report = await _look(acquire, ground, key, saved or {}, progress)
        if not report.count or (await _ground(acquire)).floor == ground.floor:
            report.seconds = time.monotonic() - began
            return report


async def _look(acquire: Acquire, ground: Ground, key: bytes, saved: Mapping[str, Head], progress: Progress) -> Report:
    report = Report(first=ground.floor + 1, last=ground.position, anchors=len(ground.anchors), gaps=len(ground.gaps), hash=ground.hash)
    heads = _trusted(ground, key, saved, report)
    walk = Walk(ground, key, heads)
    report.add(walk.begin())
    while rows := await _rows(acquire, walk.at, ground.position):
        for row in rows:
            report.add(walk.take(row))
        report.changes += len(rows)
        progress(walk.at, ground.position)
    report.add(walk.end())
    return report


def _trusted(ground: Ground, key: bytes, saved: Mapping[str, Head], report: Report) -> list[Head]:
    """The heads that this installation has signed; a finding for each other."""
    named = [(f"the head in {name}", head) for name, head in saved.items()]
    named += [(f"the kept head of position {head.position}", head) for head in ground.heads]
    good: list[Head] = []
    for name, head in named:
        if not stands(key, head.signed(), head.signature):
            report.add(iter([Finding(head.position, "head", f"{name} was not signed with this installation's audit key, or was edited")]))
            continue
        good.append(head)
        if head.position < ground.floor and name.startswith("the head in"):
            report.notes.append(f"{name} is of position {head.position}, which retention has dropped: nothing to compare")
    report.heads = len(good)
    return good


async def _ground(acquire: Acquire) -> Ground:
    """Heads before the end, which may have moved on by then: no head can then seem to be beyond it."""
    async with acquire() as connection:
        heads = await connection.fetch("SELECT * FROM chain_heads ORDER BY position")
        anchors = await connection.fetch("SELECT * FROM change_anchors ORDER BY position")
        gaps = await connection.fetch("SELECT * FROM log_gaps ORDER BY after")
        ends = await connection.fetchrow(SQL["log_ends"])
    assert ends is not None, "the migration makes the relay's row"
    ends_at = (ends["floor"], ends["position"], bytes(ends["hash"]), ends["lowest"], ends["highest"])
    return Ground(*ends_at, anchors, gaps, [Head.from_row(row) for row in heads])


async def _rows(acquire: Acquire, after: int, up_to: int) -> Sequence[ReadRow]:
    async with acquire() as connection:
        return await connection.fetch(SQL["rows_to_verify"], after, up_to, PORTION)


def _gap_stands(key: bytes, row: ReadRow) -> bool:
    return stands(key, missing(row["after"], row["before"]), row["signature"])


def _range(first: int, last: int) -> str:
    return "the row is not there" if first == last else f"the rows from here to {last} are not there"

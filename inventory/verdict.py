"""What `fleetward audit verify` says: a report in words, or as JSON. Called by `python -m inventory verify`, which reads the key and the
heads, looks at the log and gives the exit code: 0 intact, 1 not.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inventory.db import Database
from inventory.seals import Head, Sealer
from inventory.verify import Report, verify

SHOWN = 100
"""Findings told in words; `--json` has more."""
SAY_S = 2.0
"""How often it is said on standard error how far it has come, in seconds."""


async def judge(url: str, secrets_dir: Path, heads: Sequence[Path], *, as_json: bool) -> int:
    """Verify the database's change log and print what was found; the exit code. Raises AuthorityError, OSError, Unavailable, ValueError."""
    sealer = Sealer.read(secrets_dir)
    saved = {str(path): read_head(path) for path in heads}
    db = await Database.open(url, application="fleetward-verify", pool_size=1)
    try:
        report = await verify(db.acquire, sealer.public, saved, Said())
    finally:
        await db.close()
    print(json.dumps(report.to_json(), ensure_ascii=False) if as_json else words(report, sealer.id))
    return 1 if report.count else 0


def read_head(path: Path) -> Head:
    """A head as `fleetward audit head` prints it. Raises OSError, ValueError naming the file."""
    try:
        return Head.from_json(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} holds no head of a change log: {error}") from None


def words(report: Report, key: str) -> str:
    """A line for each finding, and what was looked at."""
    lines = [f"BAD position {finding.position}, {finding.what}: {finding.detail}" for finding in report.findings[:SHOWN]]
    if report.count > SHOWN:
        lines.append(f"BAD and {report.count - SHOWN} more")
    lines += report.notes
    rate = f"{report.seconds:.1f} s, {report.changes / max(report.seconds, 1e-3):,.0f} rows/s"
    signed = f"{report.heads} signed heads, {report.anchors} anchors, {report.gaps} gaps"
    lines.append(f"{report.changes:,} changes, positions {report.first} to {report.last}; {signed}; {rate}")
    lines.append(f"head: position {report.last}, hash {report.hash.hex() or '-'}, key {key}")
    lines.append(f"NOT INTACT: {report.count} findings" if report.count else "intact")
    return "\n".join(lines)


@dataclass(slots=True)
class Said:
    """How far it has come, on standard error, now and then."""

    at: float = field(default_factory=time.monotonic)

    def __call__(self, position: int, last: int) -> None:
        if time.monotonic() - self.at >= SAY_S:
            self.at = time.monotonic()
            print(f"at position {position:,} of {last:,}", file=sys.stderr, flush=True)

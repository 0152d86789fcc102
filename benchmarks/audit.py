"""Verifying a large change log: `python -m benchmarks.audit [--changes 300000]`.

Rows such as managers and devices write are placed by the product's relay; `fleetward audit verify`'s own code then walks all of them.
Beside it: reading the same columns in the same portions, and nothing else. Memory is the process's, before and at its highest while the
log is walked. No row of design.md section 8; printed only.
"""

import asyncio
import resource
import secrets
import time
from pathlib import Path

import psutil

from benchmarks import paper
from benchmarks.ground import directory
from benchmarks.report import Row, arguments, say
from inventory.authority import utcnow
from inventory.changes import Relay, position
from inventory.db import SQL, Database, migrate
from inventory.heads import Witness
from inventory.seals import Sealer
from inventory.store import Store
from inventory.verify import PORTION, verify

FILL = """
INSERT INTO changes_in (kind, resource_id, op, version, generation, changed, resource, before, host, actor, at)
SELECT 'host-config', 'hcfg-' || lpad((n % 20000)::text, 26, '0'), 'updated', nextval('versions'), 3, '["status.reason", "current_state"]',
       jsonb_build_object('id', 'hcfg-' || lpad((n % 20000)::text, 26, '0'), 'kind', 'host-config', 'current_state', 'present',
                          'labels', '{}'::jsonb, 'digest', 'sha256:' || encode(sha256(n::text::bytea), 'hex'),
                          'host', 'host-' || lpad((n % 20000)::text, 26, '0'),
                          'status', '{"since": "2026-11-26T18:00:00.000Z", "halted": false, "reason": "Reconciled", "message": ""}'::jsonb,
                          'created_at', '2026-11-26T18:00:00.000Z', 'updated_at', '2026-11-26T18:00:00.000Z', 'title', repeat('x', 200)),
       '{"status": {"reason": "Pending"}, "current_state": "absent"}', 'host-' || lpad((n % 20000)::text, 26, '0'),
       '{"type": "manager", "name": "host-config"}', now()
FROM generate_series(1, $1::int) AS n
"""


async def fill(db: Database, changes: int) -> float:
    """Seconds that the relay took to place them."""
    took = 0.0
    while (left := changes - await position(db)) > 0:
        async with db.acquire() as connection:
            await connection.execute(FILL, min(left, 50_000))
        began = time.perf_counter()
        while await Relay(db).step():
            pass
        took += time.perf_counter() - began
    return took


async def read_alone(db: Database) -> float:
    """Seconds for the same rows in the same portions, unlooked at."""
    began, at, end = time.perf_counter(), 0, await position(db)
    while at < end:
        async with db.acquire() as connection:
            rows = await connection.fetch(SQL["rows_to_verify"], at, end, PORTION)
        at = rows[-1]["position"]
    return time.perf_counter() - began


async def measure(url: str, changes: int) -> Row:
    await migrate(url)
    db = await Database.open(url, application="benchmark", pool_size=4)
    sealer = Sealer(secrets.token_bytes(32))
    placed = await fill(db, changes)
    print(f"   the relay placed {changes:,} in {placed:.1f} s, {changes / placed:,.0f}/s", flush=True)
    await Witness(Store(db), sealer).step(utcnow())
    alone = await read_alone(db)
    before = psutil.Process().memory_info().rss
    report = await verify(db.acquire, sealer.public)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    await db.close()
    assert not report.count, report.findings
    ours, raw = report.changes / report.seconds, changes / alone
    return Row(
        what=f"verify a change log of {changes:,} rows",
        target="constant memory",
        ours=f"{ours:,.0f} rows/s, {report.seconds:.1f} s; memory {before / 2**20:.0f} MiB before, at most {highest / 2**20:.0f} MiB",
        beside=f"reading alone: {raw:,.0f} rows/s",
        ratio=f"{ours / raw:.2f}",
        met=highest - before < 64 * 2**20,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--changes", type=int, default=300_000)
    options = parser.parse_args()
    with directory() as home, paper.cluster(Path(home) / "postgres") as made:
        say(asyncio.run(measure(made.url(), options.changes)))


if __name__ == "__main__":
    main()

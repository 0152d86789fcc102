"""What grows with the fleet: `python -m benchmarks.growth [--sizes 1000 3000 10000] [--broker mosquitto] [--seconds 30]`.

A whole installation for each size, its fleet connected, with all facts told and one config on every host: memory and CPU of each part at
rest, rows and bytes in the database. From the first and the last size it says what a device costs, and what is there without any.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass

from benchmarks.config_rollout import placed
from benchmarks.fleet import Standing, standing
from benchmarks.report import arguments

TABLES = """
SELECT CASE WHEN relname LIKE 'changes_%' AND relname <> 'changes_in' THEN 'changes' ELSE relname END AS name,
       sum(n_live_tup)::bigint AS rows, sum(pg_total_relation_size(relid))::bigint AS bytes
FROM pg_stat_user_tables GROUP BY 1 HAVING sum(n_live_tup) > 100 ORDER BY 3 DESC
"""


@dataclass(frozen=True, slots=True)
class Size:
    """At one size: MiB PSS and cores by part, rows and bytes by table."""

    agents: int
    memory: dict[str, float]
    cores: dict[str, float]
    rows: dict[str, tuple[int, int]]


async def tables(stand: Standing) -> dict[str, tuple[int, int]]:
    connection = await stand.ground.connect()
    try:
        await connection.execute("ANALYZE")
        return {row["name"]: (row["rows"], row["bytes"]) for row in await connection.fetch(TABLES)}
    finally:
        await connection.close()


def measured(agents: int, broker: str, seconds: float) -> Size:
    with standing(argparse.Namespace(agents=agents, broker=broker)) as stand:
        print(f"   one config on all: {placed(stand):.1f} s", flush=True)
        load = stand.load()
        load.begin()
        time.sleep(seconds)
        return Size(agents, load.memory(), load.cores(), asyncio.run(tables(stand)))


def told(found: list[Size]) -> None:
    first, last = found[0], found[-1]
    more = max(1, last.agents - first.agents)
    print("== memory (MiB PSS) and CPU (cores) at rest; KiB and µs a second for each device more")
    for name in first.memory:
        each = " ".join(f"{size.memory[name]:8.0f} MiB {size.cores[name]:6.3f}" for size in found)
        grown = (last.memory[name] - first.memory[name]) * 1024 / more
        busy = (last.cores[name] - first.cores[name]) * 1e6 / more
        print(f"   {name:10} {each}   {grown:6.1f} KiB {busy:6.1f} µs/s")
    print("== rows, and bytes of the table with its indexes, for each device")
    for name, (rows, size) in last.rows.items():
        print(f"   {name:16} {rows / last.agents:7.1f} rows {size / last.agents:8.0f} bytes")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    parser.add_argument("--seconds", type=float, default=30.0, help="of rest that are measured at each size")
    options = parser.parse_args()
    told([measured(agents, options.broker, options.seconds) for agents in sorted(options.sizes)])


if __name__ == "__main__":
    main()

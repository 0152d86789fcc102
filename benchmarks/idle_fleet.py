"""What a fleet at rest costs: `python -m benchmarks.idle_fleet [--agents 10000] [--broker mosquitto] [--seconds 120]`.

Simulated agents over TLS, heartbeats and keepalives of 30 s, nothing else going on. Counted are the processes of the control plane
(inventory, managers, web), as CPU cores and MiB PSS; broker and PostgreSQL are shown beside.
"""

import argparse
import time
from pathlib import Path

from benchmarks.fleet import Standing, add_flags, standing
from benchmarks.ground import CONTROL_PLANE
from benchmarks.profiling import recorded
from benchmarks.report import Row, arguments, say

CORES, MIB = 0.5, 600
EIM = "EIM: about 26 cores, 5 GiB requested (its published sizing, not measured here)"
EIM_CORES = 26


def measure(stand: Standing, seconds: float, profile: Path | None = None) -> Row:
    load = stand.load()
    load.begin()
    with recorded(profile, "idle-inventory", stand.ground.pid("inventory")):
        time.sleep(seconds)
    cores, memory = load.cores(), load.memory()
    for name in load.roots:
        print(f"   {name:10} {cores[name]:6.3f} core  {memory[name]:6.0f} MiB PSS", flush=True)
    ours, mib = sum(cores[name] for name in CONTROL_PLANE), sum(memory[name] for name in CONTROL_PLANE)
    return Row(
        what=f"idle fleet of {stand.agents:,} agents, {stand.broker}: control plane, without broker and PostgreSQL",
        target=f"{CORES} core, {MIB} MiB",
        ours=f"{ours:.2f} core, {mib:.0f} MiB over {seconds:.0f} s (broker {cores['broker']:.2f}, PostgreSQL {cores['postgres']:.2f} core)",
        beside=EIM,
        ratio=f"1/{EIM_CORES / max(ours, 0.001):,.0f} of its cores",
        met=ours <= CORES and mib <= MIB,
    )


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=120.0, help="of rest that are measured")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="py-spy's flame graph of inventory at rest goes there")


def main() -> None:
    parser = arguments(__doc__)
    add_flags(parser)
    flags(parser)
    options = parser.parse_args()
    with standing(options) as stand:
        say(measure(stand, options.seconds, options.profile))


if __name__ == "__main__":
    main()

"""What looking at the machine costs: a full scan, a look of the watcher, and the memory of both. A script, never a timed test.

`python -m benchmarks.discovery_cost`; the agent's budget is 36 MiB PSS and 0.2 % CPU when idle.
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path

from edge_agent import discovery
from edge_agent.discovery.tree import Tree

LOOK_EVERY_S = 10.0
"""The interval that the percentages are computed for."""


def _cpu_ms(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return 1000 * (time.process_time() - began) / times


def _pss_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main() -> None:
    discovery.scan()
    before = _pss_kib()
    for probe in discovery.PROBES:
        print(f"{probe.section:10} {_cpu_ms(lambda read=probe.read: read(Tree()), 50):8.3f} ms")  # type: ignore[misc]
    full = _cpu_ms(discovery.scan, 100)
    print(f"full scan  {full:8.3f} ms, once an hour {full / 36000:.5f} % CPU")
    watcher = discovery.Watcher()
    watcher.changed(0.0)
    look = _cpu_ms(lambda: watcher.changed(1.0), 500)
    print(f"one look   {look:8.3f} ms, every {LOOK_EVERY_S:g} s {look / LOOK_EVERY_S / 10:.5f} % CPU")
    grown = _pss_kib() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory     {before + grown} KiB PSS ({grown:+} KiB after all this), peak {peak} KiB")


if __name__ == "__main__":
    main()

"""Measuring: percentiles, and the CPU and memory of processes, from /proc. No process is started and nothing is printed here."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_TICK = os.sysconf("SC_CLK_TCK")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def tree(pid: int) -> list[int]:
    """A process with all below it."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time, that of ended and awaited children included."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except FileNotFoundError:
            continue  # ended meanwhile; its parent has its time
        total += sum(int(value) for value in fields[11:15])
    return total / _TICK


def pss_mib(pids: Iterable[int]) -> float:
    """Proportional set size: shared pages count once among those that share them."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@dataclass(slots=True)
class Load:
    """What named process trees use between `begin` and `read`."""

    roots: Mapping[str, int]
    _cpu: dict[str, float] = field(default_factory=dict)
    _at: float = 0.0

    def begin(self) -> None:
        self._cpu, self._at = {name: cpu_seconds(tree(pid)) for name, pid in self.roots.items()}, time.monotonic()

    def cores(self) -> dict[str, float]:
        """CPU seconds a second, by name."""
        lasted = time.monotonic() - self._at
        return {name: (cpu_seconds(tree(pid)) - self._cpu[name]) / lasted for name, pid in self.roots.items()}

    def spent(self) -> dict[str, float]:
        """CPU seconds, by name."""
        return {name: cpu_seconds(tree(pid)) - self._cpu[name] for name, pid in self.roots.items()}

    def memory(self) -> dict[str, float]:
        """MiB PSS, by name."""
        return {name: pss_mib(tree(pid)) for name, pid in self.roots.items()}

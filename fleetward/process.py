"""Which process a pid really is: pids come round again, so nothing is ever signalled by its number alone.

A process is known by its pid, the moment it started (in clock ticks since boot) and the boot; what `up` started is noted in
`run/children.json`, so that the next `up` can tell its own orphans from strangers. Linux only, from /proc (proc(5), field 22 of
`stat`). `fleetward.supervisor` and `fleetward.postgres` use it.
"""

import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        return identify(self.pid) == self

    def send(self, signum: signal.Signals) -> bool:
        """Signal exactly this process. False where it is gone. A pidfd closes the gap between looking and sending."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(handle, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True


def identify(pid: int) -> Identity | None:
    """The process that has this pid now, or None. A zombie is none: it only waits to be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]), boot)


def write_pid(path: Path, pid: int) -> None:
    """At once, so that a reader never finds half a number."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(f"{pid}\n")
    partial.replace(path)


def note(path: Path, children: dict[str, Identity]) -> None:
    """Keep who our children are, for whoever comes after us."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({name: asdict(one) for name, one in children.items()}))
    partial.replace(path)


def noted(path: Path) -> dict[str, Identity]:
    """What `note` wrote; empty where there is nothing, or nothing whole."""
    try:
        return {name: Identity(**one) for name, one in json.loads(path.read_text()).items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def working_directory(pid: int) -> Path | None:
    """Where a process is, or None where it is gone or not ours to look at."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None

"""Small disks that can be filled: a tmpfs each, mounted below the run's directory and unmounted at the end. Needs root."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

FILLER = "filler"


@dataclass(slots=True)
class Disk:
    """One tmpfs, or, without the right to mount, a plain directory that can't be filled."""

    path: Path
    mounted: bool

    def fill(self) -> None:
        """Until not a byte is left."""
        with (self.path / FILLER).open("ab", buffering=0) as filler:
            for size in (1 << 20, 4096, 1):
                chunk = b"\0" * size
                try:
                    while filler.write(chunk) == size:
                        pass
                except OSError:
                    continue  # a smaller piece may still fit

    def free(self) -> None:
        (self.path / FILLER).unlink(missing_ok=True)


@dataclass(slots=True)
class Disks:
    """Makes disks, and takes them away at the end."""

    made: list[Disk] = field(default_factory=list)

    def make(self, path: Path, megabytes: int) -> Disk:
        """A disk of that size at `path`."""
        path.mkdir(mode=0o711)
        mounted = os.geteuid() == 0 and _mount(path, megabytes)
        disk = Disk(path, mounted)
        path.chmod(0o711)
        self.made.append(disk)
        return disk

    def remove(self) -> None:
        for disk in self.made:
            if disk.mounted:
                subprocess.run(["umount", "--lazy", str(disk.path)], check=True)
        self.made.clear()


def _mount(path: Path, megabytes: int) -> bool:
    options = f"size={megabytes}m,mode=0711"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "fleetward-chaos", str(path)], capture_output=True, check=False)
    return done.returncode == 0

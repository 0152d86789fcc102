"""Where tests keep what they write much to: in memory where there is enough, since a database costs a fifth of the time there.

For databases and whole installations. Tests that are about disks choose a directory of their own.
"""

import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ENOUGH = 4 * 1024**3
"""Bytes that have to be free: each worker keeps some hundred megabytes there. Containers often have 64 MiB."""


def place(prefix: str) -> Path:
    """A new directory which others can pass through, as PostgreSQL runs as a user of its own where tests run as root."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ENOUGH
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=_MEMORY if roomy else "/tmp"))
    made.chmod(0o711)
    return made

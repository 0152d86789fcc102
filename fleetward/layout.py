"""The data directory of `fleetward up`: which file is where, and the lock that keeps a second `up` out.

Paths only, and the making of directories; what the files mean is their owners' business. Source: contract.md section 1.
"""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from fleetward.owner import Owner


class InUse(Exception):
    """Another `fleetward up` runs on the data directory."""


def default_data_dir(environment: "os._Environ[str] | dict[str, str]") -> Path:
    """`$FLEETWARD_DATA_DIR`, else /var/lib/fleetward for root and ~/.local/share/fleetward for others."""
    if given := environment.get("FLEETWARD_DATA_DIR"):
        return Path(given)
    return Path("/var/lib/fleetward") if os.geteuid() == 0 else Path.home() / ".local/share/fleetward"


@dataclass(frozen=True, slots=True)
class DataDir:
    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def broker(self) -> Path:
        return self.root / "broker"

    @property
    def agent(self) -> Path:
        return self.root / "agent"

    @property
    def simulator(self) -> Path:
        return self.root / "simulator"

    @property
    def wheels(self) -> Path:
        """The agent's, for other platforms than this machine's; made by whoever has some."""
        return self.root / "wheels"

    @property
    def server_json(self) -> Path:
        return self.root / "server.json"

    @property
    def admin_token(self) -> Path:
        return self.root / "admin-token"

    @property
    def first_password(self) -> Path:
        """The first administrator's password, from its making until it has been printed."""
        return self.run / "first-password"

    @property
    def unfinished(self) -> Path:
        """There while a restore exchanges what is there for what was saved."""
        return self.root / "restore-unfinished"

    def pid_file(self, name: str) -> Path:
        return self.run / f"{name}.pid"

    def make(self, database_owner: Owner | None) -> None:
        """Make what is missing. Everything is private; only where the database belongs to another user may others pass through the
        root directory (to nothing that they may read). Raises OSError."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if database_owner is not None and database_owner.other:
            self.root.chmod(self.root.stat().st_mode | 0o011)
        for directory in (self.run, self.log, self.secrets, self.broker, self.agent, self.agent / "files"):
            directory.mkdir(mode=0o700, exist_ok=True)

    def lock(self) -> int:
        """Take the directory for this process, until it ends however it ends. Raises InUse with the pid of who has it."""
        handle = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InUse(self._holder()) from None
        return handle

    def _holder(self) -> str:
        try:
            return f"pid {int(self.pid_file('supervisor').read_text())}"
        except (OSError, ValueError):
            return "just starting"

    def write_server(self, url: str, mqtt: str, advertised: str) -> None:
        """`url` and `mqtt` as this machine reaches them; `advertised`, where others reach the first by another name."""
        others = {} if advertised == url else {"advertised": advertised}
        partial = self.server_json.with_suffix(".partial")
        partial.write_text(json.dumps({"url": url, "mqtt": mqtt, "pid": os.getpid(), **others}) + "\n")
        partial.replace(self.server_json)

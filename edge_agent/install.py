"""The systemd unit of the agent: writes it, and says how to start it. It starts nothing by itself."""

import shlex
import sys
from pathlib import Path

UNIT = Path("/etc/systemd/system/fleetward-agent.service")

_TEXT = """[Unit]
Description=Fleetward agent
Documentation=man:systemd.service(5)
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
Restart=always
RestartSec=5
KillMode=mixed
TimeoutStopSec=20
MemoryMax=128M
OOMPolicy=continue
OOMScoreAdjust=-500
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def unit(state_dir: Path, python: str = sys.executable) -> str:
    """The unit's text. No sandbox: placing files and running on_change commands is what the agent is for, and such a command that takes
    too much memory ends alone, without the agent."""
    words = [python, "-m", "edge_agent", "run", "--state-dir", str(state_dir)]
    return _TEXT.format(command=" ".join(shlex.quote(word).replace("%", "%%").replace("$", "$$") for word in words))


def install(state_dir: Path, path: Path = UNIT) -> str:
    """Write the unit; what to do next. Raises OSError."""
    path.write_text(unit(state_dir), encoding="utf-8")
    path.chmod(0o644)
    return f"written: {path}\nnext: systemctl daemon-reload && systemctl enable --now {path.name}"

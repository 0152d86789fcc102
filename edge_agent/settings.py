"""What the owner of a device may set: `agent.toml` in the state directory, checked field by field.

It is not the identity (`identity.json`, which enrollment writes and nobody edits). Read once, at the start of each command of
`fleetward-agent`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

STATE_DIR = Path("/var/lib/fleetward-agent")
TOKEN_VARIABLE = "FLEETWARD_ENROLLMENT_TOKEN"
"""The environment variable that may hold an enrollment token: a command line is seen in every process list."""

LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(ValueError):
    """`agent.toml` can't be used; the text names the file, the field, and what it has to be."""


def _setting(default: Any, low: float = 0, high: float = 0) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, their units, defaults and reasons (docs/agent.md repeats them; a test compares)."""

    roots: tuple[Path, ...] = (Path("/etc/fleetward.d"), Path("/opt/fleetward"), Path("/srv/fleetward"))
    """Directories below which configs may place files, and nowhere else. Ours alone by default: whoever wants `/etc` says so."""
    on_change: bool = True
    """Whether a config's `on_change` command may run on this device; if not, such a config is refused."""
    metered: bool = False
    """Spare a paid uplink: about 2 MiB a month instead of 30. Absence is then noticed within minutes instead of seconds."""
    keepalive_s: int = _setting(30, 5, 65535)
    """Seconds. The broker declares us gone after 1.5 times this."""
    heartbeat_s: int = _setting(30, 5, 86400)
    """Seconds between heartbeats, ± 10 %."""
    drift_interval_s: float = _setting(5.0, 1, 86400)
    """Seconds between looks at the applied files (a stat each; contents are read only when that changed)."""
    discovery_interval_s: float = _setting(10.0, 1, 86400)
    """Seconds between looks for changed hardware. Below 60, so that a new disk is seen within a minute."""
    log: str = "info"
    """`debug`, `info`, `warning` or `error`: the least severe that the local log shows."""


METERED = {"keepalive_s": 900, "heartbeat_s": 900}
"""What `metered` changes, where the file does not say otherwise."""


def load(path: Path) -> Settings:
    """The settings in a file; the defaults where there is none. Raises SettingsError."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse(text: str) -> Settings:
    """The settings in a TOML text. Raises SettingsError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"not TOML: {error}") from error
    known = {f.name: f for f in fields(Settings)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SettingsError(f"{unknown[0]}: there is no such setting; there are {', '.join(known)}")
    checked = {name: _checked(name, value, known[name].metadata, getattr(Settings(), name)) for name, value in values.items()}
    settings = replace(Settings(), **checked)
    slow: dict[str, Any] = {name: value for name, value in METERED.items() if name not in values}
    return replace(settings, **slow) if settings.metered else settings


def render(settings: Settings) -> str:
    """The file that enrollment writes where there is none."""
    lines = [
        "# Settings of the Fleetward agent on this device. Restart the agent after a change.",
        "# Configs may place files below these directories, and nowhere else.",
        f"roots = [{', '.join(_quoted(str(root)) for root in settings.roots)}]",
        "# Whether configs may run a command after their files have changed.",
        f"on_change = {str(settings.on_change).lower()}",
        "# true: about 2 MiB a month instead of 30, and slower to notice that the device is gone.",
        f"metered = {str(settings.metered).lower()}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _checked(name: str, value: Any, bounds: Mapping[str, float], default: Any) -> Any:
    match default:
        case bool():
            if not isinstance(value, bool):
                raise SettingsError(f"{name}: must be true or false")
            return value
        case int() | float():
            return _number(name, value, bounds, whole=isinstance(default, int))
        case tuple():
            return _roots(name, value)
        case _:
            if value not in LOG_LEVELS:
                raise SettingsError(f"{name}: must be one of {', '.join(LOG_LEVELS)}")
            return value


def _number(name: str, value: Any, bounds: Mapping[str, float], whole: bool) -> int | float:
    good = isinstance(value, int) if whole else isinstance(value, int | float)
    if not good or isinstance(value, bool) or not bounds["low"] <= value <= bounds["high"]:
        kind = "a whole number of seconds" if whole else "a number of seconds"
        raise SettingsError(f"{name}: must be {kind} from {bounds['low']:g} to {bounds['high']:g}")
    return int(value) if whole else float(value)


def _roots(name: str, value: Any) -> tuple[Path, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"{name}: must be a list of directories")
    for item in value:
        if not item.startswith("/") or "\0" in item or ".." in item.split("/"):
            raise SettingsError(f"{name}: {item!r} must be an absolute path without ..")
        if not item.strip("/"):
            raise SettingsError(f"{name}: the whole file system can't be one")
    return tuple(Path(item) for item in value)

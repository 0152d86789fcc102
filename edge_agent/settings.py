"""What the owner of a device may set: `agent.toml` in the state directory, checked field by field.

It is not the identity (`identity.json`, which enrollment writes and nobody edits). Read at the start of each command of
`fleetward-agent`; of a running agent only `maintenance` is looked at again (`lock`).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from broker.messages import Verb
from edge_agent.policy import Policy

STATE_DIR = Path("/var/lib/fleetward-agent")
TOKEN_VARIABLE = "FLEETWARD_ENROLLMENT_TOKEN"
"""The environment variable that may hold an enrollment token: a command line is seen in every process list."""

LOG_LEVELS = ("debug", "info", "warning", "error")
VERBS = tuple(str(verb) for verb in Verb)
MAX_REASON = 200
"""Characters of a maintenance lock's reason: it stands in lists and messages."""


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
    verbs: tuple[str, ...] = VERBS
    """What the server may have done here; all else is refused, whatever it signs."""
    maintenance: str = ""
    """Why this device is locked, for people; empty: it is not. A lock stops whatever would change the device from the moment that the file
    is saved: somebody works on it, and must not be surprised."""
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
        "# What the server may have done here; it can't change this.",
        f"# verbs = [{', '.join(_quoted(verb) for verb in settings.verbs)}]",
        '# A reason, such as "rewiring, until Friday; Ana", locks the device: from then on the server changes nothing on it.',
        "# Empty: no lock. This alone needs no restart.",
        f"maintenance = {_quoted(settings.maintenance)}",
        "# Whether configs may run a command after their files have changed.",
        f"on_change = {str(settings.on_change).lower()}",
        "# true: about 2 MiB a month instead of 30, and slower to notice that the device is gone.",
        f"metered = {str(settings.metered).lower()}",
    ]
    return "\n".join(lines) + "\n"


def policy(settings: Settings) -> Policy:
    """What of the settings is the owner's word to the server."""
    return Policy(settings.verbs, tuple(str(root) for root in settings.roots), settings.on_change, settings.maintenance)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _checked(name: str, value: Any, bounds: Mapping[str, float], default: Any) -> Any:
    match name:
        case "roots":
            return _roots(name, value)
        case "verbs":
            return _verbs(name, value)
        case "maintenance":
            return _reason(name, value)
        case "log":
            if value not in LOG_LEVELS:
                raise SettingsError(f"{name}: must be one of {', '.join(LOG_LEVELS)}")
            return value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise SettingsError(f"{name}: must be true or false")
        return value
    return _number(name, value, bounds, whole=isinstance(default, int))


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


def _verbs(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(item in VERBS for item in value):
        raise SettingsError(f"{name}: must be a list of {', '.join(VERBS)}")
    return tuple(dict.fromkeys(value))


def _reason(name: str, value: Any) -> str:
    """`true` would be a lock that tells nobody why."""
    if not isinstance(value, str) or len(value) > MAX_REASON or not value.isprintable():
        raise SettingsError(f'{name}: must be a line of at most {MAX_REASON} characters that says why, or "" for no lock')
    return value.strip()

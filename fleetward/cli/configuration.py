"""fleetward.toml: settings of the roles, for installations that are more than one `fleetward up`.

`$FLEETWARD_CONFIG`, else ./fleetward.toml, else /etc/fleetward.toml. Each key is the environment variable's name without FLEETWARD_,
in lower case (`database`, `broker`, `secrets`, `topic_root`, `mqtt_advertise`, `log`, ...). Flags win over the environment, the
environment over the file.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from fleetward.cli.exits import CommandError, Exit
from fleetward.settings import KEPT_NAMES, OIDC_NAMES

KEYS = (
    *(
        "data_dir",
        "database",
        "broker",
        "secrets",
        "topic_root",
        "mqtt_advertise",
        "wheels",
        "replica",
        "certificate_grace",
        "log",
        "server",
        "token",
        "ca",
    ),
    *(f"keep_{name}" for name in KEPT_NAMES),
    *(f"oidc_{name}" for name in OIDC_NAMES),
)


def config_file(environment: Mapping[str, str]) -> Path | None:
    if given := environment.get("FLEETWARD_CONFIG"):
        return Path(given)
    return next((path for path in (Path("fleetward.toml"), Path("/etc/fleetward.toml")) if path.exists()), None)


def from_file(path: Path) -> dict[str, str]:
    """The file as environment variables. Raises CommandError naming the key."""
    try:
        given = tomllib.loads(path.read_text())
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", Exit.USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: {error}", Exit.USAGE) from None
    for key, value in given.items():
        if key not in KEYS:
            raise CommandError(f"{path}: {key}: there is no such setting; there is {', '.join(KEYS)}", Exit.USAGE)
        if not isinstance(value, str):
            raise CommandError(f"{path}: {key}: must be text", Exit.USAGE)
    return {f"FLEETWARD_{key.upper()}": value for key, value in given.items()}


def complete_environment() -> None:
    """Fill in what the environment does not say. Called once, at the entry point."""
    path = config_file(os.environ)
    if path is not None:
        for name, value in from_file(path).items():
            os.environ.setdefault(name, value)

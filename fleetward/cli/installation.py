"""What is done where the installation's secrets are, by `python -m inventory`, which answers in JSON. Called by the commands `authority`
and `secrets`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import click

from fleetward.cli.exits import CommandError, Exit
from fleetward.layout import DataDir, default_data_dir
from fleetward.postgres import url_within
from fleetward.services import modules

SECRETS = click.option(
    "--secrets", envvar="FLEETWARD_SECRETS", type=click.Path(file_okay=False, path_type=Path), help="The installation's secrets."
)
DATABASE = click.option("--database", envvar="FLEETWARD_DATABASE", metavar="URL", help="Its PostgreSQL; else that of `up` here.")
JSON = click.option("-o", "form", type=click.Choice(("text", "json")), default="text", show_default=True, help="How it is shown.")


def ask(secrets: Path | None, database: str | None, needed: str, *arguments: str) -> dict[str, Any]:
    """The answer. `needed`: the file without which these are not the installation's secrets. Raises CommandError."""
    data = DataDir(default_data_dir(os.environ))
    where = secrets or data.secrets
    if not (where / needed).exists():
        raise CommandError(f"{where} has no {needed}: run this where the installation's secrets are, or give --secrets", Exit.USAGE)
    if database is None and not data.server_json.exists():
        raise CommandError("no database: start `fleetward up`, or give --database", Exit.USAGE)
    environment = os.environ | {"FLEETWARD_SECRETS": str(where), "FLEETWARD_DATABASE": database or url_within(data.postgres) or ""}
    done = subprocess.run([*modules("inventory"), *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CommandError(words[-1].removeprefix("inventory: "), Exit.USAGE if done.returncode == 2 else Exit.FAILED)
    found: dict[str, Any] = json.loads(done.stdout)
    return found

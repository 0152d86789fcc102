"""`fleetward authority`: the CA and the command root, and their rotation under a running fleet. Where the installation's secrets are."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import click

from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.output import talk
from fleetward.cli.terminal import echo
from fleetward.layout import DataDir, default_data_dir
from fleetward.postgres import url_within
from fleetward.services import modules

_NEXT = {
    "resting": "Begin a rotation with `fleetward authority rotate`.",
    "announced": "The new ones are trusted beside the old. Once all devices do, have them take over: `fleetward authority advance`.",
    "taken over": "The new ones issue and delegate. Once all devices have followed, drop the old ones: `fleetward authority advance`.",
}

_SECRETS = click.option(
    "--secrets", envvar="FLEETWARD_SECRETS", type=click.Path(file_okay=False, path_type=Path), help="The installation's secrets."
)
_DATABASE = click.option("--database", envvar="FLEETWARD_DATABASE", metavar="URL", help="Its PostgreSQL; else that of `up` here.")
_JSON = click.option("-o", "form", type=click.Choice(("text", "json")), default="text", show_default=True, help="How it is shown.")


@click.group()
def authority() -> None:
    """The CA and the key that commands come from."""


@authority.command(name="show")
@_SECRETS
@_DATABASE
@_JSON
def show(secrets: Path | None, database: str | None, form: str) -> None:
    """Who is trusted, and how far devices follow."""
    _say(_inventory(secrets, database, "show"), form)


@authority.command(name="rotate")
@click.option("--only", type=click.Choice(("ca", "command-root")), multiple=True, help="Of what; both without it.")
@_SECRETS
@_DATABASE
@_JSON
def rotate(only: tuple[str, ...], secrets: Path | None, database: str | None, form: str) -> None:
    """Make a new CA and a new command root, and have everybody trust them beside the old ones."""
    _say(_inventory(secrets, database, "rotate", *(word for part in only for word in ("--only", part))), form)
    talk("Make a backup now: an older one does not hold the new keys.")


@authority.command(name="advance")
@click.option("--force", is_flag=True, help="Leave behind who has not followed: they come back by HTTP, or enroll anew.")
@_SECRETS
@_DATABASE
@_JSON
def advance(force: bool, secrets: Path | None, database: str | None, form: str) -> None:
    """The next step of a rotation: the new ones take over; then the old ones are dropped."""
    _say(_inventory(secrets, database, "advance", *(["--force"] if force else [])), form)


def _inventory(secrets: Path | None, database: str | None, *arguments: str) -> dict[str, Any]:
    """What `python -m inventory authority` answers. Raises CommandError."""
    data = DataDir(default_data_dir(os.environ))
    where = secrets or data.secrets
    if not (where / "command-root.key").exists():
        raise CommandError(f"{where} has no command-root.key: run this where the installation's secrets are, or give --secrets", Exit.USAGE)
    if database is None and not data.server_json.exists():
        raise CommandError("no database: start `fleetward up`, or give --database", Exit.USAGE)
    environment = os.environ | {"FLEETWARD_SECRETS": str(where), "FLEETWARD_DATABASE": database or url_within(data.postgres) or ""}
    done = subprocess.run([*modules("inventory"), "authority", *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CommandError(words[-1].removeprefix("inventory: "), Exit.USAGE if done.returncode == 2 else Exit.FAILED)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _say(found: dict[str, Any], form: str) -> None:
    if form == "json":
        echo(json.dumps(found, indent=2))
        return
    for n, each in enumerate(found["authorities"]):
        echo(f"CA            {each['fingerprint']}  until {each['expires_at'][:10]}{'  issues' if n == 0 else '  is trusted'}")
    for n, key in enumerate(found["command_roots"]):
        echo(f"command root  {key}{'  delegates' if n == 0 else '  is trusted'}")
    echo(f"list          {found['generation']}, {found['phase']} since {found['since']}")
    echo(f"devices       {found['informed']} of {found['devices']} trust this list, {found['renewed']} have a certificate of the CA")
    if found["left_behind"]:
        talk(f"Not yet: {found['left_behind']}.")
    talk(_NEXT[found["phase"]])

"""`fleetward authority`: the CA and the command root, and their rotation under a running fleet. Where the installation's secrets are."""

import json
from pathlib import Path
from typing import Any

import click

from fleetward.cli.installation import DATABASE, JSON, SECRETS, ask
from fleetward.cli.output import talk
from fleetward.cli.terminal import echo

_NEXT = {
    "resting": "Begin a rotation with `fleetward authority rotate`.",
    "announced": "The new ones are trusted beside the old. Once all devices do, have them take over: `fleetward authority advance`.",
    "taken over": "The new ones issue and delegate. Once all devices have followed, drop the old ones: `fleetward authority advance`.",
}


@click.group()
def authority() -> None:
    """The CA and the key that commands come from."""


@authority.command(name="show")
@SECRETS
@DATABASE
@JSON
def show(secrets: Path | None, database: str | None, form: str) -> None:
    """Who is trusted, and how far devices follow."""
    _say(_ask(secrets, database, "show"), form)


@authority.command(name="rotate")
@click.option("--only", type=click.Choice(("ca", "command-root")), multiple=True, help="Of what; both without it.")
@SECRETS
@DATABASE
@JSON
def rotate(only: tuple[str, ...], secrets: Path | None, database: str | None, form: str) -> None:
    """Make a new CA and a new command root, and have everybody trust them beside the old ones."""
    _say(_ask(secrets, database, "rotate", *(word for part in only for word in ("--only", part))), form)
    talk("Make a backup now: an older one does not hold the new keys.")


@authority.command(name="advance")
@click.option("--force", is_flag=True, help="Leave behind who has not followed: they come back by HTTP, or enroll anew.")
@SECRETS
@DATABASE
@JSON
def advance(force: bool, secrets: Path | None, database: str | None, form: str) -> None:
    """The next step of a rotation: the new ones take over; then the old ones are dropped."""
    _say(_ask(secrets, database, "advance", *(["--force"] if force else [])), form)


def _ask(secrets: Path | None, database: str | None, *arguments: str) -> dict[str, Any]:
    return ask(secrets, database, "command-root.key", "authority", *arguments)


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

"""`fleetward secrets`: the key that secrets of configs lie under, and its rotation. Where the installation's secrets are."""

import json
from pathlib import Path
from typing import Any

import click

from fleetward.cli.installation import DATABASE, JSON, SECRETS, ask
from fleetward.cli.output import talk
from fleetward.cli.terminal import echo


@click.group()
def secrets() -> None:
    """The key that secrets of configs are sealed under."""


@secrets.command(name="show")
@SECRETS
@DATABASE
@JSON
def show(secrets: Path | None, database: str | None, form: str) -> None:
    """Which key it is, since when, and how many secrets lie under it."""
    _say(ask(secrets, database, "vault.key", "vault", "show"), form)


@secrets.command(name="rotate")
@SECRETS
@DATABASE
@JSON
def rotate(secrets: Path | None, database: str | None, form: str) -> None:
    """Make another key and seal every secret anew under it, while everything runs. Cut short, the next one finishes it.

    The key before stays in vault.key until the next rotation. A managers or web process with secrets of its own on another machine, or in
    another directory, needs the new vault.key or vault.pub: `fleetward certificate create` makes it."""
    found = ask(secrets, database, "vault.key", "vault", "rotate")
    _say(found, form)
    talk(f"{found['resealed']} sealed anew. Make a backup now: an older one does not hold the new key.")


def _say(found: dict[str, Any], form: str) -> None:
    if form == "json":
        echo(json.dumps(found, indent=2))
        return
    echo(f"key      {found['key']}  since {found['since']}")
    echo(f"secrets  {found['secrets']}{'' if not found['older'] else ', of which some are still sealed under another key'}")
    if found["older"]:
        talk("A rotation was cut short: finish it with `fleetward secrets rotate`.")

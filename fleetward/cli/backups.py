"""`fleetward backup` and `restore`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from fleetward import archive, backup, postgres
from fleetward.archive import Damaged
from fleetward.backup import BackupFailed, Place
from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.output import talk
from fleetward.cli.terminal import echo
from fleetward.layout import DataDir, default_data_dir

P = ParamSpec("P")
R = TypeVar("R")

_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


def where(command: Callable[P, R]) -> Callable[P, R]:
    """The options that say which installation."""
    for option in (
        click.option(
            "--secrets", envvar="FLEETWARD_SECRETS", type=click.Path(file_okay=False, path_type=Path), help="Its secrets directory."
        ),
        click.option("--database", envvar="FLEETWARD_DATABASE", metavar="URL", help="Of an installation whose roles run on their own."),
        click.option(
            "--data-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Of `fleetward up`. [default: /var/lib/fleetward for root, else ~/.local/share/fleetward]",
        ),
    ):
        command = option(command)
    return command


@click.command(name="backup")
@_FILE
@where
def back_up(file: Path, data_dir: Path | None, database: str | None, secrets: Path | None) -> None:
    """Write database and secrets into FILE, beside a running installation. Whoever has the file has the fleet: keep it safe."""
    try:
        place = place_given(data_dir, database, secrets)
        if place is not None:
            made = backup.back_up(place, file)
        else:
            with backup.place_of(DataDir(data_dir or default_data_dir(os.environ))) as found:
                made = backup.back_up(found, file)
    except (BackupFailed, postgres.PostgresError, OSError, LookupError) as error:
        raise CommandError(str(error), Exit.USAGE) from None
    echo(str(file))
    talk(f"{made['hosts']} hosts, up to position {made['position']}; {file.stat().st_size / 1024**2:.1f} MiB")


@click.command(name="restore")
@_FILE
@where
@click.option("--force", is_flag=True, help="Replace an installation that is there.")
def restore(file: Path, data_dir: Path | None, database: str | None, secrets: Path | None, force: bool) -> None:
    """Put a backup back, into an installation that is stopped. A damaged file is refused before anything is touched."""
    try:
        found = archive.check(file)
        place = place_given(data_dir, database, secrets)
        if place is not None:
            backup.restore_place(found, place, force=force)
            kept = None
        else:
            kept = backup.restore_data(found, DataDir(data_dir or default_data_dir(os.environ)), force=force)
    except (BackupFailed, Damaged, postgres.PostgresError, OSError, LookupError) as error:
        raise CommandError(str(error), Exit.USAGE) from None
    talk(f"Restored what was there at {found.made_at}: {found.hosts} hosts. Start it; devices tell what happened since.")
    talk("Machines enrolled since then have to enroll again; what was revoked or deleted since then is trusted again.")
    if kept is not None:
        talk(f"What was there before is kept in {kept}: delete it when all is well.")


def place_given(data_dir: Path | None, database: str | None, secrets: Path | None) -> Place | None:
    """Of roles that run on their own; None where it is a data directory."""
    if data_dir is not None or (database is None and secrets is None):
        return None
    if database is None or secrets is None:
        raise CommandError("--database and --secrets belong together: give both, or --data-dir", Exit.USAGE)
    return Place(database, secrets)

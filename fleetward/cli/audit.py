"""`fleetward audit`: who did what (`export`), how far the log goes (`head`), and whether it is what it was (`verify`).

Export and head come from the API. Verification reads the database itself, beside a running installation, because whoever is asked for the
rows by a server must believe it; it is `python -m inventory verify`, which this only finds the place for.
"""

import os
import subprocess
import sys
from pathlib import Path

import click

from fleetward import backup, postgres
from fleetward.backup import BackupFailed, Place
from fleetward.cli import render
from fleetward.cli.backups import place_given, where
from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.session import Session, connected
from fleetward.cli.terminal import echo
from fleetward.layout import DataDir, default_data_dir
from fleetward.services import modules


@click.group()
def audit() -> None:
    """Who did what, and whether the record of it is what it was."""


@audit.command()
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="people, user, token, integration, stranger, system, manager, device, inventory.",
)
@click.option("--actor", metavar="NAME", help="Only what this one did.")
@click.option("--address", metavar="ADDRESS", help="Only what was asked for from there.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only what was done to this kind, such as user, sign-in or host.")
@click.option("--op", "ops", multiple=True, metavar="OP", help="created, updated, deleted, refused or restored.")
@click.option("--id", "one", metavar="ID", help="Only what was done to this resource or account.")
@click.option("--path", metavar="PATH", help="Only where this member changed, such as role or labels.line.")
@click.option("--since", metavar="TIME", help="Not before, such as 2026-11-26T00:00:00Z.")
@click.option("--until", metavar="TIME", help="Before.")
@click.option("--after", type=click.IntRange(min=0), metavar="POSITION", help="Only what came after this position.")
@connected
def export(
    session: Session,
    types: tuple[str, ...],
    actor: str | None,
    address: str | None,
    kinds: tuple[str, ...],
    ops: tuple[str, ...],
    one: str | None,
    path: str | None,
    since: str | None,
    until: str | None,
    after: int | None,
) -> None:
    """Print the audit as JSON lines, oldest first, up to now. Options given more than once add up."""
    repeated = [("type", each) for each in types] + [("kind", each) for each in kinds] + [("op", each) for each in ops]
    once = {"actor": actor, "address": address, "id": one, "path": path, "since": since, "until": until, "after": after}
    query = repeated + [(name, str(value)) for name, value in once.items() if value is not None]
    for line in session.client.lines("/api/v1/audit/export", query):
        if line.startswith('{"error":'):
            raise CommandError(f"the export broke off: {line}", Exit.FAILED)
        echo(line)


@audit.command()
@connected
def head(session: Session) -> None:
    """Print the signed head of the change log: kept elsewhere, it shows later whether the log was cut or rewritten."""
    echo(render.to_json(session.client.audit_head()))


@audit.command()
@click.option(
    "--head",
    "heads",
    multiple=True,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A signed head that was kept elsewhere; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@where
def verify(heads: tuple[Path, ...], as_json: bool, data_dir: Path | None, database: str | None, secrets: Path | None) -> None:
    """Look at every row of the change log, beside a running installation; exit 1 where it is not intact, with where."""
    more = [*(part for path in heads for part in ("--head", str(path.absolute()))), *(["--json"] if as_json else [])]
    try:
        place = place_given(data_dir, database, secrets)
        if place is not None:
            code = _verify(place, more)
        else:
            with backup.place_of(DataDir(data_dir or default_data_dir(os.environ))) as found:
                code = _verify(found, more)
    except (BackupFailed, postgres.PostgresError, OSError, LookupError) as error:
        raise CommandError(str(error), Exit.USAGE) from None
    click.get_current_context().exit(code)


def _verify(place: Place, more: list[str]) -> int:
    sys.stdout.flush()
    environment = {"FLEETWARD_DATABASE": place.database, "FLEETWARD_SECRETS": str(place.secrets), "FLEETWARD_LOG": "WARNING"}
    return subprocess.run([*modules("inventory"), "verify", *more], env=os.environ | environment, check=False).returncode

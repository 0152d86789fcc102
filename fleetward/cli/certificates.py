"""`fleetward certificate`: those of services are made here, all that were issued are listed, and any of them can be taken back."""

import os
from pathlib import Path
from typing import NoReturn

import click

from fleetward.cli import render
from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.output import now, show_table, talk
from fleetward.cli.session import Session, connected
from fleetward.cli.terminal import echo
from fleetward.layout import DataDir, default_data_dir
from fleetward.services import modules

COLUMNS = ("serial", "name", "class", "issued_at", "expires_at", "revoked")
CLASSES = ("device", "service", "integration", "integration-scoped")


@click.group()
def certificate() -> None:
    """Certificates: those of the services, and taking back any."""


@certificate.command(name="create")
@click.argument("name", metavar="SERVICE")
@click.option("--secrets", envvar="FLEETWARD_SECRETS", type=click.Path(file_okay=False, path_type=Path), help="The installation's secrets.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="A secrets directory for that replica alone, to be carried there."
)
@click.option("--new-key", is_flag=True, help="With another key, in the place of one that is then to be revoked.")
def create_certificate(name: str, secrets: Path | None, out: Path | None, new_key: bool) -> None:
    """Issue the certificate of a service's replica, such as svc-inventory.2, where the CA's key is; again: renew it."""
    more = [*(("--out", str(out.absolute())) if out else ()), *(("--new-key",) if new_key else ())]
    _become(_with(secrets, "ca.key"), "certificate", name, *more)


@certificate.command(name="rotate-command-key")
@click.option("--secrets", envvar="FLEETWARD_SECRETS", type=click.Path(file_okay=False, path_type=Path), help="The installation's secrets.")
def rotate_command_key(secrets: Path | None) -> None:
    """Replace the key that signs commands; the one before is void on every device from its next message on. Nothing is started again."""
    _become(_with(secrets, "command-root.key"), "rotate-command-key")


@certificate.command(name="list")
@click.option("--class", "unit", type=click.Choice(CLASSES), help="Only those of this class.")
@connected
def list_certificates(session: Session, unit: str | None) -> None:
    """The certificates that have not ended, and which of them are taken back, and why."""
    found = session.client.items("certificates", **{"class": unit})
    show_table([render.title(column) for column in COLUMNS], render.rows(found, COLUMNS, now(), None))


@certificate.command(name="revoke")
@click.argument("ref", metavar="SERIAL|NAME")
@connected
def revoke_certificate(session: Session, ref: str) -> None:
    """Take back a certificate, or all that a service or a host has: what is connected with it ends within 5 s, and can't come back.

    A device has to enroll anew then, with another key. Give a service another certificate first (certificate create --new-key)."""
    for one in session.client.verb("certificates", ref, "revoke")["items"]:
        echo(one["serial"])
        talk(f"{one['class']} {one['name']}: revoked")


def _with(secrets: Path | None, needed: str) -> Path:
    """The secrets directory that holds what is needed. Raises CommandError."""
    where = secrets or DataDir(default_data_dir(os.environ)).secrets
    if not (where / needed).exists():
        raise CommandError(f"{where} has no {needed}: run this where the installation's secrets are, or give --secrets", Exit.USAGE)
    return where


def _become(secrets: Path, *words: str) -> NoReturn:
    """Inventory reads the secrets before it looks at the command; the database is not asked."""
    environment = os.environ | {"FLEETWARD_SECRETS": str(secrets), "FLEETWARD_DATABASE": "postgresql://not-used"}
    command = [*modules("inventory"), *words]
    os.execvpe(command[0], command, environment)

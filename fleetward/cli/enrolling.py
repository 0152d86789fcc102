"""The waiting room: `waiting`, `approve`, `reject` and `preregister`. What they do is what PATCH on a host does; this saves the typing."""

import sys
from datetime import datetime
from pathlib import Path

import click

from fleetward.cli import render
from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.output import Format, format_option, now, show_list, show_table, talk
from fleetward.cli.resources import dry_run_option
from fleetward.cli.session import Session, connected
from fleetward.cli.terminal import echo
from fleetward.client import Json, Resource

WAITING = "enrollment.waiting = true"
_HEAD = ["NAME", "SERIAL", "UUID", "MAC", "KEY", "FROM", "REPLACES", "ASKED"]
_KEY_SHOWN = 16


@click.command()
@format_option
@connected
def waiting(session: Session, output: str) -> None:
    """Show the devices that wait for approval, with what they say of themselves, and those that were refused."""
    kind = session.kind("host")
    items = list(session.client.resources(kind.collection, filter=WAITING, order_by="created_at"))
    if Format(output) not in (Format.TABLE, Format.WIDE):
        show_list(kind, items, {}, output)
        return
    names = _names(session, items)
    show_table(_HEAD, [_row(host, names, now(), wide=output == Format.WIDE) for host in items])
    if not items:
        talk("nobody waits")


def _names(session: Session, items: list[Resource]) -> dict[str, str]:
    """Of the hosts that they replace."""
    wanted = {str(host["replaces"]) for host in items if host.get("replaces")}
    return {id: str(session.client.get("hosts", id)["name"]) for id in sorted(wanted)}


def _row(host: Resource, names: dict[str, str], at: datetime, *, wide: bool) -> list[str]:
    came: Json = host["enrollment"]
    said: Json = came.get("evidence") or {}
    name = f"{host['name']} (refused)" if host["desired_state"] == "untrusted" else str(host["name"])
    key = str(came["fingerprint"]) if wide else str(came["fingerprint"])[:_KEY_SHOWN]
    macs = [str(mac) for mac in said.get("macs") or ()]
    shown = [name, said.get("serial"), said.get("uuid"), ", ".join(macs if wide else macs[:1]), key, said.get("address")]
    replaced = str(host.get("replaces") or "")
    cells = [render.cell("", value, at) for value in [*shown, names.get(replaced, replaced)]]
    return [*cells, render.age(str(came["asked_at"]), at)]


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME|ID...")
@click.option("--as-new", is_flag=True, help="A host of its own, also where its machine is known as another host.")
@connected
def approve(session: Session, names: tuple[str, ...], as_new: bool) -> None:
    """Let devices in that wait. One whose machine is known takes the place of that host, whose credentials are void then."""
    for name in names:
        host = session.client.get("hosts", name)
        patch: Json = {"desired_state": "onboarded"} | ({"replaces": None} if as_new else {})
        # Only as it was looked at: another key must not slip in between.
        session.client.patch("hosts", str(host["id"]), patch, version=int(host["version"]))
        replaced = None if as_new else host.get("replaces")
        whose = f", in place of {session.client.get('hosts', str(replaced))['name']}" if replaced else ""
        echo(f"host/{host['name']} approved{whose}")


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME|ID...")
@connected
def reject(session: Session, names: tuple[str, ...]) -> None:
    """Refuse devices that wait. They stay listed, so that the same key is refused again; delete the host to forget it."""
    for name in names:
        host = session.client.get("hosts", name)
        if not (host.get("enrollment") or {}).get("waiting"):
            words = f"host/{host['name']} does not wait: to take a host's trust away, set its desired_state to untrusted"
            raise CommandError(words, Exit.CONFLICT)
        session.client.patch("hosts", str(host["id"]), {"desired_state": "untrusted"}, version=int(host["version"]))
        echo(f"host/{host['name']} refused")


@click.command()
@click.option("-f", "--filename", "path", required=True, metavar="FILE|-", help="CSV: serial, uuid, name, title, site, labels.")
@dry_run_option
@format_option
@connected
def preregister(session: Session, path: str, dry_run: bool, output: str) -> None:
    """Write down machines that are to come, by serial number or SMBIOS UUID: with a token, these need no approval."""
    made = session.client.preregister(_text(path), dry_run=dry_run)
    if Format(output) in (Format.JSON, Format.JSONL):
        echo(render.to_json(made) if output == Format.JSON else render.to_json_line(made))
        return
    if output == Format.YAML:
        echo(render.to_yaml(made), nl=False)
        return
    done = "would be expected" if dry_run else "expected"
    for each in made["created"]:
        echo(f"host/{each['name']} {'' if output == Format.NAME else done}".rstrip())
    for each in made["known"]:
        talk(f"line {each['line']}: is host/{each['name']} already")
    for each in made["notes"]:
        talk(f"line {each['line']}: {each['detail']}")


def _text(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CommandError(f"{path}: is not UTF-8: save it as CSV UTF-8", Exit.USAGE) from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", Exit.USAGE) from None

"""Ways in: `token create` for devices, and `integration` for other programs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from fleetward.cli import joining
from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.output import format_option, show_done, show_list, talk
from fleetward.cli.resources import pair
from fleetward.cli.session import Session, connected
from fleetward.cli.terminal import echo
from fleetward.cli.wait import end_of
from fleetward.client import Json, Kind
from fleetward.trust import fingerprint

_INTEGRATION = Kind("integration", "integrations", "", "", "", ("name", "write", "scope", "created_at", "expires_at"), ("serial",), ())


@click.group()
def token() -> None:
    """Tokens with which devices enroll."""


@token.command(name="create")
@click.option("--uses", type=click.IntRange(min=1), default=1, show_default=True, help="How many devices may use it.")
@click.option("--ttl", metavar="DURATION", help="How long it may be used, such as 15m (the default) or 24h.")
@click.option("--site", metavar="SITE", help="The site its devices are put at.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label its devices get; repeatable.")
@click.option("--approve", is_flag=True, help="Its devices are onboarded at once, unless their machine is known already.")
@connected
def create_token(session: Session, uses: int, ttl: str | None, site: str | None, labels: tuple[str, ...], approve: bool) -> None:
    """Make an enrollment token and print it, alone; it is shown this once."""
    body: Json = {"uses": uses, "approve": approve}
    if ttl is not None:
        body["expires_at"] = end_of(ttl)
    if site is not None:
        body["site"] = site
    if labels:
        body["given_labels"] = dict(pair(label, "--label") for label in labels)
    made = session.client.create("enrollment-tokens", body)
    echo(made["token"])
    trust = f" --ca-fingerprint {fingerprint(session.ca)}" if session.ca else ""
    server = session.advertised or session.client.server
    waits = "" if approve else "; each then waits for `fleetward approve`"
    talk(f"For {uses} device{'s' if uses > 1 else ''}, until {made['expires_at']}{waits}. On the device:")
    if (line := _script(session, server)) is not None:
        talk(f"  {line}")
        talk("or, where the agent is installed already, as root:")
    talk(f"  fleetward-agent enroll --server {server} --token TOKEN{trust} && fleetward-agent run")


def _script(session: Session, server: str) -> str | None:
    """With the name that devices know it by; its key is the same by each of its names. None where it can't be asked for that."""
    try:
        reached = joining.command(session.client.server, session.ca)
    except OSError:
        return None
    return reached.replace(f" {session.client.server}/", f" {server}/")


@click.group()
def integration() -> None:
    """Other programs on the broker."""


@integration.command(name="list")
@format_option
@connected
def list_integrations(session: Session, output: str) -> None:
    """All programs that have a certificate, and which of them may write: signed, or unsigned, which whoever runs the broker can forge."""
    show_list(_INTEGRATION, session.client.items(_INTEGRATION.collection), {}, output)


@integration.command(name="create")
@click.argument("name")
@click.option("--write", "signed", is_flag=True, help="It may publish intents, signed with its key.")
@click.option("--write-unsigned", "unsigned", is_flag=True, help="It may publish intents unsigned: whoever runs the broker can forge them.")
@click.option("--scope", metavar="FILTER", default="", help="The hosts that it is about; all where nothing is said.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where client.crt, client.key and ca.crt go.")
@connected
def create_integration(session: Session, name: str, signed: bool, unsigned: bool, scope: str, out: Path) -> None:
    """Make a certificate for a program. Its key is made here and never leaves."""
    if signed and unsigned:
        raise CommandError("--write or --write-unsigned, not both", Exit.USAGE)
    write = "signed" if signed else "unsigned" if unsigned else "none"
    # Only this command needs X.509, which takes a tenth of a second to load.
    from fleetward.cli import keys

    key = keys.new()
    with _kept(out / "client.key", keys.private_pem(key)):
        body = {"name": name, "write": write, "scope": scope, "csr": keys.request(name, key)}
        answer = session.client.create("integrations", body)
        keep(out / "client.crt", str(answer["certificate"]), 0o644)
        keep(out / "ca.crt", str(answer["ca"]), 0o644)
    echo(str(out))
    broker = answer.get("broker") or {}
    talk(f"{name} may connect to {broker.get('host')}:{broker.get('port')} with the files in {out}")


@integration.command(name="renew")
@click.argument("name")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where its client.key is.")
@connected
def renew_integration(session: Session, name: str, out: Path) -> None:
    """Another certificate for a program's key, where the one that it has nears its end or the CA has changed; and the CAs of now."""
    from fleetward.cli import keys

    known = _known(session, name)
    try:
        key = keys.read((out / "client.key").read_bytes())
        answer = session.client.create("integrations", _again(known, keys.request(name, key)))
        keep(out / "client.crt", str(answer["certificate"]), 0o644)
        keep(out / "ca.crt", str(answer["ca"]), 0o644)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}", Exit.USAGE) from None
    except ValueError as error:
        raise CommandError(f"{out / 'client.key'}: {error}", Exit.USAGE) from None
    echo(str(out))


def _known(session: Session, name: str) -> Json:
    """Raises CommandError."""
    for each in session.client.items(_INTEGRATION.collection):
        if each["name"] == name:
            return each
    raise CommandError(f"there is no integration {name}: make it with `fleetward integration create`", Exit.NOT_FOUND)


def _again(known: Json, csr: str) -> Json:
    """The request that made it, with another CSR."""
    return {"name": known["name"], "write": known["write"], "scope": known.get("scope", ""), "csr": csr}


@integration.command(name="scope")
@click.argument("name")
@click.argument("scope", metavar="FILTER")
@format_option
@connected
def set_scope(session: Session, name: str, scope: str, output: str) -> None:
    """Change which hosts a program is about; its next event and intent go by it. An empty filter is all of them.

    With a first scope, and without any, it has another certificate from then on, which `integration renew` fetches."""
    known = _known(session, name)
    found = session.client.patch("integrations", name, {"scope": scope})
    show_done(found, f"is about {scope or 'all hosts'} now", output)
    if found["serial"] != known["serial"]:
        talk(f"its certificate was replaced; fetch the new one: fleetward integration renew {name} --out DIR")
    talk("where it keeps a copy it should list again: no event tells what this moved")


@integration.command(name="delete")
@click.argument("name")
@connected
def delete_integration(session: Session, name: str) -> None:
    """Take a program's certificate back: its connection ends within 5 s, what it asks is refused, and its name is free again."""
    session.client.delete("integrations", name)
    talk(f"{name} is out")


@contextlib.contextmanager
def _kept(path: Path, secret: str) -> Iterator[None]:
    """A key on disk before its certificate is asked for, so that a directory which can't be written costs no name; in its place once
    all that was meant to stand beside it does. What is there of another integration stays where the server refuses. Raises CommandError."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            keep(partial, secret, 0o600)
            yield
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}", Exit.USAGE) from None


def keep(path: Path, text: str, mode: int) -> None:
    """Never readable by others, not even for a moment."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)

"""People and programs that sign in: `user`, `session` and `api-token`. `token` is something else: with it devices enroll."""

from typing import Any

import click

from fleetward.cli.exits import CommandError, Exit
from fleetward.cli.output import format_option, show_done, show_list, talk
from fleetward.cli.session import Session, connected
from fleetward.cli.terminal import echo
from fleetward.cli.wait import end_of
from fleetward.client import Json, Kind

ROLES = ("viewer", "operator", "admin")

_USER_COLUMNS = ("name", "role", "scope", "source", "second_factor", "disabled", "signed_in_at")
_USER = Kind("user", "users", "user", "", "", _USER_COLUMNS, ("title", "must_change_password", "created_at", "id"), ())
_TOKEN = Kind(
    "api-token",
    "api-tokens",
    "apit",
    "",
    "",
    ("name", "role", "scope", "expires_at", "last_used_at"),
    ("created_by", "created_at", "id"),
    (),
)
_SESSION = Kind("session", "sessions", "sess", "", "", ("id", "user", "address", "seen_at"), ("created_at", "expires_at", "agent"), ())

_role = click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True)
_scope = click.option("--scope", metavar="FILTER", default="", help="The hosts that the role holds for; all where nothing is said.")


def _listed(session: Session, kind: Kind, output: str, **query: str | None) -> None:
    items = session.client.items(kind.collection, **query)
    show_list(kind, items, {}, output)


@click.group()
def user() -> None:
    """People who sign in."""


@user.command(name="list")
@format_option
@connected
def list_users(session: Session, output: str) -> None:
    """All users."""
    _listed(session, _USER, output)


@user.command(name="create")
@click.argument("name")
@_role
@_scope
@click.option("--title", default="", help="Their name as people write it.")
@connected
def create_user(session: Session, name: str, role: str, scope: str, title: str) -> None:
    """Make a user and print a password for one sign-in, alone; it is shown this once, and has to be changed then."""
    _hand_on(session.client.create("users", {"name": name, "role": role, "scope": scope, "title": title}))


@user.command(name="reset-password")
@click.argument("name")
@connected
def reset_password(session: Session, name: str) -> None:
    """End all sessions of a user and print another password for one sign-in, alone."""
    _hand_on(session.client.verb("users", name, "reset-password"))


def _hand_on(made: Json) -> None:
    echo(made["password"])
    talk(f"Hand it on to {made['name']}: good for one sign-in, until {made['password_expires_at']}.")


@user.command(name="role")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@format_option
@connected
def set_role(session: Session, name: str, role: str, output: str) -> None:
    """Change what a user may do; it holds at once."""
    _changed(session, name, {"role": role}, f"is {role} now", output)


@user.command(name="scope")
@click.argument("name")
@click.argument("scope", metavar="FILTER")
@format_option
@connected
def set_scope(session: Session, name: str, scope: str, output: str) -> None:
    """Change which hosts the role of a user holds for; it holds at once. An empty filter is all of them."""
    _changed(session, name, {"scope": scope}, f"holds for {scope or 'all hosts'} now", output)


@user.command(name="disable")
@click.argument("name")
@format_option
@connected
def disable(session: Session, name: str, output: str) -> None:
    """Let a user in no more, and end their sessions."""
    _changed(session, name, {"disabled": True}, "disabled", output)


@user.command(name="enable")
@click.argument("name")
@format_option
@connected
def enable(session: Session, name: str, output: str) -> None:
    """Let a user in again."""
    _changed(session, name, {"disabled": False}, "enabled", output)


def _changed(session: Session, name: str, patch: dict[str, Any], what: str, output: str) -> None:
    show_done(session.client.patch("users", name, patch), what, output)


@user.command(name="reset-second-factor")
@click.argument("name")
@format_option
@connected
def reset_second_factor(session: Session, name: str, output: str) -> None:
    """Take away the second factor of a user who has lost it: their password then suffices, until they make another one."""
    show_done(session.client.verb("users", name, "reset-second-factor"), "has no second factor now", output)


@user.command(name="sign-out")
@click.argument("name")
@connected
def sign_out(session: Session, name: str) -> None:
    """End all sessions of a user."""
    ended = session.client.verb("users", name, "sign-out")["ended"]
    echo(f"user/{name} signed out of {ended} session{'' if ended == 1 else 's'}")


@user.command(name="delete")
@click.argument("name")
@connected
def delete_user(session: Session, name: str) -> None:
    """Delete a user, with their sessions. The last administrator stays."""
    session.client.delete("users", name)
    echo(f"user/{name} deleted")


@click.group(name="session")
def sessions() -> None:
    """Browsers that have signed in."""


@sessions.command(name="list")
@click.option("--user", "name", metavar="NAME", help="Only those of this user.")
@format_option
@connected
def list_sessions(session: Session, name: str | None, output: str) -> None:
    """Who has signed in, from where, and when they were seen last."""
    _listed(session, _SESSION, output, user=name)


@sessions.command(name="end")
@click.argument("id")
@connected
def end_session(session: Session, id: str) -> None:
    """Sign a browser out; what it has open ends within seconds."""
    session.client.delete("sessions", id)
    echo(f"session/{id} ended")


@click.group(name="api-token")
def api_token() -> None:
    """Tokens with which programs sign in to the API."""


@api_token.command(name="list")
@format_option
@connected
def list_tokens(session: Session, output: str) -> None:
    """All API tokens, with when they were used last."""
    _listed(session, _TOKEN, output)


@api_token.command(name="create")
@click.argument("name")
@_role
@_scope
@click.option("--ttl", metavar="DURATION", help="How long it is good for, such as 30d; 90d where nothing is said.")
@click.option("--forever", is_flag=True, help="It does not end by itself.")
@connected
def create_token(session: Session, name: str, role: str, scope: str, ttl: str | None, forever: bool) -> None:
    """Make an API token and print it, alone; it is shown this once."""
    if ttl and forever:
        raise CommandError("--ttl or --forever, not both", Exit.USAGE)
    body: Json = {"name": name, "role": role, "scope": scope}
    if ttl or forever:
        body["expires_at"] = end_of(ttl) if ttl else None
    made = session.client.create("api-tokens", body)
    echo(made["token"])
    what = f"what a{'n' if role[0] in 'ao' else ''} {role} may{f', to hosts that match {scope}' if scope else ''}"
    talk(f"{name} may do {what}, until {made['expires_at'] or 'it is revoked'}.")


@api_token.command(name="revoke")
@click.argument("name")
@connected
def revoke_token(session: Session, name: str) -> None:
    """End an API token at once."""
    session.client.delete("api-tokens", name)
    echo(f"api-token/{name} revoked")

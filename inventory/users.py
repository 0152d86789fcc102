"""Users: people who may sign in, with a password of their own or by an identity provider. Made, changed, reset and deleted here.

Nobody chooses another's password: an administrator gets a one-time one to hand on, which has to be changed at the first sign-in. An
installation always keeps somebody who can administer it: an administrator with a password of their own who is not disabled; whatever would
take the last one is refused. Whoever loses rights loses them at once, and disabling, resetting and deleting end all sessions.

Each write is given a transaction and records itself for the audit there. A role with a `scope` holds for the hosts of that filter only, and
whoever has one administers nobody (`inventory.access`). Called by the web process, after `inventory.access.check`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from inventory import account_log, accounts, passwords, sessions
from inventory.access import ROLES, checked_scope
from inventory.actor import Actor
from inventory.bodies import Body, read
from inventory.db import Database, Tx
from inventory.errors import Conflict, Forbidden, Invalid, Problem
from inventory.ids import new_id
from inventory.resource import Resource, time_text
from inventory.tables import User

LOCK = 0x666C7764_0020
"""Advisory lock of whoever makes an account or takes an administrator away (`inventory.db` says how they are numbered): two who demote each
other would leave none, and of two who take a name one is to be told so."""

Role = Literal["viewer", "operator", "admin"]
NAME = r"^[a-z0-9]([a-z0-9._@+-]{0,251}[a-z0-9])?$"
NAME_WORDS = "small letters, digits and any of . _ @ + - between them, at most 253"
Title = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f]*$", description="one line of text")]


class Made(Body):
    """What makes a user."""

    name: Annotated[str, Field(pattern=NAME, description=NAME_WORDS)]
    role: Role = "viewer"
    title: Title = ""
    scope: str = ""


class Change(Body):
    """RFC 7396: what to change of one; absent members stay."""

    role: Role | None = None
    title: Title | None = None
    disabled: bool | None = None
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """Whom an identity provider has signed in. `issuer` and `subject` are who it is; the name is how it is shown. scope: what they get
    with their first sign-in; from then on it is an administrator's to change."""

    issuer: str
    subject: str
    name: str
    title: str
    role: str
    scope: str = ""


def view(user: User) -> Resource:
    """As the API and the audit show one: nothing secret, nothing that changes with each sign-in."""
    return {
        "id": user.id,
        "kind": "user",
        "name": user.name,
        "title": user.title,
        "role": user.role,
        "scope": user.scope,
        "source": "local" if user.issuer is None else user.issuer,
        "disabled": user.disabled_at is not None,
        "must_change_password": user.password_expires_at is not None,
        "second_factor": user.totp_since is not None,
        "created_at": time_text(user.created_at),
    }


def full_view(user: User) -> Resource:
    """With when they signed in last, for lists."""

    def text(at: datetime | None) -> str | None:
        return None if at is None else time_text(at)

    seen = {"signed_in_at": user.signed_in_at, "password_changed_at": user.password_changed_at}
    return view(user) | {name: text(at) for name, at in seen.items()} | {"password_expires_at": text(user.password_expires_at)}


async def list_all(db: Database) -> list[Resource]:
    """By name."""
    async with db.transaction() as tx:
        return [full_view(user) for user in await User.all().order_by("name").using_db(tx.client)]


async def get(db: Database, ref: str) -> Resource:
    """By id or name. Raises NotFound."""
    async with db.transaction() as tx:
        return full_view(await locked(tx, ref))


async def locked(tx: Tx, ref: str) -> User:
    """By id or name, locked until the commit. Raises NotFound."""
    return await accounts.locked(tx, User, "user", ref)


async def create(tx: Tx, actor: Actor, body: Any, hashed: str, now: datetime) -> Resource:
    """hashed: of the one-time password. Raises Invalid, Conflict."""
    made = read(Made, body)
    scope = checked_scope(made.scope)
    await alone(tx)
    if await User.filter(name=made.name).using_db(tx.client).exists():
        raise _taken(made.name)
    user = User(id=new_id("user"), name=made.name, role=made.role, title=made.title, scope=scope, created_at=now)
    _one_time(user, hashed, now)
    return await _added(tx, actor, user, now)


async def _added(tx: Tx, actor: Actor, user: User, now: datetime) -> Resource:
    await user.save(using_db=tx.client, force_create=True)
    await account_log.record(tx, actor, "user", user.id, now, after=view(user))
    return full_view(user)


async def change(tx: Tx, actor: Actor, ref: str, patch: Any, now: datetime) -> Resource:
    """Raises NotFound, Invalid, Conflict."""
    wanted = read(Change, patch)
    scope = None if wanted.scope is None else checked_scope(wanted.scope)
    await alone(tx)
    user = await locked(tx, ref)
    before = view(user)
    if wanted.role is not None and wanted.role != user.role and user.issuer is not None:
        words = "comes from the identity provider at each sign-in; change it there"
        raise Invalid(f"role: {words}", errors=(Problem("/role", words),))
    if (wanted.role not in (None, "admin") or wanted.disabled or scope) and _administers(user):
        await _keep_an_administrator(tx, user)
    user.role = wanted.role or user.role
    user.scope = user.scope if scope is None else scope
    user.title = user.title if wanted.title is None else wanted.title
    if wanted.disabled is not None and wanted.disabled != (user.disabled_at is not None):
        user.disabled_at = now if wanted.disabled else None
    await user.save(using_db=tx.client, update_fields=["role", "scope", "title", "disabled_at"])
    await account_log.record(tx, actor, "user", user.id, now, before=before, after=view(user))
    if user.disabled_at is not None:
        await sessions.end_all(tx, actor, user.id, now)
    return full_view(user)


async def delete(tx: Tx, actor: Actor, ref: str, now: datetime) -> None:
    """With all sessions. Raises NotFound, Conflict."""
    await alone(tx)
    user = await locked(tx, ref)
    if _administers(user):
        await _keep_an_administrator(tx, user)
    await sessions.end_all(tx, actor, user.id, now)
    await User.filter(id=user.id).using_db(tx.client).delete()
    await account_log.record(tx, actor, "user", user.id, now, before=view(user))


async def reset_password(tx: Tx, actor: Actor, ref: str, hashed: str, now: datetime) -> Resource:
    """Another one-time password; the sessions end. Raises NotFound, Conflict."""
    user = await locked(tx, ref)
    if user.issuer is not None:
        raise Conflict(f"{user.name} signs in by {user.issuer}, and has no password here")
    before = view(user)
    _one_time(user, hashed, now)
    await user.save(using_db=tx.client, update_fields=["password", "password_changed_at", "password_expires_at"])
    # Also where one was handed out before, and nothing that the view shows is different.
    await account_log.record(
        tx, actor, "user", user.id, now, before=before | {"password": "before"}, after=view(user) | {"password": "reset"}
    )
    await sessions.end_all(tx, actor, user.id, now)
    return full_view(user)


async def set_own_password(tx: Tx, actor: Actor, id: str, hashed: str, session: str, now: datetime) -> None:
    """By its owner, who has shown the present one. All sessions but this one end. Raises NotFound, Forbidden."""
    user = await locked(tx, id)
    # Whoever has given the user another password since the present one was looked at, has ended the session.
    if not await tx.raw.fetchval('SELECT 1 FROM sessions WHERE id = $1 AND "user" = $2', session, id):
        raise Forbidden("this session was ended meanwhile, and the password is as it was: sign in again")
    before = view(user)
    user.password, user.password_changed_at, user.password_expires_at = hashed, now, None
    await user.save(using_db=tx.client, update_fields=["password", "password_changed_at", "password_expires_at"])
    await account_log.record(tx, actor, "user", id, now, before=before | {"password": "before"}, after=view(user) | {"password": "changed"})
    await sessions.end_all(tx, actor, id, now, but=session)


async def from_provider(tx: Tx, known: Known, address: str, now: datetime) -> User:
    """The user whom an identity provider has signed in, made at the first time, with the role that it says. Never one with a password of
    the same name: whoever can choose a name there would be that one here. Raises Forbidden."""
    actor = Actor.user(known.name, known.role, address)
    await alone(tx)
    user = await User.filter(issuer=known.issuer, subject=known.subject).using_db(tx.client).select_for_update().first()
    if user is None:
        if await User.filter(name=known.name).using_db(tx.client).exists():
            raise Forbidden(f"there is a user {known.name} already whom the identity provider does not sign in; rename one of the two")
        user = User(id=new_id("user"), name=known.name, title=known.title, role=known.role, password="", created_at=now)
        user.issuer, user.subject, user.scope = known.issuer, known.subject, known.scope
        await _added(tx, actor, user, now)
        return user
    if user.disabled_at is not None:
        raise Forbidden("this user is disabled; ask an administrator")
    before = view(user)
    user.role, user.title = known.role, known.title
    await user.save(using_db=tx.client, update_fields=["role", "title"])
    await account_log.record(tx, actor, "user", user.id, now, before=before, after=view(user))
    return user


def _one_time(user: User, hashed: str, now: datetime) -> None:
    user.password, user.password_changed_at, user.password_expires_at = hashed, now, now + passwords.ONE_TIME


def _administers(user: User) -> bool:
    """Counts as somebody who can administer, whatever becomes of an identity provider or of a password on a slip of paper."""
    return (
        user.role == ROLES[-1] and not user.scope and user.disabled_at is None and bool(user.password) and user.password_expires_at is None
    )


async def alone(tx: Tx) -> None:
    """One at a time, until the commit."""
    await tx.raw.execute("SELECT pg_advisory_xact_lock($1)", LOCK)


async def _keep_an_administrator(tx: Tx, leaving: User) -> None:
    """Raises Conflict where there is no other."""
    others = (
        User.filter(role=ROLES[-1], scope="", disabled_at__isnull=True, password_expires_at__isnull=True)
        .exclude(id=leaving.id)
        .exclude(password="")
    )
    if not await others.using_db(tx.client).exists():
        raise Conflict(
            f"{leaving.name} is the only administrator with a password of their own: make another one, who has signed in once, first"
        )


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a user named {name} already", errors=(Problem("/name", "is taken"),))

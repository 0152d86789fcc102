"""Sessions of browsers that have signed in: opened, listed, ended; and what a sign-in of two steps leaves between them.

A session is a row: ending it is deleting the row, which the next request notices, and open streams within seconds (`web.standing`). Each
sign-in makes a new secret and ends the session that the browser had, so that a cookie planted in it before is worth nothing after.
What was opened and ended is recorded for the audit. Called by the web process.

Source: OWASP Session Management Cheat Sheet; OWASP ASVS 5.0 section 7.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from inventory import account_log
from inventory.accounts import Account, digest, new_secret
from inventory.actor import Actor
from inventory.db import SQL, Database, Tx
from inventory.errors import Forbidden, NotFound
from inventory.ids import new_id
from inventory.resource import Resource, time_text

BEGUN = timedelta(minutes=10)
"""How long somebody has between the steps of a sign-in: to find their telephone, or to be asked by the identity provider."""
MAX_AGENT: int = 256
"""Characters kept of what a browser calls itself."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session: the cookie's secret, shown this once, and the token against forged requests."""

    secret: str
    csrf: str


@dataclass(frozen=True, slots=True)
class Browser:
    """What signs in. address: of its socket. agent: what it calls itself. had: the cookie that it had before; that session ends."""

    address: str
    agent: str
    had: str = ""


async def open_session(
    db: Database, account: Account, browser: Browser, how: str, now: datetime, longest: timedelta, *, since: datetime | None = None
) -> Opened:
    """Remember that this browser has signed in, until `now + longest` at the most. how: `password`, `code` or `provider`, for the audit.
    since: when the password that was shown became theirs; Forbidden where they have another one by now, as all that the former one had
    opened is ended already. Forgets sessions and sign-ins that have ended."""
    opened, id = Opened(new_secret(), secrets.token_urlsafe(24)), new_id("sess")
    actor, agent = Actor.user(account.name, account.role, browser.address), "".join(filter(str.isprintable, browser.agent))[:MAX_AGENT]
    async with db.transaction() as tx:
        # The user first, as whoever ends their sessions has it.
        if not await tx.raw.fetchval(SQL["note_sign_in"], account.id, now, since):
            raise Forbidden("the password was changed, or the user deleted, meanwhile: sign in again")
        await tx.raw.execute("DELETE FROM sessions WHERE expires_at <= $1 OR token_hash = $2", now, digest(browser.had))
        await tx.raw.execute("DELETE FROM sign_ins_begun WHERE expires_at <= $1", now)
        place = (browser.address, agent)
        await tx.raw.execute(SQL["open_session"], digest(opened.secret), id, account.id, opened.csrf, now, now + longest, *place)
        said = {"user": account.name, "address": browser.address, "agent": agent, "how": how}
        await account_log.record(tx, actor, "session", id, now, after=said)
    return opened


async def list_sessions(db: Database, user: str | None, now: datetime, idle: timedelta, *, before: str = "", limit: int) -> list[Resource]:
    """Of one user, by id, or of all; the newest first. before: below this id, where a page ended. Raises Unavailable."""
    async with db.acquire() as connection:
        rows = await connection.fetch(SQL["list_sessions"], user, now, now - idle, before, limit)
    return [_view(row) for row in rows]


async def end_one(tx: Tx, actor: Actor, id: str, now: datetime, *, of: str | None = None) -> None:
    """of: only if it is this user's, by id. Raises NotFound."""
    if "\0" in id or not await _end(tx, actor, 'id = $1 AND ($2::text IS NULL OR "user" = $2)', (id, of), now):
        raise NotFound(f"there is no session {id[:64]!r}")


async def end_all(tx: Tx, actor: Actor, user: str, now: datetime, *, but: str = "") -> int:
    """Of a user, by id, with whatever sign-in is under way; `but` this one. How many there were."""
    await tx.raw.execute('DELETE FROM sign_ins_begun WHERE "user" = $1', user)
    return await _end(tx, actor, '"user" = $1 AND id <> $2', (user, but), now)


async def close(db: Database, actor: Actor, secret: str, now: datetime) -> None:
    """Sign out."""
    async with db.transaction() as tx:
        await _end(tx, actor, "token_hash = $1", (digest(secret),), now)


async def _end(tx: Tx, actor: Actor, which: str, values: tuple[Any, ...], now: datetime) -> int:
    rows = await tx.raw.fetch(
        f"WITH gone AS (DELETE FROM sessions WHERE {which} RETURNING *) "
        'SELECT g.id, u.name, g.address, g.agent FROM gone g JOIN users u ON u.id = g."user" ORDER BY g.id',
        *values,
    )
    for row in rows:
        said = {"user": row["name"], "address": row["address"], "agent": row["agent"]}
        await account_log.record(tx, actor, "session", row["id"], now, before=said)
    return len(rows)


def _view(row: Any) -> Resource:
    return {
        "id": row["id"],
        "kind": "session",
        "user": row["name"],
        "address": row["address"],
        "agent": row["agent"],
        **{name: time_text(row[name]) for name in ("created_at", "seen_at", "expires_at")},
    }


# --- sign-ins under way -------------------------------------------------------------------------------------------------------


async def begin(db: Database, user: str, now: datetime) -> str:
    """The password of this user, by id, was right; the secret that the browser has to bring with the code."""
    secret = new_secret()
    async with db.transaction() as tx:
        await tx.raw.execute(
            'INSERT INTO sign_ins_begun (token_hash, "user", expires_at) VALUES ($1, $2, $3)', digest(secret), user, now + BEGUN
        )
    return secret


async def begun(db: Database, secret: str, now: datetime) -> str | None:
    """Whose password it was, by id, unless too much time has gone by."""
    async with db.acquire() as connection:
        found: str | None = await connection.fetchval(
            'SELECT "user" FROM sign_ins_begun WHERE token_hash = $1 AND expires_at > $2', digest(secret), now
        )
    return found


async def finish(db: Database, secret: str) -> bool:
    """The second step is done. False where the sign-in was ended meanwhile."""
    async with db.transaction() as tx:
        return bool(await tx.raw.fetchval("DELETE FROM sign_ins_begun WHERE token_hash = $1 RETURNING true", digest(secret)))

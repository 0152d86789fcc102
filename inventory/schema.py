"""Whether the database's schema is the one this release was written for. It changes nothing: `inventory.db.migrate` does.

Called by the web process's readiness check and by `doctor`.
"""

import pkgutil
from functools import cache

from inventory import migrations
from inventory.db import APP, Database


@cache
def known() -> frozenset[str]:
    """The names of the migrations that this release has."""
    return frozenset(module.name for module in pkgutil.iter_modules(migrations.__path__))


async def behind(db: Database) -> int:
    """How many of this release's migrations the database has not had. Raises Unavailable."""
    async with db.acquire() as connection:
        if await connection.fetchval("SELECT to_regclass('tortoise_migrations')") is None:
            return len(known())
        rows = await connection.fetch("SELECT name FROM tortoise_migrations WHERE app = $1", APP)
    return len(known() - {row["name"] for row in rows})

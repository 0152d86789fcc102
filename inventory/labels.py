"""Effective labels: a host's own over its site's over those of the regions above, kept in a side table for filters and selectors.

The store calls `refresh` in the transaction of any write to a host's site or labels; the places manager calls `Store.relabel` when a
site or region changed. A host whose effective labels did change gets a new version and a change of its own; the others get nothing.
"""

from collections.abc import Sequence

from inventory.db import SQL, Tx, dumps, loads


async def refresh(tx: Tx, hosts: Sequence[str]) -> list[str]:
    """Bring the side table up to date for these hosts; the ids of those whose labels differ now. Rows are locked in id order."""
    if not hosts:
        return []
    await tx.raw.execute("SELECT 1 FROM host WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE", list(hosts))
    rows = await tx.raw.fetch(SQL["effective_labels"], list(hosts))
    changed = {row["id"]: row["wanted"] for row in rows if row["stored"] is None or loads(row["wanted"]) != loads(row["stored"])}
    if changed:
        await tx.raw.execute(SQL["store_labels"], list(changed), [dumps(loads(labels)) for labels in changed.values()])
    return list(changed)

"""Plain tables of the kinds that have no screen of their own, made from what the Kind says of itself. A new kind needs nothing here."""

from quart import Blueprint, Response

from inventory.errors import NotFound
from inventory.kind import Kind
from inventory.kinds import BY_COLLECTION, KINDS
from inventory.resource import Resource
from web.identity import view
from web.pages.frame import page, person
from web.pages.listing import SIZES, asked, listed

blueprint = Blueprint("tables", __name__)

SCREENS = frozenset({"hosts", "configs", "sites", "regions", "notifications", "enrollment-tokens"})
"""Collections that have pages of their own."""
TABLES = tuple(kind for kind in KINDS if kind.collection not in SCREENS)


@blueprint.get("/tables/<collection>")
async def show(collection: str) -> Response:
    await person()
    kind = BY_COLLECTION.get(collection)
    if kind is None or kind not in TABLES:
        raise NotFound(f"there is no table {collection[:64]!r}; there are {', '.join(each.collection for each in TABLES)}")
    found = await listed(kind, asked("created_at desc"))
    return await page(
        "table.html",
        kind.collection.replace("-", " ").capitalize(),
        kind=kind,
        listed=found,
        columns=(*kind.columns, "updated_at"),
        names=await _names(kind, found.page.items),
        sizes=SIZES,
    )


async def _names(kind: Kind, items: list[Resource]) -> dict[str, tuple[str, str]]:
    """Of what the rows refer to: by id, kind and name."""
    names: dict[str, tuple[str, str]] = {}
    for field, reference in kind.references:
        found = await view().read_many(reference.kind, {item[field.name] for item in items if item[field.name]})
        names |= {id: (reference.kind, str(resource["name"])) for id, resource in found.items()}
    return names

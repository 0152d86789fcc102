"""The audit page: who did what, from where, and what it was before; for administrators. Its filters are those of the API's parameters.

Without a choice it shows what people and programs did, and not what devices and managers made of it: that is the events page's story.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from quart import Blueprint, Response, request

from inventory import heads, trail
from inventory.access import Action
from inventory.account_log import ACCOUNT_KINDS, Op
from inventory.kinds import BY_NAME
from inventory.trail import Wanted
from web.identity import view
from web.pages.formats import plain
from web.pages.frame import page, person
from web.pages.story import cut, link
from web.services import services

blueprint = Blueprint("audit_page", __name__)

SHOWN = 50
KINDS = (*BY_NAME, *ACCOUNT_KINDS)
OPS = get_args(Op)
TYPES = ("people", *trail.PEOPLE, *trail.OTHERS)


@dataclass(frozen=True, slots=True)
class Told:
    """An entry as a row: its name and link, and `path: old, new` of whatever there is to say."""

    entry: Mapping[str, Any]
    name: str
    link: str
    details: tuple[tuple[str, str, str], ...]


@blueprint.get("/audit")
async def show() -> Response:
    await person(Action.ADMINISTER)
    asked = _asked()
    before = request.args.get("before", "")
    found = await trail.page(services().db, asked, before=int(before[:18]) if before.isdecimal() else None, limit=SHOWN)
    names = await _names(found.items)
    return await page(
        "audit.html",
        "Audit",
        told=[tell(each, names) for each in found.items],
        older=found.next,
        paged=bool(before),
        asked=asked,
        everyone=not set(asked.types) <= set(trail.PEOPLE),
        kinds=KINDS,
        ops=OPS,
        head=await heads.newest_of(services().db),
    )


def _asked() -> Wanted:
    """What the URL asks for; a word that is none asks for nothing."""
    chosen = {name: [each for each in request.args.getlist(name) if each in known] for name, known in _CHOICES.items()}
    types = trail.types_of(chosen["type"] or ["people"])
    actor, address, id, path = (request.args.get(name, "").strip().replace("\0", "") for name in ("actor", "address", "id", "path"))
    return Wanted(types=types, kinds=tuple(chosen["kind"]), ops=tuple(chosen["op"]), actor=actor, address=address, id=id, path=path)


_CHOICES = {"type": TYPES, "kind": KINDS, "op": OPS}


async def _names(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Of the resources that entries are about, by id."""
    by_kind: dict[str, set[str]] = {}
    for item in items:
        if item["kind"] in BY_NAME:
            by_kind.setdefault(item["kind"], set()).add(item["id"])
    found: dict[str, str] = {}
    for kind, ids in by_kind.items():
        found |= {id: str(each["title"] or each["name"]) for id, each in (await view().read_many(kind, ids)).items()}
    return found


def tell(entry: Mapping[str, Any], names: Mapping[str, str]) -> Told:
    whole = entry["after"] or entry["before"] or {}
    there = entry["op"] != "deleted" and entry["id"] in names
    name = names.get(entry["id"]) or str(whole.get("name") or whole.get("user") or entry["id"])
    return Told(entry, name, link(entry["kind"], entry["id"], entry["host"]) if there else "", tuple(details(entry)))


def details(entry: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Each changed path with its old and new value; of an account that was made or is gone, and of a sign-in, what there is to it."""
    before, after = entry["before"] or {}, entry["after"] or {}
    if entry["op"] == "updated":
        for path in entry["changed"]:
            yield path, cut(path, _at(before, path)), cut(path, _at(after, path))
    elif entry["kind"] in ACCOUNT_KINDS:
        for name in {**before, **after}:
            if name not in ("name", "user"):
                yield name, cut(name, before.get(name)), cut(name, after.get(name)) if after else plain(None)


def _at(whole: Mapping[str, Any], path: str) -> Any:
    head, _, rest = path.partition(".")
    value = whole.get(head)
    return value.get(rest) if rest and isinstance(value, dict) else value

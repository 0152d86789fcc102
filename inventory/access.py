"""Who may do what, and on which hosts: a role against an action, a scope against hosts. Shared by REST and MQTT intents, so that both
refuse alike.

Pure. A `viewer` reads, an `operator` changes resources, an `admin` also lets others in. `check` is the one place to ask for that; every
route and intent does, before anything is read. A role may hold for a part of the fleet only: its *scope* is a filter of hosts, as a
config's selector is one, and `seen` says as SQL what of a kind lies within it. Reads (`inventory.view`), writes (`inventory.writer`) and
the change log (`inventory.seen`) all ask here. Fields of other owners are refused by `inventory.validate`, whatever the role.

Source: docs/adr/0027-scopes.md.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache

from inventory.actor import Actor
from inventory.errors import Forbidden, Invalid, Problem
from inventory.filter import FilterError, Predicate, compile_filter
from inventory.filter_syntax import All, Comparison, Group, Literal, Node, Not, Search, Some, parse
from inventory.kind import Kind
from inventory.kinds import BY_NAME
from inventory.kinds.host import HOST

log = logging.getLogger(__name__)

ROLES = ("viewer", "operator", "admin")
"""From least to most; each may do what the ones before it may."""

HOSTS = f'"{HOST.table}" r LEFT JOIN host_labels hl ON hl.host = r.id'
"""What the condition of a scope stands on: the hosts' rows and their effective labels, all that a selector can ask for. Not the kind's own
joins: with those a list would join more tables than PostgreSQL looks for the best order of (`join_collapse_limit`)."""

_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""A scope can't depend on the present time, as no selector can."""


class Action(IntEnum):
    """What is asked for. The value is the place in ROLES of the least role that may."""

    READ = 0
    WRITE = 1
    ADMINISTER = 2


def allowed(role: str, action: Action, scope: str = "") -> bool:
    """Whether a role suffices; a role that there is not suffices for nothing. Who administers decides for all, so it takes a role without a
    scope."""
    return role in ROLES and ROLES.index(role) >= action and not (scope and action is Action.ADMINISTER)


def check(actor: Actor, action: Action, what: str) -> None:
    """Raises Forbidden where the role of a user or a token does not suffice. `what`: the kind or thing, for the words. Others have none."""
    if actor.type not in ("user", "token") or allowed(actor.role, action, actor.scope):
        return
    if allowed(actor.role, action):
        raise Forbidden(f"{what}: this is about the whole installation; {_holds_for(actor)}")
    raise Forbidden(f"{what}: this needs the role {ROLES[action]}; {actor.name} is {actor.role or 'of no role'}")


def check_whole(actor: Actor, what: str) -> None:
    """Raises Forbidden for whoever has a scope. `what` concerns hosts that nobody has counted."""
    if actor.scope:
        raise Forbidden(f"{what} reaches beyond any host; {_holds_for(actor)}: ask somebody whose role holds for all")


def _holds_for(actor: Actor) -> str:
    return f"the role of {actor.name} holds only for hosts that match {actor.scope}"


def outside(actor: Actor, kind: Kind) -> Forbidden:
    """Why a write is refused that would put what it writes out of the writer's sight."""
    return Forbidden(f"this {kind.name} would be outside then: {_holds_for(actor)}")


# --- scopes -----------------------------------------------------------------------------------------------------------------------


def checked_scope(text: str) -> str:
    """The scope to keep. Raises Invalid with the pointer /scope for what is no selector of hosts, and for a site by its name: names change,
    and nobody would be told who falls out of a scope by that."""
    text = text.strip()
    try:
        compile_filter(HOST, text, now=_NO_TIME, selector=True)
        for comparison in _comparisons(parse(text)):
            _check_reference(comparison)
    except FilterError as error:
        detail = f"{error.detail} (column {error.column})" if error.column else error.detail
        raise Invalid(f"scope: {detail}", errors=(Problem("/scope", detail),)) from error
    return text


def _comparisons(node: Node | None) -> Iterator[Comparison]:
    match node:
        case Comparison():
            yield node
        case All(operands) | Some(operands):
            for each in operands:
                yield from _comparisons(each)
        case Not(operand) | Group(operand):
            yield from _comparisons(operand)
        case Search() | None:
            return


def _check_reference(comparison: Comparison) -> None:
    reference = HOST.by_name[comparison.path.partition(".")[0]].reference
    if reference is None:
        return
    target = BY_NAME[reference.kind]
    for literal in comparison.values:
        if not _is_id(literal, target):
            raise FilterError(f"a scope names a {target.name} by its id ({target.prefix}-…): a name may change", literal.column)


def _is_id(literal: Literal, kind: Kind) -> bool:
    return literal.is_null or literal.is_any or (literal.text.startswith(f"{kind.prefix}-") and not literal.prefix)


@lru_cache(maxsize=4096)
def hosts_within(scope: str, start: int = 1) -> Predicate:
    """The hosts of a scope, as a condition on the rows of `HOSTS`. One that can't be understood any more holds none."""
    try:
        found = compile_filter(HOST, scope, start=start, now=_NO_TIME, selector=True)
    except FilterError as error:
        log.error("a scope can't be understood any more, so it holds no host", extra={"scope": scope, "error": error.detail})
        return _nothing(start)
    return found if found.fields else _nothing(start)


def seen(kind: Kind, scope: str, start: int = 1) -> Predicate:
    """What the holder of a scope sees of a kind, as a condition on the rows of `source(kind)`: the hosts within it, what hangs on one of
    them, and all of what hangs on none."""
    if not kind.has_host:
        return Predicate("TRUE", (), frozenset(), start)
    hosts = hosts_within(scope, start)
    if kind is HOST:
        return hosts
    return Predicate(f"r.host IN (SELECT r.id FROM {HOSTS} WHERE {hosts.sql})", hosts.params, frozenset({"host"}), start)


def _nothing(start: int) -> Predicate:
    return Predicate("FALSE", (), frozenset(), start)

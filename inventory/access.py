"""Who may do what: a role against an action. Shared by REST and MQTT intents, so that both refuse alike.

Pure. A `viewer` reads, an `operator` changes resources, an `admin` also lets other programs in. `check` is the one place to ask; every
route and intent does, before anything is read. Fields of other owners are refused by `inventory.validate`, whatever the role.
"""

from enum import IntEnum

from inventory.actor import Actor
from inventory.errors import Forbidden

ROLES = ("viewer", "operator", "admin")
"""From least to most; each may do what the ones before it may."""


class Action(IntEnum):
    """What is asked for. The value is the place in ROLES of the least role that may."""

    READ = 0
    WRITE = 1
    ADMINISTER = 2


def allowed(role: str, action: Action) -> bool:
    """Whether a role suffices; a role that there is not suffices for nothing."""
    return role in ROLES and ROLES.index(role) >= action


def check(actor: Actor, action: Action, what: str) -> None:
    """Raises Forbidden where the role of a user or a token does not suffice. `what`: the kind or thing, for the words. Others have none."""
    if actor.type in ("user", "token") and not allowed(actor.role, action):
        raise Forbidden(f"{what}: this needs the role {ROLES[action]}; {actor.name} is {actor.role or 'of no role'}")

"""docs/managers.md against the code: what it lists is what there is."""

import re
from pathlib import Path

from inventory.applying import Configs
from inventory.db import SQL, Database
from inventory.kind import INVENTORY
from inventory.kinds import KINDS
from inventory.store import Store
from inventory.vault import Vault
from managers import dispatch
from managers.rendering import Renderer
from managers.wiring import Parts, managers

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "managers.md").read_text()


def test_the_queues_are_those_of_the_wiring_in_its_order(db: Database) -> None:
    """A manager without a row, or a row without its manager, fails here; so does a scan whose statement is missing."""
    registered = managers(Parts(db, Store(db), Configs(db, Vault(Path())), Renderer(), Vault(Path())))
    section = TEXT.split("## The queues")[1].split("##")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE) == [manager.queue for manager in registered]
    assert {scan.selection for manager in registered for scan in manager.scans} <= SQL.keys()


def test_every_notification_is_documented() -> None:
    """By its type, as it stands in the code."""
    source = (ROOT / "managers" / "kinds" / "notification.py").read_text()
    section = TEXT.split("## Notifications")[1].split("##")[0]
    types = set(re.findall(r'"((?:Host|Agent|Component|Config)[A-Z][A-Za-z]+)"', source))
    assert types == set(re.findall(r"`([A-Z][A-Za-z]+)`", section))


def test_every_kind_has_its_manager(db: Database) -> None:
    """Who owns a kind's current state and status is there; who has states has a manager that keeps the status."""
    registered = managers(Parts(db, Store(db), Configs(db, Vault(Path())), Renderer(), Vault(Path())))
    there = {manager.actor.name for manager in registered} | {dispatch.ACTOR.name, INVENTORY}
    assert {kind.manager for kind in KINDS} <= there
    assert {kind.name for kind in KINDS if kind.states} == {manager.status_of for manager in registered if manager.status_of}

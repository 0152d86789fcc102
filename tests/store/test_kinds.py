"""Every kind is whole: it has its manager, its states can be reached and left, and the docs name it."""

import importlib
from pathlib import Path

import pytest

from inventory import reference
from inventory.kind import DEVICE, INVENTORY, USER, Kind
from inventory.kinds import KINDS, ROWS

ROOT = Path(__file__).parents[2]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@each_kind
def test_its_owners_exist(kind: Kind) -> None:
    """Every field belongs to the user, the device, Inventory, the dispatch of commands, or a manager that there is."""
    managers = {path.stem for path in (ROOT / "managers" / "kinds").glob("*.py")}
    for field in kind.fields:
        assert field.owner in {USER, DEVICE, INVENTORY, "dispatch"} | {name.replace("_", "-") for name in managers}, field.name


@each_kind
def test_its_states_can_be_reached_and_left(kind: Kind) -> None:
    """No desired state is a trap, apart from removal; the initial ones are among the states."""
    if kind.states is None:
        return
    states = kind.states
    assert states.initial_current in states.current
    assert states.removal in states.desired and states.removal in states.current
    for state in states.desired:
        after = states.transitions.get(state, states.desired)
        assert state == states.removal or set(after) - {state}, f"{state} can't be left"
    assert all(any(other in states.transitions.get(s, states.desired) for s in states.desired) for other in states.desired)


@each_kind
def test_its_table_has_its_columns(kind: Kind) -> None:
    """Each stored field is a column of the kind's model; a column beside them is a note of what people were told."""
    columns = set(ROWS[kind.name]._meta.fields_map)
    stored = {f.name for f in kind.fields if not f.computed}
    assert stored <= columns
    assert all(name.startswith("told_") for name in columns - stored)


@each_kind
def test_selectors_never_flap(kind: Kind) -> None:
    """What changes by itself, or follows from what is selected, can't be selected by."""
    flapping = {"presence", "last_seen", "pending", "status", "current_state", "observed_generation", "version", "updated_at"}
    assert not {f.name for f in kind.fields if f.selectable} & flapping


def test_managers_of_reconciled_kinds_are_there() -> None:
    """A mixed kind has a module of its stem among the managers' kinds."""
    for kind in KINDS:
        if kind.states is not None:
            importlib.import_module(f"managers.kinds.{kind.name.replace('-', '_')}")


def test_the_docs_say_what_the_code_says() -> None:
    """docs/kinds.md is what `python -m inventory.reference` prints."""
    assert (ROOT / "docs" / "kinds.md").read_text() == reference.markdown()

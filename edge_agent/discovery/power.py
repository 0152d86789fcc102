"""The power section: batteries, and what else can feed the machine. Charge, state, wear and cycles are metrics.

Batteries of mice and keyboards (`scope` Device) belong to those and are left out. Called by `scan`.

Source: Documentation/ABI/testing/sysfs-class-power; units there are µWh, µAh and µV.
"""

from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.cleaning import clean, meaningful
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_SUPPLIES = "/sys/class/power_supply"


def read(tree: Tree) -> Facts:
    """Empty where the kernel knows no supplies, as on most servers."""
    kinds = {name: tree.text(f"{_SUPPLIES}/{name}/type") or "Unknown" for name in tree.names(_SUPPLIES)}
    own = {name: kind for name, kind in kinds.items() if tree.text(f"{_SUPPLIES}/{name}/scope") != "Device"}
    return {
        "batteries": keyed(_battery(tree, name) for name, kind in own.items() if kind == "Battery"),
        "supplies": [{"name": clean(name), "type": kind} for name, kind in own.items() if kind != "Battery"],
    }


def _battery(tree: Tree, name: str) -> Component:
    where = f"{_SUPPLIES}/{name}"
    serial = meaningful(tree.text(f"{where}/serial_number"))
    return Component(
        path=f"{bus_path(tree, tree.real(where) or name)}-{name}",
        name=name,
        identities=(serial,),
        attributes={
            "model": meaningful(tree.text(f"{where}/model_name")),
            "manufacturer": meaningful(tree.text(f"{where}/manufacturer")),
            "serial": serial,
            "technology": meaningful(tree.text(f"{where}/technology")),
            "design_mwh": _design_mwh(tree, where),
        },
    )


def _design_mwh(tree: Tree, where: str) -> int | None:
    """What it held when new; some firmware counts energy, some charge."""
    energy = tree.number(f"{where}/energy_full_design")
    if energy is not None:
        return energy // 1000
    charge, voltage = tree.number(f"{where}/charge_full_design"), tree.number(f"{where}/voltage_min_design")
    return charge * voltage // 10**9 if charge is not None and voltage is not None else None


PROBE = Probe("power", read)

"""The sensors section: which chips measure what. What they measure are metrics. Called by `scan`.

Source: Documentation/hwmon/sysfs-interface.rst; Documentation/ABI/testing/sysfs-class-thermal.
"""

import re

from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.cleaning import clean, without_nulls
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_HWMON, _THERMAL = "/sys/class/hwmon", "/sys/class/thermal"
MAX_CHANNELS = 64
_CHANNEL = re.compile(r"((temp|fan|in|curr|power|energy|humidity)[0-9]{1,4})_(input|average)")
_MEASURES = {
    "temp": "temperature", "fan": "fan", "in": "voltage", "curr": "current", "power": "power", "energy": "energy",
    "humidity": "humidity",
}  # fmt: skip


def read(tree: Tree) -> Facts:
    """Empty where nothing is measured, as in most virtual machines."""
    chips = [_chip(tree, name) for name in tree.names(_HWMON)]
    shown = {chip.name.replace("-", "_") for chip in chips}
    zones = [_zone(tree, name) for name in tree.names(_THERMAL) if name.startswith("thermal_zone")]
    # The kernel shows most zones as chips too, under the same name.
    return {"sensors": keyed([*chips, *(zone for zone in zones if zone.name.replace("-", "_") not in shown)])}


def _chip(tree: Tree, entry: str) -> Component:
    where = f"{_HWMON}/{entry}"
    name = tree.text(f"{where}/name") or entry
    channels = {found[1]: _MEASURES[found[2]] for file in tree.names(where) if (found := _CHANNEL.fullmatch(file))}
    listed = [
        without_nulls({"id": channel, "type": kind, "label": tree.text(f"{where}/{channel}_label")})
        for channel, kind in list(channels.items())[:MAX_CHANNELS]
    ]
    # hwmon numbers follow the order of discovery: only the device above them lasts.
    path = bus_path(tree, tree.real(f"{where}/device") or "") or "virtual"
    return Component(path=f"{path}-{clean(name)}", name=name, identities=(), attributes={"channels": listed})


def _zone(tree: Tree, entry: str) -> Component:
    name = tree.text(f"{_THERMAL}/{entry}/type") or entry
    return Component(
        path=f"thermal-{clean(name)}", name=name, identities=(), attributes={"channels": [{"id": "temp", "type": "temperature"}]}
    )


PROBE = Probe("sensors", read)

"""The tpm section: security chips, and the version of TPM that they speak. Called by `scan`.

Source: Documentation/ABI/stable/sysfs-class-tpm.
"""

import re

from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_TPM = "/sys/class/tpm"


def read(tree: Tree) -> Facts:
    """Empty where there is none."""
    return {"devices": keyed(_device(tree, name) for name in tree.names(_TPM) if re.fullmatch(r"tpm\d+", name))}


def _device(tree: Tree, name: str) -> Component:
    where = f"{_TPM}/{name}"
    version = {1: "1.2", 2: "2.0"}.get(tree.number(f"{where}/tpm_version_major") or 0)
    path = bus_path(tree, tree.real(where) or name)
    attributes = {
        "version": version,
        "description": tree.text(f"{where}/device/description"),
        "driver": tree.base(f"{where}/device/driver"),
        "path": path,
    }
    return Component(path, name, (), attributes)


PROBE = Probe("tpm", read)

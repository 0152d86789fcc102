"""What udev has found out and anyone may read: its database below /run/udev/data, where there is a udev.

It fills gaps: serial numbers of SATA disks, which sysfs has for root only, names of PCI devices without a pci.ids file at hand, and
memory modules when we are not root. Called by the storage, PCI and memory probes.

Source: udev's database format, one `E:KEY=value` line a property (systemd `src/libsystemd/sd-device/device-private.c`).
"""

from edge_agent.discovery.cleaning import clean
from edge_agent.discovery.tree import Tree


def properties(tree: Tree, entry: str) -> dict[str, str]:
    """Properties of a database entry: `b8:0` a block device, `n2` an interface, `+pci:0000:00:02.0` anything else."""
    found = {}
    for line in tree.lines(f"/run/udev/data/{entry}", 65536):
        name, equals, value = line.removeprefix("E:").partition("=")
        if line.startswith("E:") and equals:
            found[name] = clean(value)
    return found

"""Names of PCI vendors and devices, from udev's database or the pci.ids file, where the system has one; class names are built in.

The file is read line by line and nothing of it is kept: 1.4 MB would not fit the agent's memory budget. Called by the PCI and GPU probes.

Source: pci.ids (pci-ids.ucw.cz), its format and class list; PCI Code and ID Assignment Specification 1.11.
"""

from edge_agent.discovery import udev
from edge_agent.discovery.cleaning import clean, decoded
from edge_agent.discovery.tree import Tree

_FILES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids", "/usr/share/pci.ids", "/var/lib/pciutils/pci.ids")

_CLASSES = {
    0x0000: "device", 0x0100: "SCSI controller", 0x0101: "IDE controller", 0x0104: "RAID controller", 0x0106: "SATA controller",
    0x0107: "SAS controller", 0x0108: "NVMe controller", 0x0180: "storage controller", 0x01: "storage controller",
    0x0200: "Ethernet controller", 0x0207: "InfiniBand controller", 0x0280: "network controller", 0x02: "network controller",
    0x0300: "VGA controller", 0x0302: "3D controller", 0x03: "display controller", 0x0401: "audio controller",
    0x0403: "audio controller", 0x04: "multimedia controller", 0x05: "memory controller", 0x06: "bridge", 0x0700: "serial controller",
    0x0780: "communication controller", 0x07: "communication controller", 0x08: "system peripheral", 0x09: "input controller",
    0x0C03: "USB controller", 0x0C05: "SMBus", 0x0C: "serial bus controller", 0x0D: "wireless controller",
    0x10: "encryption controller", 0x11: "signal processing controller", 0x12: "processing accelerator", 0xFF: "device",
}  # fmt: skip

Ids = tuple[int, int]
"""Vendor and device."""


def class_name(code: int) -> str:
    """Of a 16-bit class code (base class and subclass)."""
    return _CLASSES.get(code) or _CLASSES.get(code >> 8) or "device"


def names(tree: Tree, wanted: dict[str, Ids]) -> dict[str, str]:
    """Names by address, of the devices whose name is known. `wanted`: their ids by address (`0000:00:02.0`)."""
    found = {}
    for address in wanted:
        known = udev.properties(tree, f"+pci:{address}")
        vendor, model = known.get("ID_VENDOR_FROM_DATABASE"), known.get("ID_MODEL_FROM_DATABASE")
        if model:
            found[address] = clean(f"{vendor or ''} {model}")
    missing = {ids for address, ids in wanted.items() if address not in found}
    if missing:
        from_file = _from_file(tree, missing)
        found |= {address: from_file[ids] for address, ids in wanted.items() if address not in found and ids in from_file}
    return found


def _from_file(tree: Tree, wanted: set[Ids]) -> dict[Ids, str]:
    path = next((path for path in _FILES if tree.exists(path)), None)
    found: dict[Ids, str] = {}
    if path is None:
        return found
    vendors = {vendor for vendor, _ in wanted}
    vendor_id, vendor = -1, ""
    try:
        with open(tree.outside(path), "rb") as file:
            for line in file:
                if line.startswith(b"\t"):
                    if vendor_id in vendors and not line.startswith(b"\t\t") and (ids := (vendor_id, _hex(line[1:5]))) in wanted:
                        found[ids] = clean(f"{vendor} {decoded(line[7:])}")
                elif (vendor_id := _hex(line[:4])) in vendors:
                    vendor = clean(decoded(line[6:]))
                elif line.startswith(b"C "):
                    break  # the classes follow the last vendor
    except OSError as error:
        tree.problems.append(f"{path}: {error}")
    return found


def _hex(text: bytes) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return -1

"""The pci section: the devices on the PCI buses. Bridges and system peripherals are counted, not listed: on a server they are hundreds.

Called by `scan`; `devices` also by the GPU probe.

Source: Documentation/ABI/testing/sysfs-bus-pci.
"""

from dataclasses import dataclass

from edge_agent.discovery import pci_names
from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_DEVICES = "/sys/bus/pci/devices"
MAX_DEVICES = 256
_FURNITURE = (0x06, 0x08)
_PERFORMANCE_COUNTERS = 0x1101


@dataclass(frozen=True, slots=True)
class PciDevice:
    """`code`: base class and subclass, 16 bits."""

    address: str
    code: int
    vendor: int
    device: int

    @property
    def ids(self) -> str:
        return f"{self.vendor:04x}:{self.device:04x}"


def devices(tree: Tree) -> list[PciDevice]:
    """All functions, by address. One that tells no ids (it is just going away) is left out."""
    found = []
    for address in tree.names(_DEVICES):
        where = f"{_DEVICES}/{address}"
        code, vendor, device = tree.number(f"{where}/class", 16), tree.number(f"{where}/vendor", 16), tree.number(f"{where}/device", 16)
        if code is not None and vendor is not None and device is not None:
            found.append(PciDevice(address, (code >> 8) & 0xFFFF, vendor & 0xFFFF, device & 0xFFFF))
    return found


def path_of(tree: Tree, device: PciDevice) -> str:
    return bus_path(tree, tree.real(f"{_DEVICES}/{device.address}") or device.address)


def driver_of(tree: Tree, device: PciDevice) -> str | None:
    return tree.base(f"{_DEVICES}/{device.address}/driver")


def read(tree: Tree) -> Facts:
    """Empty where there is no PCI, as on most Raspberry Pis."""
    found = devices(tree)
    listed = [d for d in found if d.code >> 8 not in _FURNITURE and d.code != _PERFORMANCE_COUNTERS][:MAX_DEVICES]
    named = pci_names.names(tree, {d.address: (d.vendor, d.device) for d in listed})
    return {"count": len(found), "devices": keyed(_component(tree, device, named.get(device.address)) for device in listed)}


def _component(tree: Tree, device: PciDevice, name: str | None) -> Component:
    kind = pci_names.class_name(device.code)
    return Component(
        path=path_of(tree, device),
        name=name or f"{kind} {device.ids}",
        identities=(),
        attributes={"address": device.address, "class": kind, "ids": device.ids, "driver": driver_of(tree, device)},
    )


PROBE = Probe("pci", read)

"""The gpu section: display controllers and accelerators, on PCI or built into the chip. Memory in use and load are metrics.

Called by `scan`.

Source: Documentation/gpu/amdgpu/driver-misc.rst (`mem_info_vram_total`); /proc/driver/nvidia/gpus of NVIDIA's driver; sysfs' class/drm.
"""

import re

from edge_agent.discovery import pci, pci_names
from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.cleaning import clean, meaningful
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_DISPLAY, _ACCELERATOR = 0x03, 0x12
_VENDORS = {
    0x10DE: "NVIDIA",
    0x1002: "AMD",
    0x8086: "Intel",
    0x1A03: "ASPEED",
    0x102B: "Matrox",
    0x1AF4: "Red Hat",
    0x1234: "QEMU",
    0x15AD: "VMware",
}


def read(tree: Tree) -> Facts:
    """Empty where there is none."""
    on_pci = [device for device in pci.devices(tree) if device.code >> 8 in (_DISPLAY, _ACCELERATOR)]
    named = pci_names.names(tree, {d.address: (d.vendor, d.device) for d in on_pci})
    found = [_on_pci(tree, device, named.get(device.address)) for device in on_pci]
    return {"gpus": keyed([*found, *_built_in(tree)])}


def _on_pci(tree: Tree, device: pci.PciDevice, name: str | None) -> Component:
    nvidia = _nvidia(tree, device.address)
    name = meaningful(nvidia.get("Model")) or name or f"{pci_names.class_name(device.code)} {device.ids}"
    uuid = nvidia.get("GPU UUID", "")
    return Component(
        path=pci.path_of(tree, device),
        name=name,
        identities=(uuid if re.fullmatch(r"GPU-[0-9a-f-]{36}", uuid) else None,),
        attributes={
            "model": name,
            "vendor": _VENDORS.get(device.vendor),
            "ids": device.ids,
            "driver": pci.driver_of(tree, device),
            "memory_bytes": tree.number(f"/sys/bus/pci/devices/{device.address}/mem_info_vram_total"),
            "path": f"pci-{device.address}",
        },
    )


def _nvidia(tree: Tree, address: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in tree.lines(f"/proc/driver/nvidia/gpus/{address}/information", 4096))
    return {clean(name): clean(value) for name, _, value in pairs}


def _built_in(tree: Tree) -> list[Component]:
    """Cards of the chip itself, which the device tree names."""
    found = []
    for card in tree.names("/sys/class/drm"):
        device = tree.real(f"/sys/class/drm/{card}/device") if re.fullmatch(r"card\d+", card) else None
        if device is None or re.search(r"/pci[0-9a-f]{4,}:|/usb\d|/virtual/", device):
            continue
        driver = tree.base(f"/sys/class/drm/{card}/device/driver")
        compatible = (tree.text(f"{device}/of_node/compatible") or "").split(" ")[0]
        name = compatible or driver or card
        found.append(Component(bus_path(tree, device), name, (), {"model": name, "driver": driver, "path": bus_path(tree, device)}))
    return found


PROBE = Probe("gpu", read)

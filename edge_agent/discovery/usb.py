"""The usb section: what is plugged in. Root hubs are part of their controllers, which the pci section has. Called by `scan`.

Source: Documentation/ABI/stable/sysfs-bus-usb; the class codes of USB-IF.
"""

from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.cleaning import meaningful
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_DEVICES = "/sys/bus/usb/devices"
MAX_DEVICES = 128
_CLASSES = {
    0x01: "audio", 0x02: "communication", 0x03: "input", 0x05: "physical", 0x06: "imaging", 0x07: "printer", 0x08: "storage",
    0x09: "hub", 0x0A: "data", 0x0B: "smart card", 0x0E: "video", 0x0F: "healthcare", 0x10: "audio/video", 0xDC: "diagnostic",
    0xE0: "wireless",
}  # fmt: skip


def read(tree: Tree) -> Facts:
    """Empty where there is no USB."""
    plugged = [name for name in tree.names(_DEVICES) if ":" not in name and not name.startswith("usb")]
    return {"devices": keyed([device for name in plugged[:MAX_DEVICES] if (device := _device(tree, name))])}


def _device(tree: Tree, name: str) -> Component | None:
    where = f"{_DEVICES}/{name}"
    vendor, product = tree.text(f"{where}/idVendor"), tree.text(f"{where}/idProduct")
    if vendor is None or product is None:
        return None
    maker, model = meaningful(tree.text(f"{where}/manufacturer")), meaningful(tree.text(f"{where}/product"))
    serial = meaningful(tree.text(f"{where}/serial"))
    # A socket of USB 3 is one port of two buses: a hub plugged in there shows up on both.
    path = bus_path(tree, tree.real(where) or name) + ("-usb3" if (tree.text(f"{where}/version") or "").startswith("3") else "")
    return Component(
        path=path,
        name=" ".join(part for part in (maker, model) if part) or f"USB device {vendor}:{product}",
        identities=(serial,),
        attributes={
            "ids": f"{vendor}:{product}",
            "manufacturer": maker,
            "product": model,
            "serial": serial,
            "class": _class(tree, name),
            "port": name,
        },
    )


def _class(tree: Tree, name: str) -> str | None:
    """Most devices leave their class to their first interface."""
    code = tree.number(f"{_DEVICES}/{name}/bDeviceClass", 16)
    if not code or code == 0xEF:
        code = tree.number(f"{_DEVICES}/{name}:1.0/bInterfaceClass", 16)
    return _CLASSES.get(code) if code else None


PROBE = Probe("usb", read)

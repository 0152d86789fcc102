"""Where a device sits, as udev's `path_id` writes it (`pci-0000:00:17.0-ata-1`): the same after a reboot, whatever was found first.

A sysfs path is no such thing: `host7`, `target7:0:0` and `usb1` are numbered in the order of discovery. Pure, except that the number of
an ATA port on its controller has to be looked up. Called by the probes, for `path:` keys.

Source: systemd's `udev-builtin-path_id.c`, which people know from /dev/disk/by-path.
"""

import re

from edge_agent.discovery.tree import Tree

_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_USB = re.compile(r"(?:usb)?[0-9]+(?:-[0-9.]+)?(?::[0-9.]+)?")
_SCSI = re.compile(r"[0-9]+:([0-9]+:[0-9]+:[0-9]+)")
_NVME = re.compile(r"nvme[0-9]+n([0-9]+)")
_PASSING = re.compile(
    r"pci[0-9a-f]{4,}:[0-9a-f]{2}|(?:host|target|virtio|nvme|nvme-subsys|mmc|port-|expander-|end_device-)[0-9:]+|devices|platform|soc|virtual"
)
_CLASSES = frozenset(("block", "net", "nvme", "ata_port", "hwmon", "tpm", "power_supply", "drm", "mmc_host", "scsi_host", "thermal", "usb"))


def bus_path(tree: Tree, device: str) -> str:
    """The stable path of a device given by its resolved sysfs path, such as `/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/…`."""
    parts = device.removeprefix("/sys/devices/").strip("/").split("/")
    found: list[str] = []
    for at, part in enumerate(parts):
        if part in _CLASSES and at:
            found += _namespace(parts[at:])
            break
        if _PCI.fullmatch(part):
            found = [f"pci-{part}"]
        elif step := _step(tree, parts, at):
            # Of nested platform devices, as of nested PCI bridges, the innermost says it all.
            inner = step.startswith("platform-") and all(f.startswith("platform-") for f in found)
            found = [step] if inner else [*found, step]
    return "-".join(found) or "-".join(parts)


def _step(tree: Tree, parts: list[str], at: int) -> str:
    """What one directory of the path adds; mostly nothing."""
    part = parts[at]
    if _PASSING.fullmatch(part):
        return ""
    if part.startswith("ata") and part[3:].isdecimal():
        port = tree.number(f"/sys/devices/{'/'.join(parts[: at + 1])}/ata_port/{part}/port_no")
        return f"ata-{port if port is not None else part[3:]}"
    if scsi := _SCSI.fullmatch(part):
        # Behind an ATA port there is one device, and the port has named it.
        return "" if any(p.startswith("ata") for p in parts[:at]) else f"scsi-0:{scsi[1]}"
    if _USB.fullmatch(part) and ("-" in part or part.startswith("usb")):
        return _usb(parts, at)
    return f"platform-{part}" if parts[0] == "platform" and not any(_PCI.fullmatch(p) or p.startswith("usb") for p in parts[:at]) else part


def _usb(parts: list[str], at: int) -> str:
    """The deepest port chain counts alone (`1-2.4:1.0` says all that `1-2` does), without the number of its bus."""
    following = parts[at + 1] if at + 1 < len(parts) else ""
    if _USB.fullmatch(following) and "-" in following:
        return ""
    _, dash, chain = parts[at].partition("-")
    return f"usb-0:{chain}" if dash else ""


def _namespace(rest: list[str]) -> list[str]:
    """An NVMe namespace is told by its number; any other class directory ends the path."""
    for part in rest:
        if found := _NVME.fullmatch(part):
            return [f"nvme-{found[1]}"]
    return []

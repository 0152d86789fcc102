"""The storage section: the real disks, and the file systems. A real disk has a device behind it, so no loop, ram, zram, dm or md.

Left out as well: optical drives, drives without a medium, boot partitions of eMMC, raw flash (mtdblock), and the hidden paths of NVMe
multipath; a disk seen over several SCSI paths is one disk. Called by `scan`.

Source: Documentation/ABI/stable/sysfs-block; SPC-4 7.8.15 (vital product data page 80h, unit serial number).
"""

import re
from typing import Any

from edge_agent.discovery import mounts, udev
from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.cleaning import clean, decoded, meaningful
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_BLOCK = "/sys/block"
_NO_DISK = re.compile(r"sr\d+|fd\d+|mtdblock\d+|mmcblk\d+(boot\d+|rpmb|gp\d+)")
_BUSES = (("/nvme", "nvme"), ("/usb", "usb"), ("/ata", "ata"), ("/virtio", "virtio"), ("/mmc", "mmc"), ("/host", "scsi"))
SECTOR = 512
"""Bytes; sysfs counts in these whatever the disk's own sector size."""


def read(tree: Tree) -> Facts:
    """Raises LookupError where there is no /sys/block."""
    if not tree.exists(_BLOCK):
        raise LookupError(f"{_BLOCK} can't be read")
    disks = keyed(_without_paths([disk for name in real_disks(tree) if (disk := _disk(tree, name))]))
    return {"total_bytes": sum(disk["size_bytes"] for disk in disks), "disks": disks, "filesystems": mounts.read(tree)}


def real_disks(tree: Tree) -> list[str]:
    """Kernel names of the block devices that have a device behind them."""
    return [
        name
        for name in tree.names(_BLOCK)
        if not _NO_DISK.fullmatch(name) and tree.exists(f"{_BLOCK}/{name}/device") and tree.text(f"{_BLOCK}/{name}/hidden") != "1"
    ]


def _disk(tree: Tree, name: str) -> Component | None:
    where = f"{_BLOCK}/{name}"
    sectors = tree.number(f"{where}/size") or 0
    device = tree.real(where)
    if sectors <= 0 or device is None:
        return None
    known = udev.properties(tree, f"b{tree.text(f'{where}/dev')}")
    serial, wwid = _serial(tree, where, device, known), _wwid(tree, where, known)
    vendor = meaningful(tree.text(f"{where}/device/vendor"))
    return Component(
        path=bus_path(tree, device),
        name=name,
        identities=(_namespaced(serial, name), wwid),
        attributes={
            "model": meaningful(tree.text(f"{where}/device/model"))
            or meaningful(tree.text(f"{where}/device/name"))
            or known.get("ID_MODEL"),
            # ATA disks say "ATA" and virtio ones a number, which is no vendor.
            "vendor": vendor if vendor != "ATA" and not (vendor or "").startswith("0x") else None,
            "serial": serial,
            "wwid": wwid,
            "size_bytes": sectors * SECTOR,
            "rotational": tree.text(f"{where}/queue/rotational") == "1",
            "removable": tree.text(f"{where}/removable") == "1",
            "bus": next((bus for part, bus in _BUSES if part in device.removeprefix("/sys/devices")), None),
            "path": bus_path(tree, device),
            "firmware": meaningful(tree.text(f"{where}/device/firmware_rev")) or meaningful(tree.text(f"{where}/device/rev")),
        },
    )


def _serial(tree: Tree, where: str, device: str, known: dict[str, str]) -> str | None:
    """From the driver (NVMe, MMC, virtio), SCSI's page 80h (SATA too), a USB bridge above, or udev."""
    serial = meaningful(tree.text(f"{where}/device/serial")) or meaningful(tree.text(f"{where}/serial"))
    return (
        serial
        or _page_80(tree.data(f"{where}/device/vpd_pg80", 4096))
        or _usb_serial(tree, device)
        or meaningful(known.get("ID_SERIAL_SHORT"))
    )


def _page_80(page: bytes | None) -> str | None:
    """Four bytes of header, of which the last two are the length."""
    if not page or len(page) < 4 or page[1] != 0x80:
        return None
    return meaningful(decoded(page[4 : 4 + int.from_bytes(page[2:4], "big")]))


def _usb_serial(tree: Tree, device: str) -> str | None:
    """A stick's serial number stands with the USB device that carries it."""
    at = device
    while "/usb" in at:
        if tree.exists(f"{at}/idVendor"):
            return meaningful(tree.text(f"{at}/serial"))
        at = at.rpartition("/")[0]
    return None


def _wwid(tree: Tree, where: str, known: dict[str, str]) -> str | None:
    """As the kernel writes it (`eui.…`, `naa.…`), without the T10 form, which only repeats vendor, model and serial."""
    wwid = meaningful(tree.text(f"{where}/wwid")) or meaningful(tree.text(f"{where}/device/wwid"))
    if wwid and not wwid.startswith("t10."):
        return wwid
    from_udev = meaningful(known.get("ID_WWN_WITH_EXTENSION") or known.get("ID_WWN"))
    return (
        f"naa.{from_udev[2:]}" if from_udev and from_udev.startswith("0x") else (from_udev or meaningful(tree.text(f"{where}/device/cid")))
    )


def _namespaced(serial: str | None, name: str) -> str | None:
    """Namespaces of one NVMe drive share its serial number; the first has it plain."""
    namespace = re.fullmatch(r"nvme\d+n(\d+)", name)
    return f"{serial}-n{namespace[1]}" if serial and namespace and namespace[1] != "1" else serial


def _without_paths(disks: list[Component]) -> list[Component]:
    """SCSI disks with the same WWID, serial number and size are one disk seen over several paths."""
    seen: dict[tuple[Any, ...], Component] = {}
    for disk in disks:
        facts = disk.attributes
        multipath = facts["bus"] == "scsi" and facts["wwid"]
        identity = (facts["wwid"], facts["serial"], facts["size_bytes"]) if multipath else (clean(disk.name),)
        seen.setdefault(identity, disk)
    return list(seen.values())


PROBE = Probe("storage", read)

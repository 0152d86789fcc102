"""The firmware section: who made the machine, what it is called, its serial number, and its firmware.

From DMI (PCs and servers), else from the device tree (most ARM boards). Serial number and UUID of DMI are for root only. Called by `scan`.

Source: Documentation/ABI/testing/sysfs-class-dmi; DSP0134; Devicetree Specification 0.4, 2.3 (`model`, `compatible`, `serial-number`).
"""

from edge_agent.discovery import smbios
from edge_agent.discovery.cleaning import decoded, meaningful, without_nulls
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_DMI = "/sys/class/dmi/id"
DEVICE_TREES = ("/proc/device-tree", "/sys/firmware/devicetree/base")
_JUNK_UUIDS = frozenset(
    ("03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009", "12345678-1234-5678-90ab-cddeefaabbcc")
)
_CHASSIS = {
    3: "desktop", 4: "desktop", 5: "desktop", 6: "desktop", 7: "tower", 8: "laptop", 9: "laptop", 10: "laptop", 11: "handheld",
    13: "all-in-one", 14: "laptop", 15: "desktop", 16: "desktop", 17: "server", 23: "server", 28: "blade", 29: "blade", 30: "tablet",
    31: "convertible", 32: "detachable", 33: "gateway", 34: "embedded", 35: "mini PC", 36: "stick PC",
}  # fmt: skip
_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def read(tree: Tree) -> Facts:
    """`source` is `dmi`, `device-tree` or `none`; as in a virtual machine with neither."""
    if tree.exists(_DMI) or tree.exists("/sys/firmware/dmi/tables/DMI"):
        facts = {"source": "dmi", **_dmi(tree)}
    elif base := device_tree(tree):
        facts = {"source": "device-tree", **_device_tree(tree, base)}
    else:
        facts = {"source": "none"}
    efi = tree.exists("/sys/firmware/efi")
    return {
        "vendor": None,
        "product": None,
        "serial": None,
        "uuid": None,
        **without_nulls(facts),
        "efi": efi,
        "secure_boot": _secure_boot(tree, efi),
    }


def device_tree(tree: Tree) -> str | None:
    return next((base for base in DEVICE_TREES if tree.exists(f"{base}/model")), None)


def _dmi(tree: Tree) -> dict[str, str | None]:
    def field(name: str) -> str | None:
        return meaningful(tree.text(f"{_DMI}/{name}"))

    raw = smbios.system(smbios.table(tree))
    serial = field("product_serial") or raw.get("serial") or field("chassis_serial") or field("board_serial")
    return {
        "vendor": field("sys_vendor") or raw.get("vendor") or field("board_vendor"),
        "product": field("product_name") or raw.get("product") or field("board_name"),
        "product_version": field("product_version"),
        "serial": serial,
        "uuid": _uuid(tree.text(f"{_DMI}/product_uuid")) or _uuid(raw.get("uuid")),
        "sku": field("product_sku"),
        "asset_tag": field("chassis_asset_tag"),
        "bios_vendor": field("bios_vendor"),
        "bios_version": field("bios_version"),
        "bios_date": field("bios_date"),
        "board_vendor": field("board_vendor"),
        "board_name": field("board_name"),
        "board_serial": field("board_serial"),
        "chassis": _CHASSIS.get(tree.number(f"{_DMI}/chassis_type") or 0),
    }


def _device_tree(tree: Tree, base: str) -> dict[str, str | None]:
    """`compatible` lists `vendor,board` from the most to the least specific."""
    compatible = [part for part in decoded(tree.data(f"{base}/compatible", 4096) or b"").split("\0") if part]
    model = meaningful(tree.text(f"{base}/model"))
    return {
        "vendor": meaningful(compatible[0].partition(",")[0]) if compatible else None,
        "product": model,
        "serial": meaningful(tree.text(f"{base}/serial-number")),
        "compatible": meaningful(compatible[0]) if compatible else None,
        "bios_vendor": "U-Boot" if tree.exists(f"{base}/chosen/u-boot,version") else None,
        "bios_version": meaningful(tree.text(f"{base}/chosen/u-boot,version")) or _bootloader_version(tree, base),
    }


def _bootloader_version(tree: Tree, base: str) -> str | None:
    """The Raspberry Pi's EEPROM tells the commit that it was built from."""
    return meaningful(tree.text(f"{base}/chosen/bootloader/version"))


def _uuid(text: str | None) -> str | None:
    text = meaningful(text)
    return text.lower() if text and text.lower() not in _JUNK_UUIDS else None


def _secure_boot(tree: Tree, efi: bool) -> bool | None:
    """The variable's fifth byte, after four of attributes; None where nobody says."""
    data = tree.data(_SECURE_BOOT, 16) if efi else None
    return data[4] == 1 if data and len(data) == 5 else None


PROBE = Probe("firmware", read)

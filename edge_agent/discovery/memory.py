"""The memory section: how much the system has, and the modules it is made of. Not how much is free: that is a metric.

Modules come from the SMBIOS table, which only root may read; else from what udev copied of it for everybody. Called by `scan`.

Source: proc_meminfo(5); DSP0134; systemd's `dmi_memory_id` for the `MEMORY_DEVICE_*` properties.
"""

import re
from typing import Any

from edge_agent.discovery import smbios, udev
from edge_agent.discovery.cleaning import meaningful, whole, without_nulls
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_FROM_UDEV = {"TYPE": "type", "FORM_FACTOR": "form_factor", "MANUFACTURER": "manufacturer", "PART_NUMBER": "part_number"}


def read(tree: Tree) -> Facts:
    """Raises LookupError without /proc/meminfo."""
    amounts = meminfo(tree.required("/proc/meminfo"))
    if "MemTotal" not in amounts:
        raise LookupError("/proc/meminfo has no MemTotal")
    found = smbios.table(tree)
    slots, modules = smbios.memory_modules(found) if found else _modules_from_udev(tree)
    dimms = keyed(_component(module) for module in modules)
    return without_nulls(
        {
            "total_bytes": amounts["MemTotal"],
            "swap_bytes": amounts.get("SwapTotal", 0),
            "installed_bytes": sum(dimm["size_bytes"] for dimm in dimms) or None,
            "slots": slots or None,
            "error_correction": smbios.error_correction(found),
            "dimms": dimms,
        }
    )


def meminfo(text: str) -> dict[str, int]:
    """Bytes by name."""
    found = {}
    for name, amount in re.findall(r"^(\w+):\s+(\d{1,15}) kB$", text, re.MULTILINE):
        found[name] = int(amount) * 1024
    return found


def _component(module: smbios.MemoryModule) -> Component:
    place = "/".join(part for part in (module.bank, module.locator) if part)
    attributes: dict[str, Any] = {**module.attributes, "serial": module.serial, "bank": module.bank}
    return Component(
        path=f"dimm-{place or 'unnamed'}", name=module.locator or place or "DIMM", identities=(module.serial,), attributes=attributes
    )


def _modules_from_udev(tree: Tree) -> tuple[int, list[smbios.MemoryModule]]:
    known = udev.properties(tree, "+dmi:id")
    slots = whole(known.get("MEMORY_ARRAY_NUM_DEVICES")) or 0
    numbers = sorted({int(m[1]) for name in known if (m := re.fullmatch(r"MEMORY_DEVICE_(\d{1,4})_SIZE", name))})
    return slots, [module for number in numbers if (module := _module_from_udev(known, f"MEMORY_DEVICE_{number}_"))]


def _module_from_udev(known: dict[str, str], prefix: str) -> smbios.MemoryModule | None:
    size = whole(known.get(f"{prefix}SIZE"))
    if size is None or size <= 0 or known.get(f"{prefix}PRESENT") == "0":
        return None
    attributes: dict[str, Any] = {name: meaningful(known.get(prefix + theirs)) for theirs, name in _FROM_UDEV.items()}
    attributes |= {"size_bytes": size, "speed_mtps": whole(known.get(f"{prefix}SPEED_MTS"))}
    attributes["configured_mtps"] = whole(known.get(f"{prefix}CONFIGURED_SPEED_MTS"))
    locator, bank = meaningful(known.get(f"{prefix}LOCATOR")), meaningful(known.get(f"{prefix}BANK_LOCATOR"))
    return smbios.MemoryModule(locator, bank, meaningful(known.get(f"{prefix}SERIAL_NUMBER")), attributes)


PROBE = Probe("memory", read)

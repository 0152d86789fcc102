"""The SMBIOS table: its structures, and the few of them we want (system, memory array, memory modules). Pure, and safe on garbage.

It reads what /sys/firmware/dmi/tables/DMI holds, so that no `dmidecode` is needed. Whatever the bytes are, it ends, raises nothing and
invents no length: a structure that doesn't fit is the end of the table. Called by the memory and firmware probes.

Source: DMTF DSP0134 3.7, sections 6.1.2 (structure header), 7.2 (system, type 1), 7.17 (memory array, 16), 7.18 (memory device, 17).
"""

from dataclasses import dataclass
from typing import Any

from edge_agent.discovery.cleaning import decoded, meaningful
from edge_agent.discovery.tree import Tree

MAX_STRUCTURES = 4096
_END = 127
_SYSTEM_MEMORY = 3

_ECC = {3: "none", 4: "parity", 5: "single-bit ECC", 6: "multi-bit ECC", 7: "CRC"}
_FORM_FACTORS = {3: "SIMM", 5: "Chip", 9: "DIMM", 0x0B: "row of chips", 0x0D: "SODIMM", 0x0F: "FB-DIMM", 0x10: "die", 0x11: "CAMM"}
_TYPES = {
    0x03: "DRAM", 0x07: "RAM", 0x0F: "SDRAM", 0x12: "DDR", 0x13: "DDR2", 0x14: "DDR2 FB-DIMM", 0x18: "DDR3", 0x19: "FBD2",
    0x1A: "DDR4", 0x1B: "LPDDR", 0x1C: "LPDDR2", 0x1D: "LPDDR3", 0x1E: "LPDDR4", 0x1F: "non-volatile", 0x20: "HBM", 0x21: "HBM2",
    0x22: "DDR5", 0x23: "LPDDR5", 0x24: "HBM3",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Structure:
    """One structure: its type, its formatted area (header included), and its strings, which count from 1."""

    kind: int
    area: bytes
    strings: tuple[bytes, ...]

    def number(self, offset: int, size: int) -> int | None:
        """A little-endian number; None where this version of the structure has no such field."""
        field = self.area[offset : offset + size]
        return int.from_bytes(field, "little") if len(field) == size else None

    def text(self, offset: int) -> str | None:
        """The string whose number stands at `offset`; None for none, a wrong number, or a placeholder."""
        number = self.number(offset, 1)
        return meaningful(decoded(self.strings[number - 1])) if number and number <= len(self.strings) else None


def structures(table: bytes) -> list[Structure]:
    """The structures of a table, up to its end or to the first that makes no sense."""
    found: list[Structure] = []
    at = 0
    while at + 4 <= len(table) and len(found) < MAX_STRUCTURES:
        kind, length = table[at], table[at + 1]
        end = table.find(b"\0\0", at + length)
        if length < 4 or at + length > len(table) or end < 0:
            break
        strings = table[at + length : end].split(b"\0") if end > at + length else []
        found.append(Structure(kind, table[at : at + length], tuple(strings)))
        if kind == _END:
            break
        at = end + 2
    return found


def table(tree: Tree) -> list[Structure]:
    """The machine's own; empty where there is none, or where only root may see it."""
    return structures(tree.data("/sys/firmware/dmi/tables/DMI") or b"")


def system(found: list[Structure]) -> dict[str, str | None]:
    """`vendor`, `product`, `serial` and `uuid` of the machine."""
    for one in found:
        if one.kind == 1:
            return {"vendor": one.text(0x04), "product": one.text(0x05), "serial": one.text(0x07), "uuid": _uuid(one.area[0x08:0x18])}
    return {}


def _uuid(raw: bytes) -> str | None:
    """As the kernel prints it: the first three fields are little-endian (since SMBIOS 2.6, which all in use are)."""
    if len(raw) < 16 or len(set(raw)) == 1:
        return None
    text = (raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


@dataclass(frozen=True, slots=True)
class MemoryModule:
    """A filled memory slot."""

    locator: str | None
    bank: str | None
    serial: str | None
    attributes: dict[str, Any]


def error_correction(found: list[Structure]) -> str | None:
    """Of the system memory's array."""
    codes = [one.number(0x06, 1) or 0 for one in found if one.kind == 16 and one.number(0x05, 1) == _SYSTEM_MEMORY]
    return next((_ECC[code] for code in codes if code in _ECC), None)


def memory_modules(found: list[Structure]) -> tuple[int, list[MemoryModule]]:
    """The number of slots, and the modules in them."""
    slots = [one for one in found if one.kind == 17]
    return len(slots), [_module(one, size) for one in slots if (size := _size(one))]


def _size(one: Structure) -> int | None:
    """Bytes; None for an empty slot or an unknown size."""
    size = one.number(0x0C, 2)
    if size == 0x7FFF:
        extended = one.number(0x1C, 4)
        return (extended & 0x7FFFFFFF) * 1024**2 if extended else None
    if size is None or size in (0, 0xFFFF):
        return None
    return (size & 0x7FFF) * (1024 if size & 0x8000 else 1024**2)


def _module(one: Structure, size: int) -> MemoryModule:
    kind, form = one.number(0x12, 1), one.number(0x0E, 1)
    return MemoryModule(
        locator=one.text(0x10),
        bank=one.text(0x11),
        serial=one.text(0x18),
        attributes={
            "size_bytes": size,
            "type": _TYPES.get(kind) if kind is not None else None,
            "form_factor": _FORM_FACTORS.get(form) if form is not None else None,
            "speed_mtps": _speed(one, 0x15, 0x54),
            "configured_mtps": _speed(one, 0x20, 0x58),
            "manufacturer": one.text(0x17),
            "part_number": one.text(0x1A),
        },
    )


def _speed(one: Structure, offset: int, extended: int) -> int | None:
    """Megatransfers a second."""
    speed = one.number(offset, 2)
    return (one.number(extended, 4) or None) if speed == 0xFFFF else (speed or None)

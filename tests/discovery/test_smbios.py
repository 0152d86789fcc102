"""The SMBIOS parser: what it finds, and that no table whatever makes it fail."""

from collections.abc import Callable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent import discovery
from edge_agent.discovery import smbios

GIB = 1024**3


def _structure(kind: int, area: bytes, *strings: bytes) -> bytes:
    texts = b"".join(text + b"\0" for text in strings) or b"\0"
    return bytes((kind, len(area) + 4, 0, 0)) + area + texts + b"\0"


def _dimm(size: int, *, extended: int = 0, length: int = 80, strings: tuple[bytes, ...] = (b"A1",)) -> bytes:
    area = bytearray(80)
    area[0x08:0x0A] = size.to_bytes(2, "little")
    area[0x0C] = 1
    area[0x18:0x1C] = extended.to_bytes(4, "little")
    return _structure(17, bytes(area[:length]), *strings)


def test_sizes_come_in_megabytes_kilobytes_and_the_extended_field() -> None:
    """DSP0134 7.18.4: bit 15 is the unit, 0x7fff says that the size is too large for two bytes, 0xffff that nobody knows."""
    table = _dimm(16384) + _dimm(0x8000 | 512) + _dimm(0x7FFF, extended=65536) + _dimm(0xFFFF) + _dimm(0)
    slots, modules = smbios.memory_modules(smbios.structures(table))
    assert slots == 5
    assert [module.attributes["size_bytes"] for module in modules] == [16 * GIB, 512 * 1024, 64 * GIB]


def test_an_old_short_structure_has_none_of_the_later_fields() -> None:
    """SMBIOS 2.1 ends after the type: no speed, no serial number."""
    _, (module,) = smbios.memory_modules(smbios.structures(_dimm(1024, length=0x15 - 4)))
    assert (module.locator, module.serial, module.attributes["speed_mtps"]) == ("A1", None, None)


def test_the_uuid_is_written_as_the_kernel_writes_it() -> None:
    """Its first three fields are little-endian."""
    uuid = bytes.fromhex("44454c4c390010308048b7c04f384432")
    system = _structure(1, bytes((1, 2, 0, 3)) + uuid, b"Dell Inc.", b"PowerEdge R630", b"790H8D2")
    assert smbios.system(smbios.structures(system)) == {
        "vendor": "Dell Inc.",
        "product": "PowerEdge R630",
        "serial": "790H8D2",
        "uuid": "4c4c4544-0039-3010-8048-b7c04f384432",
    }


def test_a_uuid_of_one_byte_repeated_is_none() -> None:
    """All zeros: not present; all ones: not set (DSP0134 7.2.1)."""
    for byte in (0x00, 0xFF):
        system = _structure(1, bytes((0, 0, 0, 0)) + bytes([byte]) * 16)
        assert smbios.system(smbios.structures(system))["uuid"] is None


def test_structures_after_the_end_and_a_cut_one_are_not_read() -> None:
    """Firmware leaves garbage behind the end-of-table structure."""
    assert [s.kind for s in smbios.structures(_dimm(1) + _structure(127, b"") + _dimm(1))] == [17, 127]
    assert [s.kind for s in smbios.structures(_dimm(1) + _dimm(1)[:-1])] == [17]


@given(st.binary(max_size=4096))
@example(b"\x11\x03\x00\x00\x00\x00")
@example(b"\x11\xff\x00\x00")
def test_any_bytes_are_parsed_to_an_end(table: bytes) -> None:
    """Nothing raises, nothing loops, and no structure is longer than the table."""
    found = smbios.structures(table)
    assert sum(len(one.area) for one in found) <= len(table)
    smbios.system(found)
    smbios.error_correction(found)
    slots, modules = smbios.memory_modules(found)
    assert len(modules) <= slots


@st.composite
def _broken_tables(draw: st.DrawFn) -> bytes:
    """A good table with some bytes of it changed: this gets deeper than random bytes do."""
    strings = draw(st.lists(st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\0", b"?")), min_size=1, max_size=5))
    table = bytearray(
        _structure(1, bytes((1, 2, 3, 4)) + bytes(16), *strings) + _dimm(4096, strings=tuple(strings)) + _dimm(0x7FFF, extended=1)
    )
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(table) - 1), st.integers(0, 255)), max_size=12)):
        table[at] = value
    return bytes(table)


@given(_broken_tables())
def test_what_a_broken_table_says_is_still_short_clean_text(table: bytes) -> None:
    """It ends up in messages and in the database."""
    found = smbios.structures(table)
    _, modules = smbios.memory_modules(found)
    texts = [*smbios.system(found).values(), *(m.locator for m in modules), *(m.serial for m in modules)]
    for text in texts:
        assert text is None or (0 < len(text) <= 256 and text.isprintable() and text.encode())
    assert all(0 < module.attributes["size_bytes"] < 2**53 for module in modules)


@given(st.binary(max_size=512))
def test_a_probe_reads_any_table_from_the_file(machine_once: Any, table: bytes) -> None:
    """The memory and firmware probes stand on it."""
    machine_once.put("/sys/firmware/dmi/tables/DMI", table)
    scan = discovery.scan(machine_once.root, ("memory", "firmware"), calls=machine_once)
    assert set(scan.sections) == {"memory", "firmware"}
    assert scan.errors == {}


def test_the_servers_modules_and_slots_are_found(machines: Callable[[str], Any]) -> None:
    """Three of four slots are filled; the module without a serial number is known by its slot."""
    server = machines("server")
    memory = discovery.scan(server.root, ("memory",), calls=server).sections["memory"]
    assert memory["slots"] == 4
    assert [dimm["key"] for dimm in memory["dimms"]] == ["2D8F1A01", "2D8F1A02", "path:dimm-NODE 2/P2-DIMMB1"]
    assert memory["installed_bytes"] == sum(dimm["size_bytes"] for dimm in memory["dimms"])

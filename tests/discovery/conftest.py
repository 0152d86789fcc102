"""Recorded machines: text files under `trees/` become file systems, beside answers of the kernel that no file has."""

import sqlite3
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.discovery.calls import Address

HERE = Path(__file__).parent


@dataclass
class Recorded:
    """A machine: the root of its file system, and its answers to system calls."""

    root: Path
    known: list[Address] = field(default_factory=list)
    macs: dict[str, str] = field(default_factory=dict)
    architecture: str | None = None

    def addresses(self) -> list[Address]:
        return self.known

    def permanent_mac(self, interface: str) -> str | None:
        return self.macs.get(interface)

    def machine(self) -> str | None:
        return self.architecture

    def put(self, path: str, content: bytes) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def link(self, path: str, target: str) -> None:
        link = self.root / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def _load(machine: Recorded, text: str) -> None:
    """Lines: `path = text`, `path = hex:…`, `path -> link target`, `path/`, a block between `path <<` and `<<`, or a kernel's answer."""
    lines = iter(text.splitlines())
    for line in lines:
        path = line.split(" ")[0]
        if not line or line.startswith("#"):
            continue
        if not line.startswith("/"):
            _answer(machine, line.split(" "))
        elif line.endswith(" <<"):
            block = list(iter(lambda: next(lines), "<<"))
            machine.put(path, "\n".join([*block, ""]).encode())
        elif " -> " in line:
            machine.link(path, line.partition(" -> ")[2])
        elif line.endswith("/"):
            (machine.root / path.strip("/")).mkdir(parents=True, exist_ok=True)
        else:
            value = line.partition(" = ")[2]
            machine.put(path, bytes.fromhex(value[4:]) if value.startswith("hex:") else f"{value}\n".encode())


def _answer(machine: Recorded, words: list[str]) -> None:
    match words:
        case ["address", interface, address, *rest]:
            ip, _, prefix = address.partition("/")
            machine.known.append(Address(interface, ip, int(prefix), rest == ["passing"]))
        case ["permanent-mac", interface, mac]:
            machine.macs[interface] = mac
        case ["machine", architecture]:
            machine.architecture = architecture
        case ["smbios"]:
            machine.put("/sys/firmware/dmi/tables/DMI", server_smbios())
        case ["rpm", count]:
            _rpm_database(machine, int(count))
        case _:
            raise ValueError(f"not understood: {words}")


def _rpm_database(machine: Recorded, count: int) -> None:
    path = machine.root / "usr/lib/sysimage/rpm/rpmdb.sqlite"
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
    database.executemany("INSERT INTO Packages VALUES (?, x'00')", [(number,) for number in range(count)])
    database.commit()
    database.close()


def structure(kind: int, area: bytes, *strings: str) -> bytes:
    """An SMBIOS structure; `area` without its four bytes of header."""
    texts = b"".join(text.encode() + b"\0" for text in strings) or b"\0"
    return struct.pack("<BBH", kind, len(area) + 4, 0x1000 + kind) + area + texts + b"\0"


def dimm(size: int, locator: str, serial: str, *, extended: int = 0, part: str = "M393A4K40EB3-CWE") -> bytes:
    """A type 17 structure of SMBIOS 3.2 (84 bytes); `size` as in the table: MiB, 0 for none, 0x7fff for `extended`."""
    area = bytearray(80)
    struct.pack_into("<H", area, 0x0C - 4, size)
    area[0x0E - 4] = 9
    area[0x10 - 4], area[0x11 - 4], area[0x12 - 4] = 1, 2, 0x1A
    struct.pack_into("<H", area, 0x15 - 4, 3200)
    area[0x17 - 4], area[0x18 - 4], area[0x1A - 4] = 3, 4, 5
    struct.pack_into("<I", area, 0x1C - 4, extended)
    struct.pack_into("<H", area, 0x20 - 4, 2666)
    return structure(17, bytes(area), locator, f"NODE {locator[1]}", "Samsung", serial, part)


def server_smbios() -> bytes:
    """Four slots: a module, a large one, an empty slot, and one whose maker left no serial number."""
    uuid = bytes(range(16))
    system = structure(1, bytes((1, 2, 0, 3)) + uuid + bytes(3), "Supermicro", "SYS-120U-TNR", "S432123X1234567")
    array = structure(16, bytes((3, 3, 6)) + bytes(12))
    slots = (
        dimm(32768 - 2, "P1-DIMMA1", "2D8F1A01"),
        dimm(0x7FFF, "P1-DIMMB1", "2D8F1A02", extended=65536),
        dimm(0, "P2-DIMMA1", "NO DIMM"),
        dimm(0x7FFF, "P2-DIMMB1", "00000000", extended=32768),
    )
    return system + array + b"".join(slots) + structure(127, b"")


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recorded]:
    """A recorded machine by name, made once and only read."""
    made: dict[str, Recorded] = {}

    def get(name: str) -> Recorded:
        if name not in made:
            made[name] = Recorded(tmp_path_factory.mktemp(name))
            _load(made[name], (HERE / "trees" / f"{name}.tree").read_text())
        return made[name]

    return get


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], Recorded]:
    """A machine of its own for one test, from tree text or by the name of a recorded one."""

    def build(text: str) -> Recorded:
        made = Recorded(tmp_path / "root")
        made.root.mkdir()
        _load(made, text if "\n" in text or not text else (HERE / "trees" / f"{text}.tree").read_text())
        return made

    return build


@pytest.fixture(scope="session")
def machines_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recorded]:
    """As `machines`, but for tests that change files and put them back: Hypothesis runs one test many times."""
    made: dict[str, Recorded] = {}

    def get(name: str) -> Recorded:
        if name not in made:
            made[name] = Recorded(tmp_path_factory.mktemp(f"{name}-scratch"))
            _load(made[name], (HERE / "trees" / f"{name}.tree").read_text())
        return made[name]

    return get


@pytest.fixture(scope="session")
def machine_once(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A machine with memory and nothing else, whose files each example of a Hypothesis test overwrites."""
    made = Recorded(tmp_path_factory.mktemp("scratch"))
    made.put("/proc/meminfo", b"MemTotal: 1024 kB\n")
    return made

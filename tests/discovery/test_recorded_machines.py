"""Whole scans of recorded machines, compared with golden files beside them (`FLEETWARD_GOLDEN=write` writes those anew)."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.messages import SECTIONS, Facts, Section, encode, section_hash
from edge_agent import discovery, enroll

HERE = Path(__file__).parent
MACHINES = ("server", "raspberry", "laptop", "vm")
LISTS = {
    "cpu": "packages",
    "memory": "dimms",
    "storage": "disks",
    "network": "nics",
    "gpu": "gpus",
    "pci": "devices",
    "usb": "devices",
    "tpm": "devices",
    "power": "batteries",
    "sensors": "sensors",
}

Machines = Callable[[str], Any]


@pytest.fixture(params=MACHINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_scan_says_what_the_golden_file_says(machines: Machines, name: str) -> None:
    """Every member of every section of four kinds of machine."""
    machine = machines(name)
    scan = discovery.scan(machine.root, calls=machine)
    golden = HERE / "trees" / f"{name}.json"
    if os.environ.get("FLEETWARD_GOLDEN") == "write":
        golden.write_text(json.dumps(scan.sections, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    assert scan.sections == json.loads(golden.read_text())
    assert scan.errors == {}


def test_components_have_a_name_and_a_key_that_is_unique_in_their_list(machines: Machines, name: str) -> None:
    """The server makes a component of each entry, and finds it again by its key."""
    machine = machines(name)
    sections = discovery.scan(machine.root, calls=machine).sections
    for section, member in LISTS.items():
        entries = sections[section][member]
        assert all(entry["key"] and entry["name"] for entry in entries), section
        assert len({entry["key"] for entry in entries}) == len(entries), section


def test_a_scan_repeats_itself_byte_for_byte_and_fits_a_message(machines: Machines, name: str) -> None:
    """Hashes of unchanged sections must not change, and all of it is a few kilobytes."""
    machine = machines(name)
    first, second = (discovery.scan(machine.root, calls=machine).sections for _ in range(2))
    assert {s: section_hash(first[s]) for s in SECTIONS} == {s: section_hash(second[s]) for s in SECTIONS}
    facts = Facts(sections={s: Section(hash=section_hash(d), data=d) for s, d in first.items()}, manifest={})
    payload = encode(facts, sent_at="2026-11-22T18:00:00.000Z", epoch="e", seq=1, topic="t", key=b"k" * 32)
    assert len(payload) < 16 * 1024


def test_a_renamed_disk_and_nic_keep_their_keys(machine: Callable[[str], Any]) -> None:
    """Names follow the order of discovery; serial numbers and MACs don't."""
    server = machine("server")
    before = discovery.scan(server.root, ("storage", "network"), calls=server).sections
    (server.root / "sys/block/sda").rename(server.root / "sys/block/sdq")
    (server.root / "sys/class/net/eno2").rename(server.root / "sys/class/net/eth9")
    server.macs["eth9"] = server.macs.pop("eno2")
    after = discovery.scan(server.root, ("storage", "network"), calls=server).sections
    assert {d["key"] for d in before["storage"]["disks"]} == {d["key"] for d in after["storage"]["disks"]}
    assert {n["key"] for n in before["network"]["nics"]} == {n["key"] for n in after["network"]["nics"]}
    assert {"sdq", "eth9"} <= {entry["name"] for entry in (*after["storage"]["disks"], *after["network"]["nics"])}


def test_every_section_of_the_contract_has_its_probe() -> None:
    """In the contract's order, so that reports read alike everywhere."""
    assert tuple(probe.section for probe in discovery.PROBES) == SECTIONS


def test_the_evidence_of_enrollment_is_what_the_facts_will_say(machines: Machines, name: str) -> None:
    """A serial number from DMI or the device tree and no placeholder, so that a machine that comes again is known by either."""
    root = machines(name).root
    firmware, told = discovery.scan(root).sections["firmware"], enroll.evidence(root)
    assert (told.serial, told.uuid) == (firmware["serial"] or "", (firmware["uuid"] or "").lower())
    assert told.serial == {"server": "S432123X1234567", "raspberry": "10000000a1b2c3d4"}.get(name, "")

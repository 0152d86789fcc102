"""The machine that runs the tests, compared with what other programs say of it."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.messages import section_hash
from edge_agent import discovery

NOBODY = 65534


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}).stdout


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    scan = discovery.scan()
    assert scan.errors == {}
    return scan.sections


def test_cpu_is_what_lscpu_says(sections: dict[str, Any]) -> None:
    """Model, architecture and topology."""
    said = dict(line.split(":", 1) for line in _output("lscpu").splitlines() if ":" in line)
    said = {name.strip(): value.strip() for name, value in said.items()}
    cpu = sections["cpu"]
    assert cpu["arch"] == said["Architecture"]
    assert cpu["threads"] == len(os.sched_getaffinity(1)) or cpu["threads"] == int(said["CPU(s)"])
    if "Socket(s)" in said and said["Socket(s)"].isdecimal():
        assert cpu["sockets"] == int(said["Socket(s)"])
        assert cpu["cores"] == int(said["Socket(s)"]) * int(said["Core(s) per socket"])
    if "Flags" in said:
        assert set(cpu["features"]) == set(said["Flags"].split())
    assert cpu["model"] == said["Model name"]


def test_memory_is_what_proc_says(sections: dict[str, Any]) -> None:
    """psutil reads the same file with other code."""
    assert sections["memory"]["total_bytes"] == psutil.virtual_memory().total
    assert sections["memory"]["swap_bytes"] == psutil.swap_memory().total


def test_disks_are_the_real_ones_of_lsblk(sections: dict[str, Any]) -> None:
    """By name, size, kind and serial number."""
    listed = json.loads(_output("lsblk", "-b", "-d", "-J", "-o", "NAME,SIZE,ROTA,TYPE,SERIAL"))["blockdevices"]
    real = {d["name"]: d for d in listed if d["type"] == "disk" and Path(f"/sys/block/{d['name']}/device").exists() and int(d["size"])}
    disks = {disk["name"]: disk for disk in sections["storage"]["disks"]}
    assert set(disks) == set(real)
    for name, disk in disks.items():
        assert disk["size_bytes"] == int(real[name]["size"])
        assert disk["rotational"] == bool(real[name]["rota"])
        assert real[name]["serial"] in (None, disk.get("serial"))
    assert sections["storage"]["total_bytes"] == sum(disk["size_bytes"] for disk in disks.values())


def test_file_systems_are_mounted_where_psutil_says(sections: dict[str, Any]) -> None:
    """Each of ours is one of its physical ones (or the overlay that is a container's root)."""
    physical = {(p.mountpoint, p.fstype) for p in psutil.disk_partitions(all=True)}
    assert {(f["mount_point"], f["type"]) for f in sections["storage"]["filesystems"]} <= physical


def test_nics_have_the_macs_and_addresses_that_the_kernel_tells(sections: dict[str, Any]) -> None:
    """psutil asks by getifaddrs, we by netlink."""
    told = psutil.net_if_addrs()
    real = {name for name in told if Path(f"/sys/class/net/{name}/device").exists()}
    nics = {nic["name"]: nic for nic in sections["network"]["nics"]}
    assert set(nics) == real
    for name, nic in nics.items():
        assert nic["mac"] in {a.address.lower() for a in told[name] if a.family == psutil.AF_LINK}
        ips = {a.address.partition("%")[0] for a in told[name] if a.family in (socket.AF_INET, socket.AF_INET6)}
        assert {address.partition("/")[0] for address in nic["addresses"]} <= ips
        assert {ip for ip in ips if ":" not in ip} <= {address.partition("/")[0] for address in nic["addresses"]}


def test_the_primary_address_is_the_one_that_leaves_the_machine(sections: dict[str, Any]) -> None:
    """The kernel's own choice for a far address, where there is a route; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            assert "." not in (sections["network"]["primary_ip"] or "")
            return
        assert sections["network"]["primary_ip"] == probe.getsockname()[0]


def test_system_and_platform_are_what_the_kernel_says(sections: dict[str, Any]) -> None:
    """Release, host name, boot."""
    assert sections["os"]["kernel"] == os.uname().release
    assert sections["network"]["hostname"] == socket.gethostname()
    assert sections["platform"]["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert f"ID={sections['os']['id']}" in Path("/etc/os-release").read_text().replace('"', "")


def test_packages_are_as_many_as_the_package_manager_lists(sections: dict[str, Any]) -> None:
    """Counted without running it; here it is run, where there is one."""
    listers = {
        "dpkg": ("dpkg-query", "-W", "-f", "${db:Status-Status}\\n"),
        "rpm": ("rpm", "-qa"),
        "apk": ("apk", "info"),
        "pacman": ("pacman", "-Qq"),
    }
    manager = sections["software"]["package_manager"]
    if manager is None or shutil.which(listers[manager][0]) is None:
        assert sections["software"]["packages"] is None or sections["software"]["packages"] > 0
        return
    listed = _output(*listers[manager]).split()
    expected = listed.count("installed") if manager == "dpkg" else len(listed)
    assert sections["software"]["packages"] == expected


def test_a_second_scan_has_the_same_hashes(sections: dict[str, Any]) -> None:
    """Nothing in the facts varies by itself."""
    again = discovery.scan().sections
    assert {name: section_hash(data) for name, data in again.items()} == {name: section_hash(data) for name, data in sections.items()}


def test_without_root_every_section_is_there(sections: dict[str, Any]) -> None:
    """Nobody sees all but what only root may read."""
    seen = _as_nobody(lambda: discovery.scan())
    assert seen["errors"] == {}
    assert set(seen["sections"]) == set(sections)
    for section in ("cpu", "storage", "network", "pci", "os", "time"):
        assert seen["sections"][section] == sections[section]


def test_what_root_alone_may_read_is_named(machine: Callable[[str], Any]) -> None:
    """The section is there without it, and the scan tells which file was closed."""
    with tempfile.TemporaryDirectory() as directory:
        server = machine("server")
        root = Path(directory) / "root"
        shutil.copytree(server.root, root, symlinks=True)
        Path(directory).chmod(0o755)
        (root / "sys/firmware/dmi/tables/DMI").chmod(0)
        seen = _as_nobody(lambda: discovery.scan(root, ("memory", "firmware"), calls=server))
    assert seen["errors"] == {}
    assert seen["denied"] == {"memory": ["/sys/firmware/dmi/tables/DMI"], "firmware": ["/sys/firmware/dmi/tables/DMI"]}
    assert seen["sections"]["memory"]["dimms"] == []


def _as_nobody(scan: Callable[[], discovery.Scan]) -> dict[str, Any]:
    """What a scan says in a child process without rights. A fork, because nobody may not be able to start our Python."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            found = scan()
            with os.fdopen(writing, "w") as pipe:
                json.dump({"sections": found.sections, "errors": found.errors, "denied": found.denied}, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    result: dict[str, Any] = json.loads(said)
    return result

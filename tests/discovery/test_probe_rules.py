"""Single rules of probes, on machines of a few lines."""

import ipaddress
import socket
import sqlite3
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import discovery
from edge_agent.discovery import calls, cleaning, keys, mounts, packages
from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.tree import Tree

Build = Callable[[str], Any]


def _section(machine: Any, name: str) -> Any:
    scan = discovery.scan(machine.root, (name,), calls=machine)
    assert scan.errors == {}
    return scan.sections[name]


@pytest.mark.parametrize(
    ("device", "path"),
    [
        ("pci0000:00/0000:00:1d.0/0000:3b:00.0/nvme/nvme0/nvme0n1", "pci-0000:3b:00.0-nvme-1"),
        ("pci0000:00/0000:00:17.0/ata7/host6/target6:0:0/6:0:0:0/block/sda", "pci-0000:00:17.0-ata-7"),
        ("pci0000:00/0000:00:02.0/virtio1/block/vda", "pci-0000:00:02.0"),
        (
            "pci0000:00/0000:00:14.0/usb1/1-2/1-2.4/1-2.4:1.0/host7/target7:0:0/7:0:0:0/block/sdb",
            "pci-0000:00:14.0-usb-0:2.4:1.0-scsi-0:0:0:0",
        ),
        ("pci0000:00/0000:00:10.0/host2/target2:0:3/2:0:3:1/block/sdc", "pci-0000:00:10.0-scsi-0:0:3:1"),
        ("platform/soc/fe300000.mmcnr/mmc_host/mmc1/mmc1:0001/mmc1:0001:1/net/wlan0", "platform-fe300000.mmcnr"),
        ("platform/soc/fe980000.usb/usb1/1-1/1-1:1.0/net/eth1", "platform-fe980000.usb-usb-0:1:1.0"),
        (
            "platform/axi/1000120000.pcie/pci0001:00/0001:00:00.0/0001:01:00.0/1f00100000.ethernet/net/eth0",
            "pci-0001:01:00.0-1f00100000.ethernet",
        ),
        ("platform/MSFT0101:00/tpm/tpm0", "platform-MSFT0101:00"),
    ],
)
def test_bus_paths_are_those_of_udev(machine: Build, device: str, path: str) -> None:
    """Without the numbers that follow the order of discovery."""
    assert bus_path(Tree(machine("").root), f"/sys/devices/{device}") == path


def test_keys_fall_back_where_an_identity_is_claimed_twice() -> None:
    """Serial number, else WWID, else the path; a placeholder is no serial number."""
    made = keys.keyed(
        [
            keys.Component("a", "one", ("S1", "W1"), {}),
            keys.Component("b", "two", ("S1", "W2"), {}),
            keys.Component("c", "three", ("To Be Filled By O.E.M.", None), {}),
            keys.Component("d", "", ("S1", "W2", "aa:bb"), {}),
        ]
    )
    assert [entry["key"] for entry in made] == ["W1", "path:b", "path:c", "aa:bb"]
    assert made[3]["name"] == "aa:bb"


@given(st.lists(st.tuples(st.text(max_size=3), st.sampled_from(("S1", "S2", None, "0000")), st.sampled_from(("W1", None))), max_size=8))
def test_keys_are_unique_whatever_devices_claim(claims: list[tuple[str, str | None, str | None]]) -> None:
    """Even where two things pretend to sit in one place."""
    made = keys.keyed(keys.Component(path, "x", (serial, wwid), {}) for path, serial, wwid in claims)
    assert len({entry["key"] for entry in made}) == len(claims)


@given(st.text(st.characters()), st.integers(1, 300))
def test_clean_text_is_short_printable_and_can_be_encoded(text: str, limit: int) -> None:
    """And stays as it is when cleaned again."""
    cleaned = cleaning.clean(text, limit)
    assert len(cleaned) <= limit
    assert "\0" not in cleaned
    assert cleaned.encode().decode() == cleaned
    assert cleaning.clean(cleaned, limit) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "To Be Filled By O.E.M.",
        "Default string",
        "Not Specified",
        "00000000",
        "0x00000000",
        "N/A",
        "System Serial Number",
        "None",
        " ",
        "123456789",
    ],
)
def test_makers_placeholders_are_no_values(text: str) -> None:
    """Ten thousand machines have the serial number "Default string"."""
    assert cleaning.meaningful(text) is None


@pytest.mark.parametrize("text", ["S432123X1234567", "FF0A1", "1234", "0x1a2b3c4d", "PF-3XYZ0F", "Defaulter", "NONE-1"])
def test_odd_but_real_values_are_kept(text: str) -> None:
    """Only whole texts are placeholders."""
    assert cleaning.meaningful(text) == text


NIC = """
/sys/class/net/{name} -> ../../devices/pci0000:00/{address}/net/{name}
/sys/devices/pci0000:00/{address}/net/{name}/device -> ../../../{address}
/sys/devices/pci0000:00/{address}/net/{name}/address = {mac}
/sys/devices/pci0000:00/{address}/net/{name}/addr_assign_type = {assigned}
/sys/devices/pci0000:00/{address}/net/{name}/type = 1
"""


def _nic(name: str, address: str, mac: str, assigned: int = 0) -> str:
    return NIC.format(name=name, address=address, mac=mac, assigned=assigned)


def test_a_random_mac_identifies_nothing(machine: Build) -> None:
    """It is another after the next boot."""
    (nic,) = _section(machine(_nic("usb0", "0000:00:05.0", "5e:11:22:33:44:55", assigned=1)), "network")["nics"]
    assert (nic["key"], nic["mac"]) == ("path:pci-0000:00:05.0", "5e:11:22:33:44:55")


def test_a_virtual_function_below_a_nic_is_a_part_of_it(machine: Build) -> None:
    """On Azure it has the MAC of the synthetic NIC and comes and goes; that must not change the NIC's key."""
    built = machine(_nic("eth0", "0000:00:05.0", "00:0d:3a:00:00:01") + _nic("enP1s2", "0000:00:06.0", "00:0d:3a:00:00:01"))
    built.link("/sys/class/net/enP1s2/master", "../../../0000:00:05.0/net/eth0")
    assert [(nic["name"], nic["key"]) for nic in _section(built, "network")["nics"]] == [("eth0", "00:0d:3a:00:00:01")]


def test_without_a_default_route_the_first_nic_with_an_address_is_primary(machine: Build) -> None:
    """An island still has an address."""
    built = machine(
        "address eth1 192.0.2.7/24\n"
        + _nic("eth0", "0000:00:05.0", "02:00:00:00:00:01")
        + _nic("eth1", "0000:00:06.0", "02:00:00:00:00:02")
    )
    network = _section(built, "network")
    assert (network["primary_interface"], network["primary_ip"], network["primary_mac"]) == ("eth1", "192.0.2.7", "02:00:00:00:00:02")


def test_nics_are_reported_where_the_kernel_tells_no_addresses(machine: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may forbid netlink: that is said, and costs the addresses only."""
    built = machine(_nic("eth0", "0000:00:05.0", "02:00:00:00:00:01"))

    def refuse() -> list[calls.Address]:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(built, "addresses", refuse)
    scan = discovery.scan(built.root, ("network",), calls=built)
    assert [nic["name"] for nic in scan.sections["network"]["nics"]] == ["eth0"]
    assert "Address family not supported" in scan.errors["network"]


@given(st.binary(max_size=400))
def test_any_netlink_answer_is_decoded_to_addresses(data: bytes) -> None:
    """Lengths that make no sense end it."""
    for _, ip, prefix, _ in calls.decode_addresses(data):
        ipaddress.ip_address(ip)
        assert 0 <= prefix <= 255


def test_a_temporary_ipv6_address_is_told_from_a_secondary_ipv4_one() -> None:
    """They share a bit (linux/if_addr.h)."""

    def message(family: int, raw: bytes, flags: int) -> bytes:
        body = struct.pack("=BBBBI", family, 24, flags, 0, 2) + struct.pack("=HH", 4 + len(raw), 1) + raw
        return struct.pack("=IHHII", 16 + len(body), 20, 0, 1, 0) + body

    answer = message(socket.AF_INET, socket.inet_aton("192.0.2.1"), 0x01) + message(
        socket.AF_INET6, socket.inet_pton(socket.AF_INET6, "2001:db8::1"), 0x01
    )
    assert calls.decode_addresses(answer) == [(2, "192.0.2.1", 24, False), (2, "2001:db8::1", 24, True)]


@given(st.text())
def test_any_mountinfo_is_read(text: str) -> None:
    """Mount points may hold anything but NUL."""
    assert len(mounts.worth_reporting(mounts.mounts(text), frozenset())) <= mounts.MAX_FILESYSTEMS


def test_of_bind_mounts_the_file_systems_own_counts_whatever_the_order() -> None:
    """A container runtime may have mounted a part of it first."""
    lines = "50 1 8:1 /sub /bound rw - ext4 /dev/sda1 rw\n51 1 8:1 / /data rw - ext4 /dev/sda1 rw\n"
    assert [mount.point for mount in mounts.worth_reporting(mounts.mounts(lines), frozenset())] == ["/data"]


@given(
    st.lists(
        st.sampled_from(("install ok installed", "deinstall ok config-files", "hold ok installed", "install reinstreq half-installed")),
        max_size=60,
    )
)
def test_packages_are_counted_across_the_pieces_of_a_large_file(machine_once: Any, states: list[str]) -> None:
    """Filler pushes the lines that count over the boundaries of what is read at once."""
    filler = "Description: " + "x" * 7000
    machine_once.put("/var/lib/dpkg/status", "\n\n".join(f"Package: p\nStatus: {state}\n{filler}" for state in states).encode())
    counted = packages.installed(Tree(machine_once.root))
    expected = sum(state.endswith(" installed") for state in states)
    assert counted == (("dpkg", expected) if expected else None)


def test_counting_rpms_packages_leaves_its_directory_as_it_was(machine: Build) -> None:
    """SQLite would put files beside a database in WAL mode."""
    built = machine("rpm 3\n")
    directory = built.root / "usr/lib/sysimage/rpm"
    before = sorted(path.name for path in directory.iterdir())
    assert _section(built, "software")["packages"] == 3
    assert sorted(path.name for path in directory.iterdir()) == before


def test_packages_that_are_still_in_rpms_log_are_counted(machine: Build) -> None:
    """While rpm has it open, the last transactions stand in the -wal file alone."""
    built = machine("rpm 3\n")
    writer = sqlite3.connect(built.root / "usr/lib/sysimage/rpm/rpmdb.sqlite")
    writer.execute("INSERT INTO Packages VALUES (99, x'00')")
    writer.commit()
    assert _section(built, "software")["packages"] == 4
    writer.close()


def test_a_broken_package_database_is_an_error_of_its_section(machine: Build) -> None:
    """Better than a count that is wrong."""
    built = machine("rpm 3\n")
    assert _section(built, "software")["packages"] == 3
    built.put("/usr/lib/sysimage/rpm/rpmdb.sqlite", b"SQLite format 3\0" + b"garbage" * 100)
    scan = discovery.scan(built.root, ("software",), calls=built)
    assert "DatabaseError" in scan.errors["software"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/sys/class/dmi/id/sys_vendor = VMware, Inc.\n", "vmware"),
        ("/sys/class/dmi/id/sys_vendor = Microsoft Corporation\n/sys/class/dmi/id/product_name = Virtual Machine\n", "microsoft"),
        ("/sys/class/dmi/id/sys_vendor = Microsoft Corporation\n/sys/class/dmi/id/product_name = Surface Pro 9\n", "none"),
        ("/sys/class/dmi/id/sys_vendor = Amazon EC2\n/sys/class/dmi/id/product_name = m5.large\n", "amazon"),
        ("/sys/class/dmi/id/sys_vendor = Amazon EC2\n/sys/class/dmi/id/product_name = c5.metal\n", "none"),
        ("/sys/class/dmi/id/product_name = VirtualBox\n", "oracle"),
        ("/sys/class/dmi/id/sys_vendor = QEMU\n", "qemu"),
        (
            "/sys/class/dmi/id/sys_vendor = QEMU\n/sys/devices/system/clocksource/clocksource0/available_clocksource = kvm-clock tsc\n",
            "kvm",
        ),
        ("/sys/devices/system/clocksource/clocksource0/available_clocksource = tsc kvm-clock\n", "kvm"),
        ("/sys/hypervisor/type = xen\n", "xen"),
        ("/sys/hypervisor/type = xen\n/proc/xen/capabilities = control_d\n", "none"),
        ("/proc/cpuinfo = flags : fpu hypervisor lm\n", "vm"),
        ("/proc/cpuinfo = flags : fpu lm\n", "none"),
    ],
)
def test_hypervisors_are_named_as_systemd_names_them(machine: Build, text: str, expected: str) -> None:
    """From DMI, the clock sources and Xen's files."""
    assert _section(machine(text), "platform")["virtualization"] == expected


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("/run/reboot-required = x\n", True),
        ("/proc/sys/kernel/osrelease = 6.1.9-1\n/lib/modules/6.1.10-1/\n/lib/modules/6.1.9-1/\nrpm 1\n", True),
        ("/proc/sys/kernel/osrelease = 6.1.10-1\n/lib/modules/6.1.10-1/\n/lib/modules/6.1.9-1/\nrpm 1\n", False),
        ("/proc/sys/kernel/osrelease = 6.1.9-arch1\n/usr/lib/modules/6.1.10-arch1/\n/var/lib/pacman/local/a-1/\n", True),
        ("/proc/sys/kernel/osrelease = 6.1.9-arch1\n/usr/lib/modules/6.1.9-arch1/\n/var/lib/pacman/local/a-1/\n", False),
        ("/proc/sys/kernel/osrelease = 6.1.9\n", False),
    ],
)
def test_an_update_that_waits_for_a_reboot_is_seen(machine: Build, text: str, required: bool) -> None:
    """By Debian's mark, or by the kernels that rpm and pacman leave."""
    assert _section(machine(text), "software")["reboot_required"] is required


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("/etc/localtime -> ../usr/share/zoneinfo/America/Argentina/Buenos_Aires\n", "America/Argentina/Buenos_Aires"),
        ("/etc/localtime -> /usr/share/zoneinfo/posix/Europe/Paris\n", "Europe/Paris"),
        ("/etc/localtime -> /somewhere/else\n", None),
        ("/etc/localtime = TZif2\n", None),
        ("/etc/timezone = Etc/UTC\n", "Etc/UTC"),
        ("\n", "UTC"),
    ],
)
def test_the_time_zone_is_an_iana_name_or_null(machine: Build, text: str, zone: str | None) -> None:
    """From the link, else from Debian's file, else UTC where nothing is set."""
    assert _section(machine(text), "time")["timezone"] == zone


def test_a_recorded_tree_is_not_left_by_links(machine: Build) -> None:
    """Absolute links are text, and resolved paths that lead out are none."""
    built = machine("")
    built.link("/sys/class/net/eth0", "/etc")
    assert Tree(built.root).real("/sys/class/net/eth0") is None


def test_a_fifo_in_the_place_of_a_file_holds_nobody(machine: Build) -> None:
    """Opening one for reading would wait for a writer for ever."""
    import os

    built = machine("")
    os.mkfifo(built.root / "fifo")
    assert Tree(built.root).text("/fifo") is None

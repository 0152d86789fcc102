"""The watcher: what it notices, and that it is quiet otherwise."""

from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.discovery import Watcher
from edge_agent.discovery.calls import Address
from edge_agent.discovery.watch import FULL_S, HARDWARE, SECTIONS, SETTLE_S

Build = Callable[[str], Any]


class Watched:
    """A machine and a watcher that has seen it once; `event` is the kernel counting one."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.now = 1000.0
        self._events = 100
        self.event()
        self.watcher = Watcher(machine.root, machine)
        assert self.look() == SECTIONS

    def event(self) -> None:
        self._events += 1
        self.machine.put("/sys/kernel/uevent_seqnum", f"{self._events}\n".encode())

    def look(self, after: float = 10.0) -> frozenset[str]:
        self.now += after
        return self.watcher.changed(self.now)


@pytest.fixture
def watched(machine: Build) -> Watched:
    return Watched(machine("server"))


def test_nothing_is_noticed_where_nothing_happens(watched: Watched) -> None:
    """For most of an hour."""
    assert all(not watched.look() for _ in range(100))


def test_a_plugged_nic_is_noticed_at_the_next_look_and_so_is_its_going(watched: Watched) -> None:
    """A new interface with a device behind it, and one event."""
    where = "/sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0"
    watched.machine.put(f"{where}/net/enx1/address", b"00:e0:4c:68:00:01\n")
    watched.machine.link(f"{where}/net/enx1/device", "../../../2-1:1.0")
    watched.machine.link("/sys/class/net/enx1", f"../../..{where}/net/enx1")
    watched.event()
    assert watched.look() == {"network"}
    assert watched.look() == frozenset()
    (watched.machine.root / "sys/class/net/enx1").unlink()
    watched.event()
    assert watched.look() == {"network"}


def test_a_bridge_or_veth_is_no_hardware(watched: Watched) -> None:
    """A host that starts containers all day is not scanned all day."""
    watched.machine.put("/sys/class/net/veth99/address", b"5e:00:00:00:00:02\n")
    watched.event()
    assert watched.look() == frozenset()


@pytest.mark.parametrize(
    ("path", "section"),
    [
        ("/sys/bus/usb/devices/1-9/idVendor", "usb"),
        ("/sys/bus/pci/devices/0000:99:00.0/vendor", "pci"),
        ("/sys/class/tpm/tpm0/tpm_version_major", "tpm"),
        ("/sys/class/power_supply/BAT0/type", "power"),
        ("/sys/class/hwmon/hwmon9/name", "sensors"),
        ("/sys/class/drm/card0/uevent", "gpu"),
    ],
)
def test_each_kind_of_device_concerns_its_section(watched: Watched, path: str, section: str) -> None:
    """By the directory that it appears in."""
    watched.machine.put(path, b"1\n")
    watched.event()
    assert watched.look() == {section}


def test_a_disk_replaced_by_another_of_the_same_name_is_noticed(watched: Watched) -> None:
    """Pulled and plugged between two looks: the listing reads the same, its inode doesn't."""
    link = watched.machine.root / "sys/block/sda"
    target = link.readlink()
    link.rename(link.with_name("gone"))
    link.symlink_to(target)
    (link.with_name("gone")).unlink()
    watched.event()
    assert watched.look() == {"storage"}


def test_a_disk_that_grew_is_noticed(watched: Watched) -> None:
    """As virtual ones do while they are in use."""
    size = watched.machine.root / "sys/block/nvme0n1/size"
    size.write_text("1875385009\n")
    watched.event()
    assert watched.look() == {"storage"}


def test_events_that_no_listing_explains_make_all_hardware_due_after_a_while(watched: Watched) -> None:
    """A driver was bound, say; once, however many events there were."""
    watched.event()
    assert watched.look() == frozenset()
    watched.event()
    assert watched.look(SETTLE_S) == HARDWARE
    assert watched.look(SETTLE_S) == frozenset()


@pytest.mark.parametrize(
    ("path", "content", "section"),
    [
        ("/usr/lib/os-release", b"ID=debian\n", "os"),
        ("/etc/os-release", b"ID=debian\nVERSION_ID=13\n", "os"),
        ("/var/lib/dpkg/status", b"Package: one\nStatus: install ok installed\n", "software"),
        ("/run/reboot-needed", b"", "software"),
        ("/etc/adjtime", b"LOCAL\n", "time"),
        ("/proc/meminfo", b"MemTotal: 1 kB\n", "memory"),
        ("/proc/self/mountinfo", b"", "storage"),
        ("/proc/net/route", b"", "network"),
        ("/proc/sys/kernel/hostname", b"other\n", "network"),
        ("/sys/class/net/eno1/carrier_changes", b"3\n", "network"),
    ],
)
def test_what_changes_without_an_event_is_noticed(watched: Watched, path: str, content: bytes, section: str) -> None:
    """Files, mounts, routes and links have fingerprints of their own."""
    watched.machine.put(path, content)
    assert watched.look() == {section}
    assert watched.look() == frozenset()


def test_a_changed_time_zone_is_noticed(watched: Watched) -> None:
    """The link is replaced."""
    (watched.machine.root / "etc/localtime").unlink()
    watched.machine.link("/etc/localtime", "/usr/share/zoneinfo/Asia/Tokyo")
    assert watched.look() == {"time"}


def test_a_new_address_is_noticed_but_not_a_containers(watched: Watched) -> None:
    """Only the NICs' and the primary interface's are reported, so only they count."""
    watched.machine.known.append(Address("docker0", "172.18.0.1", 16))
    assert watched.look() == frozenset()
    watched.machine.known.append(Address("bond0", "10.20.0.6", 24))
    assert watched.look() == {"network"}
    watched.machine.known.append(Address("bond0", "2001:db8::1", 64, passing=True))
    assert watched.look() == frozenset()


def test_everything_is_looked_at_again_now_and_then(watched: Watched) -> None:
    """Events are for latency, the scan is for truth."""
    assert watched.look(FULL_S) == SECTIONS
    assert watched.look() == frozenset()


def test_without_a_count_of_events_the_listings_are_read_each_time(machine: Build) -> None:
    """Some containers have no /sys/kernel."""
    server = machine("server")
    watcher = Watcher(server.root, server)
    assert watcher.changed(0.0) == SECTIONS
    assert watcher.changed(400.0) == frozenset()
    server.put("/sys/class/tpm/tpm0/tpm_version_major", b"2\n")
    assert watcher.changed(800.0) == {"tpm"}


def test_an_empty_file_system_can_be_watched(machine: Build) -> None:
    """Nothing there is nothing changed."""
    watcher = Watcher(machine("").root)
    assert watcher.changed(0.0) == SECTIONS
    assert watcher.changed(10.0) == frozenset()

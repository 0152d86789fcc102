"""Noticing that something changed, for next to nothing: a look of well under a millisecond every few seconds instead of scans.

The kernel counts every device that comes, goes or changes (`/sys/kernel/uevent_seqnum`); while that number stands, nothing was plugged.
When it moves, directory listings tell which section is concerned at once, and all hardware sections are due again after a while, for
what no listing shows (a driver bound, a disk grown). Addresses, routes, mounts and a few files have fingerprints of their own. Deliberately
not a netlink or inotify listener: those need a thread and a descriptor each, and lose events when nobody reads.

Pure but for the reading: the clock is passed in. Called by the agent, which scans the sections that `changed` names.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

from edge_agent.discovery import network, packages, software, storage
from edge_agent.discovery.calls import SystemCalls
from edge_agent.discovery.operating_system import OS_RELEASE
from edge_agent.discovery.scan import PROBES
from edge_agent.discovery.tree import Tree

SETTLE_S = 300.0
"""After uevents that no listing explains, all hardware is looked at again, at most this often: on a host that starts containers all day
there are always some."""

FULL_S = 3600.0
"""Everything is looked at again this often: events are for latency, the scan is for truth."""

SECTIONS = frozenset(probe.section for probe in PROBES)
HARDWARE = frozenset(("cpu", "memory", "storage", "network", "pci", "usb", "gpu", "tpm", "power", "sensors"))

Fingerprint = object
"""Anything that compares; equal means unchanged."""

Take = Callable[[Tree], Fingerprint]


def _listing(*paths: str) -> Take:
    return lambda tree: _digest(*(repr(tree.inodes(path)) for path in paths))


def _digest(*texts: str) -> int:
    """Short, so that watching keeps nothing large; a collision is caught by the next full scan."""
    return zlib.crc32("\n".join(texts).encode("utf-8", "surrogateescape"))


def _disks(tree: Tree) -> Fingerprint:
    """With sizes: a virtual disk grows while it is in use."""
    return _digest(
        repr(tree.inodes("/sys/block")), *(f"{name}={tree.text(f'/sys/block/{name}/size')}" for name in storage.real_disks(tree))
    )


def _interfaces(tree: Tree) -> Fingerprint:
    inodes = dict(tree.inodes("/sys/class/net"))
    return _digest(*(f"{name}={inodes.get(name)}" for name in network.real_nics(tree)))


def _online_cpus(tree: Tree) -> Fingerprint:
    return tree.text("/sys/devices/system/cpu/online")


PLUGGED: tuple[tuple[str, Take], ...] = (
    ("cpu", _online_cpus),
    ("storage", _disks),
    ("network", _interfaces),
    ("pci", _listing("/sys/bus/pci/devices")),
    ("usb", _listing("/sys/bus/usb/devices")),
    ("gpu", _listing("/sys/class/drm")),
    ("tpm", _listing("/sys/class/tpm")),
    ("power", _listing("/sys/class/power_supply")),
    ("sensors", _listing("/sys/class/hwmon", "/sys/class/thermal")),
)
"""What changes only together with the kernel's count of device events."""


def _memory(tree: Tree) -> Fingerprint:
    return _digest(*(line for line in tree.lines("/proc/meminfo", 4096) if line.startswith(("MemTotal", "SwapTotal"))))


def _mounts(tree: Tree) -> Fingerprint:
    return _digest(*tree.lines("/proc/self/mountinfo"))


def _addresses(tree: Tree) -> Fingerprint:
    """Real NICs' and the primary interface's addresses, the default routes, and how often links came up: their speed goes with that."""
    routes, nics = network.default_routes(tree), network.real_nics(tree)
    shown = {*nics, *routes[:1]}
    addresses = [repr(address) for address in network.lasting_addresses(tree) if address.interface in shown]
    links = [f"{name}={tree.text(f'/sys/class/net/{name}/carrier_changes')}" for name in nics]
    return _digest(*routes, *addresses, *links, tree.text("/proc/sys/kernel/hostname") or "")


def _files(*paths: str) -> Take:
    return lambda tree: tuple(tree.stamp(path) for path in paths)


_PACKAGE_FILES = tuple(path for manager in packages.MANAGERS for path in manager.paths)

ALWAYS: tuple[tuple[str, Take], ...] = (
    ("memory", _memory),
    ("storage", _mounts),
    ("network", _addresses),
    ("os", _files(*OS_RELEASE)),
    ("software", _files(*_PACKAGE_FILES, *(f"{path}-wal" for path in _PACKAGE_FILES if path.endswith(".sqlite")), *software.REBOOT_MARKS)),
    ("time", _files("/etc/localtime", "/etc/timezone", "/etc/adjtime")),
    ("platform", lambda tree: tree.text("/proc/sys/kernel/random/boot_id")),
)
"""What changes without the kernel counting it."""


class Watcher:
    """Remembers fingerprints, a number each. `changed` every few seconds sees a hot-plug within as many."""

    def __init__(self, root: Path = Path("/"), calls: SystemCalls | None = None) -> None:
        self._root, self._calls = root, calls
        self._seen: dict[Take, Fingerprint] = {}
        self._events: int | None = None
        self._unsettled = False
        self._looked_at: float | None = None
        self._hardware_at = 0.0

    def changed(self, now: float) -> frozenset[str]:
        """Sections that may have changed since the last call; the first time, and every FULL_S, all. `now`: monotonic seconds."""
        tree = Tree(self._root, self._calls)
        events = tree.number("/sys/kernel/uevent_seqnum")
        moved = events is None or events != self._events
        self._events = events
        found = self._compare(tree, ALWAYS)
        if moved:
            found |= self._compare(tree, PLUGGED)
            self._unsettled = self._unsettled or events is not None
        if self._looked_at is None or now - self._looked_at >= FULL_S:
            self._looked_at = self._hardware_at = now
            self._unsettled = False
            return SECTIONS
        if self._unsettled and now - self._hardware_at >= SETTLE_S:
            self._hardware_at, self._unsettled = now, False
            found |= HARDWARE
        return frozenset(found)

    def _compare(self, tree: Tree, fingerprints: tuple[tuple[str, Take], ...]) -> set[str]:
        found = set()
        for section, take in fingerprints:
            fingerprint = take(tree)
            if take not in self._seen or self._seen[take] != fingerprint:
                found.add(section)
            self._seen[take] = fingerprint
        return found

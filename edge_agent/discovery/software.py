"""The software section: how many packages are installed, and whether an update waits for a reboot. Called by `scan`.

Source: Debian policy on /run/reboot-required (update-notifier, unattended-upgrades); transactional-update(8).
"""

import re

from edge_agent.discovery import packages
from edge_agent.discovery.cleaning import clean, natural
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

REBOOT_MARKS = ("/run/reboot-required", "/var/run/reboot-required", "/run/reboot-needed")
_MODULES = ("/lib/modules", "/usr/lib/modules")
MAX_NAMED = 32


def read(tree: Tree) -> Facts:
    """`packages` is null where no database can be read. Raises OSError or sqlite3.Error for one that is broken."""
    found = packages.installed(tree)
    manager, count = found or (None, None)
    return {
        "packages": count,
        "package_manager": manager,
        "reboot_required": any(tree.exists(mark) for mark in REBOOT_MARKS) or _newer_kernel_waits(tree, manager),
        "reboot_required_by": sorted({clean(line) for line in tree.lines("/run/reboot-required.pkgs", 65536)} - {""})[:MAX_NAMED],
    }


def _newer_kernel_waits(tree: Tree, manager: str | None) -> bool:
    """Where nobody leaves a mark: pacman has removed the running kernel's modules, rpm has put newer ones beside them."""
    running = tree.text("/proc/sys/kernel/osrelease")
    kernels = next((names for path in _MODULES if (names := [n for n in tree.names(path) if re.match(r"\d+\.\d+", n)])), [])
    if not running or not kernels:
        return False
    match manager:
        case "pacman":
            return running not in kernels
        case "rpm":
            return running in kernels and natural(running) < max(natural(name) for name in kernels)
    return False


PROBE = Probe("software", read)

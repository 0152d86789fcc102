"""The platform section: what the system runs on and in (hypervisor, container), this boot, and a digest of the machine id.

Virtualisation is named as systemd-detect-virt does. The CPUID leaf that tells the hypervisor can't be read from Python; DMI, the device
tree and the kernel's clock sources tell it too. Called by `scan`.

Source: systemd-detect-virt(1); machine-id(5), which asks to publish only a keyed digest of it.
"""

import hashlib
import hmac

from edge_agent.discovery.firmware import device_tree
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_DMI = "/sys/class/dmi/id"
_DMI_FIELDS = ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version")
_BY_DMI = (
    ("KVM", "kvm"), ("OpenStack", "kvm"), ("KubeVirt", "kvm"), ("Amazon EC2", "amazon"), ("QEMU", "qemu"), ("VMware", "vmware"),
    ("VMW", "vmware"), ("innotek GmbH", "oracle"), ("VirtualBox", "oracle"), ("Xen", "xen"), ("Bochs", "bochs"),
    ("Parallels", "parallels"), ("BHYVE", "bhyve"), ("Hyper-V", "microsoft"), ("Apple Virtualization", "apple"),
    ("Google Compute Engine", "google"),
)  # fmt: skip
_BY_CLOCK = (("kvm-clock", "kvm"), ("hyperv_clocksource", "microsoft"), ("xen", "xen"), ("vmware", "vmware"))
_CLOCKS = "/sys/devices/system/clocksource/clocksource0/available_clocksource"


def read(tree: Tree) -> Facts:
    return {
        "virtualization": virtualization(tree),
        "container": container(tree),
        "boot_id": tree.text("/proc/sys/kernel/random/boot_id"),
        "machine_id_hash": _machine_id_hash(tree),
        "init": tree.text("/proc/1/comm"),
    }


def virtualization(tree: Tree) -> str:
    """`none` on bare metal, `vm` for a hypervisor that we can't name."""
    if _is_xen_host(tree):
        return "none"
    named = _by_dmi(tree)
    # QEMU is what the machine pretends to be, KVM what it runs on.
    if named in (None, "qemu"):
        named = _by_clock(tree) or _by_device_tree(tree) or named
    return named or ("vm" if _cpu_says_hypervisor(tree) else "none")


def _by_dmi(tree: Tree) -> str | None:
    texts = [tree.text(f"{_DMI}/{field}") or "" for field in _DMI_FIELDS]
    product, vendor = texts[0], texts[1]
    if vendor == "Microsoft Corporation":
        return "microsoft" if product == "Virtual Machine" else None
    if "Amazon EC2" in vendor and ".metal" in product:
        return None
    return next((name for mark, name in _BY_DMI if any(text.startswith(mark) for text in texts)), None)


def _by_clock(tree: Tree) -> str | None:
    clocks = tree.text(_CLOCKS) or ""
    hypervisor = tree.text("/sys/hypervisor/type")
    return "xen" if hypervisor == "xen" else next((name for mark, name in _BY_CLOCK if mark in clocks), None)


def _by_device_tree(tree: Tree) -> str | None:
    base = device_tree(tree) or "/proc/device-tree"
    compatible = tree.text(f"{base}/hypervisor/compatible") or ""
    if "kvm" in compatible or tree.exists(f"{base}/fw-cfg"):
        return "kvm"
    return "xen" if "xen" in compatible else None


def _is_xen_host(tree: Tree) -> bool:
    return "control_d" in (tree.text("/proc/xen/capabilities") or "")


def _cpu_says_hypervisor(tree: Tree) -> bool:
    flags = next((line for line in tree.lines("/proc/cpuinfo", 8192) if line.startswith("flags")), "")
    return " hypervisor" in flags


def container(tree: Tree) -> str | None:
    """`docker`, `podman`, `lxc`, `systemd-nspawn`, `wsl` …; None outside of any."""
    if named := tree.text("/run/systemd/container"):
        return named
    if tree.exists("/run/.containerenv"):
        return "podman"
    if tree.exists("/.dockerenv"):
        return "docker"
    if "microsoft" in (tree.text("/proc/sys/kernel/osrelease") or "").lower():
        return "wsl"
    environment = tree.data("/proc/1/environ", 65536) or b""
    named_there = next((entry[10:] for entry in environment.split(b"\0") if entry.startswith(b"container=")), b"")
    return named_there.decode("ascii", "replace") or None


def _machine_id_hash(tree: Tree) -> str | None:
    machine_id = tree.text("/etc/machine-id")
    return hmac.new(machine_id.encode(), b"fleetward", hashlib.sha256).hexdigest()[:32] if machine_id else None


PROBE = Probe("platform", read)

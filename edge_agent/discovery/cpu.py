"""The cpu section: model, topology, features and caches. No current frequency: that is a metric.

Packages, cores and threads are counted from the topology of the CPUs that are online, as lscpu does.

Source: Documentation/ABI/stable/sysfs-devices-system-cpu; proc_cpuinfo(5); Arm's part numbers as in util-linux' lscpu-arm.c.
"""

from collections import defaultdict

from edge_agent.discovery.cleaning import clean, without_nulls
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_CPUS = "/sys/devices/system/cpu"

_CPUINFO_BYTES = 32 * 1024
"""The first CPUs are enough, and on a machine with hundreds reading on would wake them all."""

_ARM_MAKERS = {
    0x41: "ARM",
    0x42: "Broadcom",
    0x43: "Cavium",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x51: "Qualcomm",
    0x61: "Apple",
    0xC0: "Ampere",
}
_ARM_CORES = {
    0xB76: "ARM1176", 0xC07: "Cortex-A7", 0xC08: "Cortex-A8", 0xC09: "Cortex-A9", 0xC0F: "Cortex-A15", 0xD03: "Cortex-A53",
    0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72", 0xD09: "Cortex-A73", 0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE",
    0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD49: "Neoverse-N2", 0xD4B: "Cortex-A78C", 0xD4D: "Cortex-A715",
    0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720",
}  # fmt: skip


def read(tree: Tree) -> Facts:
    """Raises LookupError without /proc/cpuinfo."""
    blocks = _blocks(tree.required("/proc/cpuinfo", _CPUINFO_BYTES))
    cores_of, threads_of = _topology(tree)
    first = blocks[0]
    model, vendor = _model(blocks), _vendor(first)
    fastest = _max_mhz(tree)
    packages = [
        Component(
            path=f"cpu-{package}",
            name=f"CPU {package}",
            identities=(),
            attributes={
                "model": model,
                "vendor": vendor,
                "cores": len(cores_of[package]),
                "threads": threads_of[package],
                "max_mhz": fastest,
            },
        )
        for package in sorted(cores_of)
    ]
    return without_nulls(
        {
            "model": model,
            "vendor": vendor,
            "arch": architecture(tree),
            "sockets": len(packages),
            "cores": sum(len(cores) for cores in cores_of.values()),
            "threads": sum(threads_of.values()),
            "numa_nodes": sum(name.startswith("node") and name[4:].isdecimal() for name in tree.names("/sys/devices/system/node")) or 1,
            "max_mhz": fastest,
            "microcode": first.get("microcode"),
            "features": sorted(set((first.get("flags") or first.get("Features") or first.get("isa") or "").split())),
            "caches": _caches(tree),
            "packages": keyed(packages),
        }
    )


def architecture(tree: Tree) -> str | None:
    """The kernel's architecture, such as x86_64 or aarch64."""
    return tree.text("/proc/sys/kernel/arch") or tree.calls.machine()


def _blocks(cpuinfo: str) -> list[dict[str, str]]:
    """The name/value pairs of each CPU, the last, cut one included."""
    blocks = []
    for block in cpuinfo.split("\n\n"):
        pairs = (line.partition(":") for line in block.split("\n") if ":" in line)
        blocks.append({clean(name): clean(value, 4096) for name, _, value in pairs})
    return blocks


def _model(blocks: list[dict[str, str]]) -> str | None:
    parts = {_arm_core(block) for block in blocks} - {None}
    if parts:
        return " + ".join(sorted(str(part) for part in parts))
    named = (blocks[0].get(member) for member in ("model name", "cpu model", "uarch", "cpu", "Processor"))
    return next((clean(name) for name in named if name), None)


def _arm_core(block: dict[str, str]) -> str | None:
    try:
        maker, part = int(block["CPU implementer"], 16), int(block["CPU part"], 16)
    except (KeyError, ValueError):
        return None
    core = _ARM_CORES.get(part) if maker == 0x41 else None
    return core or f"{_ARM_MAKERS.get(maker, hex(maker))} {part:#05x}"


def _vendor(block: dict[str, str]) -> str | None:
    if vendor := block.get("vendor_id"):
        return {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}.get(vendor, vendor)
    try:
        return _ARM_MAKERS.get(int(block.get("CPU implementer", ""), 16))
    except ValueError:
        return None


def _topology(tree: Tree) -> tuple[dict[int, set[str]], dict[int, int]]:
    """Of each package its cores, each named by the CPUs it carries, and its number of threads."""
    cores: dict[int, set[str]] = defaultdict(set)
    threads: dict[int, int] = defaultdict(int)
    for cpu in tree.names(_CPUS):
        if not (cpu.startswith("cpu") and cpu[3:].isdecimal()):
            continue
        where = f"{_CPUS}/{cpu}/topology"
        siblings = tree.text(f"{where}/core_cpus_list") or tree.text(f"{where}/thread_siblings_list")
        if siblings is None and tree.text(f"{_CPUS}/{cpu}/online") == "0":
            continue
        # Arm firmware without a topology says -1: one package.
        package = max(0, tree.number(f"{where}/physical_package_id") or 0)
        cores[package].add(siblings or cpu)
        threads[package] += 1
    if not threads:
        raise LookupError(f"{_CPUS} lists no CPU")
    return cores, threads


def _max_mhz(tree: Tree) -> int | None:
    policies = f"{_CPUS}/cpufreq"
    fastest = [tree.number(f"{policies}/{name}/cpuinfo_max_freq") or 0 for name in tree.names(policies) if name.startswith("policy")]
    return max(fastest, default=0) // 1000 or None


def _caches(tree: Tree) -> dict[str, int]:
    """Bytes of each cache that the first CPU uses: `L1d`, `L1i`, `L2`, `L3`."""
    found = {}
    for index in tree.names(f"{_CPUS}/cpu0/cache"):
        where = f"{_CPUS}/cpu0/cache/{index}"
        level, kind, size = tree.number(f"{where}/level"), tree.text(f"{where}/type"), tree.text(f"{where}/size")
        if level and kind and size and size[:-1].isdecimal():
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{suffix}"] = int(size[:-1][:9]) * {"K": 1024, "M": 1024**2}.get(size[-1], 1)
    return found


PROBE = Probe("cpu", read)

"""What wheels run on, told to people: `CPython 3.11 on Linux x86_64 with glibc 2.34 or newer`. Pure.

Source: PEP 425, PEP 600 (manylinux).
"""

import re
from collections.abc import Iterable

from web.delivery.wheels import Tag


def platforms(tags: Iterable[Tag]) -> list[str]:
    """What wheels that do not run anywhere run on, in words: one line a platform, with the Python that its most particular wheel needs."""
    found: dict[str, set[str]] = {}
    glibc: dict[str, tuple[int, ...]] = {}
    for tag in tags:
        if tag.anywhere:
            continue
        machine, least = _machine(tag.platform)
        found.setdefault(machine, set()).update({tag.python.removeprefix("cp")} if not tag.abi.startswith("abi") else set())
        glibc[machine] = max(glibc.get(machine, (0, 0)), least)
    return [f"{_pythons(found[machine])} on Linux {machine}{_libc(glibc[machine])}" for machine in sorted(found)]


def _machine(platform: str) -> tuple[str, tuple[int, ...]]:
    """The machine, and the oldest glibc that will do, of a compressed platform tag; (0, 0) where none is named."""
    versions = [(int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)_", platform)]
    first = platform.split(".")[0]
    machine = re.sub(r"^(manylinux(_\d+_\d+|\d+)|musllinux_\d+_\d+|linux)_", "", first)
    return machine + (" (musl)" if first.startswith("musllinux") else ""), min(versions, default=(0, 0))


def _pythons(digits: Iterable[str]) -> str:
    named = " or ".join(f"{each[0]}.{each[1:]}" for each in sorted(digits, key=lambda d: (len(d), d)))
    return f"CPython {named}" if named else "CPython 3.11 or newer"


def _libc(least: tuple[int, ...]) -> str:
    return f" with glibc {least[0]}.{least[1]} or newer" if any(least) else ""

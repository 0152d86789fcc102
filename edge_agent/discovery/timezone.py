"""The time section: the host's time zone and how it keeps its clock. What time it is, and how wrong, are metrics. Called by `scan`.

Source: localtime(5); adjtime_config(5).
"""

import re

from edge_agent.discovery.cleaning import clean
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")


def read(tree: Tree) -> Facts:
    """`timezone` is an IANA name; null where /etc/localtime is a copy that nobody names."""
    return {
        "timezone": zone(tree),
        "rtc": tree.text("/sys/class/rtc/rtc0/name"),
        "rtc_in_local_time": any(line.strip() == "LOCAL" for line in tree.lines("/etc/adjtime", 4096)),
    }


def zone(tree: Tree) -> str | None:
    target = tree.link("/etc/localtime")
    if target is not None:
        name = re.sub(r"^(posix|right)/", "", target.rpartition("zoneinfo/")[2])
        return clean(name) if "zoneinfo/" in target and _ZONE.fullmatch(name) else None
    named = tree.text("/etc/timezone")
    if named and _ZONE.fullmatch(named):
        return named
    # A system without the file runs in UTC.
    return None if tree.exists("/etc/localtime") else "UTC"


PROBE = Probe("time", read)

"""File systems that hold data: device, mount point, type and size of the device. Not free space: that is a metric.

Sizes are those of the block devices, not what statvfs says: that one hangs on a dead NFS server, and of ZFS it varies with use. Pseudo
file systems (proc, tmpfs, cgroup, snaps' squashfs) are left out, an overlay is kept where it is the root of a container. Of bind mounts
the first counts. Called by the storage probe.

Source: proc_pid_mountinfo(5), proc_filesystems(5).
"""

import re
from dataclasses import dataclass
from typing import Any

from edge_agent.discovery.cleaning import clean, without_nulls
from edge_agent.discovery.tree import Tree

MAX_FILESYSTEMS = 128
_WITHOUT_DEVICE = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "9p", "virtiofs", "zfs", "bcachefs")
)
_IN_MEMORY = "rootfs"
"""The one file system of that kind that the kernel does not list as `nodev`."""

_IMAGES = frozenset(("squashfs", "erofs", "iso9660", "udf"))
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo. `root`: which directory of the file system is mounted."""

    number: str
    root: str
    point: str
    type: str
    source: str


def mounts(text: str) -> list[Mount]:
    """The lines that can be understood. Pure."""
    found = []
    for line in text.split("\n"):
        left, dash, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if dash and len(before) >= 6 and len(after) >= 2:
            found.append(Mount(before[2], _unescaped(before[3]), _unescaped(before[4]), after[0], _unescaped(after[1])))
    return found


def worth_reporting(found: list[Mount], without_device: frozenset[str]) -> list[Mount]:
    """Those that hold data, once each. `without_device`: types the kernel calls `nodev`. Pure."""
    chosen: dict[tuple[str, str], Mount] = {}
    for mount in found:
        if not _holds_data(mount, without_device):
            continue
        # Subvolumes of btrfs are file systems of their own; elsewhere another root is a bind mount.
        identity = (mount.number if mount.type != "btrfs" else mount.source, mount.root if mount.type == "btrfs" else "")
        earlier = chosen.setdefault(identity, mount)
        if len(mount.root) < len(earlier.root):
            chosen[identity] = mount
    return sorted(chosen.values(), key=lambda mount: mount.point)[:MAX_FILESYSTEMS]


def _holds_data(mount: Mount, without_device: frozenset[str]) -> bool:
    if mount.type == _IN_MEMORY:
        return False
    if mount.type == "overlay":
        return mount.point == "/"
    if mount.type in _IMAGES:
        return not mount.source.startswith("/dev/loop")
    # A subtype stands behind a dot (`fuse.lxcfs`); the kernel lists the type alone.
    return mount.type in _WITHOUT_DEVICE or mount.type.partition(".")[0] not in without_device


def read(tree: Tree) -> list[dict[str, Any]]:
    """`device`, `mount_point`, `type` and, where there is a block device, `size_bytes`."""
    nodev = frozenset(line.split("\t")[1].strip() for line in tree.lines("/proc/filesystems") if line.startswith("nodev\t"))
    found = mounts("\n".join(tree.lines("/proc/self/mountinfo")))
    return [
        without_nulls(
            {
                "device": clean(mount.source),
                "mount_point": clean(mount.point),
                "type": clean(mount.type, 64),
                "size_bytes": _size(tree, mount),
            }
        )
        for mount in worth_reporting(found, nodev)
    ]


def _size(tree: Tree, mount: Mount) -> int | None:
    sectors = tree.number(f"/sys/dev/block/{mount.number}/size") if re.fullmatch(r"\d+:\d+", mount.number) else None
    if sectors is None and mount.source.startswith("/dev/"):
        # btrfs has device numbers of its own making.
        sectors = tree.number(f"/sys/class/block/{mount.source.removeprefix('/dev/').replace('/', '!')}/size")
    return sectors * 512 if sectors is not None and sectors >= 0 else None


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda m: chr(int(m[1], 8)), text)

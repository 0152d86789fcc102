"""The os section: distribution, release and kernel. Called by `scan`.

Source: os-release(5); proc_sys_kernel(5).
"""

from edge_agent.discovery.cleaning import clean, without_nulls
from edge_agent.discovery.cpu import architecture
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


def read(tree: Tree) -> Facts:
    """A rolling release has no version; the kernel is always known."""
    release = os_release(tree)
    return {
        "id": release.get("ID", "linux"),
        "name": release.get("NAME", "Linux"),
        "version": release.get("VERSION_ID") or release.get("BUILD_ID"),
        "kernel": tree.text("/proc/sys/kernel/osrelease"),
        **without_nulls(
            {
                "title": release.get("PRETTY_NAME"),
                "codename": release.get("VERSION_CODENAME"),
                "variant": release.get("VARIANT_ID"),
                "like": release.get("ID_LIKE", "").split() or None,
                "kernel_build": tree.text("/proc/sys/kernel/version"),
                "arch": architecture(tree),
            }
        ),
    }


def os_release(tree: Tree) -> dict[str, str]:
    """The first file that is there, unquoted; empty where there is none."""
    lines = next((lines for path in OS_RELEASE if (lines := tree.lines(path, 16384))), [])
    pairs = (line.strip().partition("=") for line in lines)
    return {name: text for name, equals, value in pairs if equals and name.isidentifier() and (text := clean(_unquoted(value)))}


def _unquoted(value: str) -> str:
    """Shell quoting as os-release(5) allows it: either kind of quotes around all, a backslash before what is special."""
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    for special in ('"', "$", "`", "\\"):
        value = value.replace("\\" + special, special)
    return value


PROBE = Probe("os", read)

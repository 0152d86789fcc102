"""The network section: the real NICs, and the host's name and primary address. Traffic and link state are metrics.

A real NIC has a device behind it: no lo, bridges, veth, tunnels, VLANs. The primary address is that of the interface of the default
route, the real or bridged Ethernet before a tunnel, so that a VPN that comes and goes changes nothing. Temporary IPv6 addresses are not
reported, because they change by themselves. Called by `scan` and, for its parts, by `watch`.

Source: Documentation/ABI/testing/sysfs-class-net; /proc/net/route and /proc/net/ipv6_route (net/ipv4/fib_trie.c, net/ipv6/route.c).
"""

from dataclasses import dataclass

from edge_agent.discovery.buspath import bus_path
from edge_agent.discovery.calls import Address
from edge_agent.discovery.cleaning import meaningful, whole
from edge_agent.discovery.keys import Component, keyed
from edge_agent.discovery.probe import Facts, Probe
from edge_agent.discovery.tree import Tree

_NET = "/sys/class/net"
_ROUTES_BYTES = 64 * 1024
"""A router with the whole Internet's table has its default route at the top."""

_ETHERNET = 1
_MAC_RANDOM = 1
_RTF_UP = 0x1


def read(tree: Tree) -> Facts:
    """Raises LookupError where there is no /sys/class/net."""
    if not tree.exists(_NET):
        raise LookupError(f"{_NET} can't be read")
    addresses = lasting_addresses(tree)
    nics = real_nics(tree)
    primary = primary_interface(tree, nics, addresses)
    ips = [a.ip for a in addresses if a.interface == primary and not a.ip.lower().startswith("fe80:")]
    return {
        "hostname": meaningful(tree.text("/proc/sys/kernel/hostname")),
        "primary_interface": primary,
        "primary_ip": next((ip for ip in ips if ":" not in ip), ips[0] if ips else None),
        "primary_mac": _mac(tree.text(f"{_NET}/{primary}/address")) if primary else None,
        "nics": keyed(_nic(tree, name, addresses) for name in nics),
    }


def real_nics(tree: Tree) -> list[str]:
    """Names of the interfaces that have a device behind them. What serves such an interface (a virtual function under Hyper-V's NIC,
    which shares its MAC and comes and goes) is a part of it."""
    return [name for name in tree.names(_NET) if tree.exists(f"{_NET}/{name}/device") and not tree.exists(f"{_NET}/{name}/master/device")]


def lasting_addresses(tree: Tree) -> list[Address]:
    """Addresses that stay; where the kernel doesn't tell, the rest of the section still counts."""
    try:
        return [address for address in tree.calls.addresses() if not address.passing]
    except OSError as error:
        tree.problems.append(f"addresses: {error}")
        return []


def _nic(tree: Tree, name: str, addresses: list[Address]) -> Component:
    where = f"{_NET}/{name}"
    device = tree.real(where) or f"/sys/devices/virtual/net/{name}"
    mac, burnt_in = _mac(tree.text(f"{where}/address")), _permanent_mac(tree, name)
    speed = tree.number(f"{where}/speed")
    # Ports of one adapter share its bus path, and are told apart by their number.
    port = tree.number(f"{where}/dev_port") or 0
    path = bus_path(tree, device)
    return Component(
        path=f"{path}-port-{port}" if port else path,
        name=name,
        identities=(burnt_in,),
        attributes={
            "mac": mac,
            "permanent_mac": burnt_in if burnt_in != mac else None,
            "speed_mbps": speed if speed and 0 < speed < 2**31 else None,
            "driver": tree.base(f"{where}/device/driver"),
            "mtu": tree.number(f"{where}/mtu"),
            "wireless": True if tree.exists(f"{where}/phy80211") else None,
            "master": tree.base(f"{where}/master"),
            "addresses": [f"{a.ip}/{a.prefix}" for a in addresses if a.interface == name],
            "path": path,
        },
    )


def _permanent_mac(tree: Tree, name: str) -> str | None:
    """The address the hardware came with: Wi-Fi and bonds show another, and a random one identifies nothing."""
    where = f"{_NET}/{name}"
    burnt_in = _mac(tree.text(f"{where}/bonding_slave/perm_hwaddr")) or _mac(tree.text(f"{where}/phy80211/macaddress"))
    burnt_in = burnt_in or _mac(tree.calls.permanent_mac(name))
    if burnt_in or tree.number(f"{where}/addr_assign_type") == _MAC_RANDOM:
        return burnt_in
    return _mac(tree.text(f"{where}/address"))


def _mac(text: str | None) -> str | None:
    """In lower case; None for none, all zeros, or what is no 48-bit address."""
    text = (text or "").lower()
    octets = text.split(":")
    usable = len(octets) == 6 and all(len(o) == 2 and whole(o, 16) is not None for o in octets) and any(o != "00" for o in octets)
    return text if usable else None


@dataclass(frozen=True, slots=True, order=True)
class _Route:
    metric: int
    interface: str


def default_routes(tree: Tree) -> list[str]:
    """Interfaces of the default routes, IPv4's first, each by metric."""
    ipv4 = []
    for line in tree.lines("/proc/net/route", _ROUTES_BYTES)[1:]:
        match line.split():
            case [interface, "00000000", _, flags, _, _, metric, "00000000", *_] if (whole(flags, 16) or 0) & _RTF_UP:
                ipv4.append(_Route(whole(metric) or 0, interface))
    ipv6 = []
    for line in tree.lines("/proc/net/ipv6_route", _ROUTES_BYTES):
        match line.split():
            case [destination, "00", *_, metric, _, _, _, interface] if interface != "lo" and destination == "0" * 32:
                ipv6.append(_Route(whole(metric, 16) or 0, interface))
    return [route.interface for route in (*sorted(ipv4), *sorted(ipv6))]


def primary_interface(tree: Tree, nics: list[str], addresses: list[Address]) -> str | None:
    """Of the default routes' interfaces the first Ethernet, else the first; without a route the first NIC that has an address."""
    routed = [name for name in default_routes(tree) if tree.exists(f"{_NET}/{name}")]
    ethernet = [name for name in routed if tree.number(f"{_NET}/{name}/type") == _ETHERNET and not _is_tunnel(tree, name)]
    addressed = {address.interface for address in addresses}
    candidates = [*ethernet, *routed, *(name for name in nics if name in addressed)]
    return candidates[0] if candidates else None


def _is_tunnel(tree: Tree, name: str) -> bool:
    return tree.exists(f"{_NET}/{name}/tun_flags")


PROBE = Probe("network", read)

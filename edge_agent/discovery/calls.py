"""What Linux tells by system calls only, because no file of /proc or /sys has it: addresses by interface, and burnt-in MACs.

Deliberately not psutil: it is 1.5 MB of private memory, and the kernel's answer to one netlink request has more (the flags that tell a
temporary IPv6 address from a lasting one). Called by the network probe and the watcher.

Source: rtnetlink(7), netlink(7); linux/if_addr.h; linux/ethtool.h (ETHTOOL_GPERMADDR, allowed without privileges).
"""

import array
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One address of an interface. `passing`: temporary (RFC 8981), tentative or failed, so not worth reporting."""

    interface: str
    ip: str
    prefix: int
    passing: bool = False


class SystemCalls(Protocol):
    """The running kernel's answers; recorded trees bring their own."""

    def addresses(self) -> list[Address]:
        """All addresses of this network namespace, primary ones before secondary ones. Raises OSError."""

    def permanent_mac(self, interface: str) -> str | None:
        """The MAC the hardware came with, in lower case; None where the driver knows none."""

    def machine(self) -> str | None:
        """The machine architecture, as uname says it."""


class NoCalls:
    """A recorded tree without recorded answers."""

    def addresses(self) -> list[Address]:
        return []

    def permanent_mac(self, interface: str) -> str | None:
        return None

    def machine(self) -> str | None:
        return None


class RunningKernel:
    """The kernel we run on."""

    def addresses(self) -> list[Address]:
        found = []
        for index, ip, prefix, passing in decode_addresses(_dump_addresses()):
            try:
                found.append(Address(socket.if_indextoname(index), ip, prefix, passing))
            except OSError:
                continue  # the interface went away since
        return found

    def permanent_mac(self, interface: str) -> str | None:
        try:
            return _ethtool_permanent_address(interface)
        except OSError:
            return None

    def machine(self) -> str | None:
        return os.uname().machine


_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_SECONDARY, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x01, 0x08, 0x40
_TIMEOUT_S = 5.0


def _dump_addresses() -> bytes:
    """The kernel's whole answer to a dump of all addresses. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as link:
        link.settimeout(_TIMEOUT_S)
        link.bind((0, 0))
        body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        link.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body)
        pieces = []
        while True:
            pieces.append(link.recv(65536))
            if not pieces[-1] or any(kind in (_NLMSG_ERROR, _NLMSG_DONE) for kind, _ in _messages(pieces[-1])):
                return b"".join(pieces)


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    """(type, body) of each netlink message; stops where the lengths make no sense."""
    found, at = [], 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            break
        found.append((kind, data[at + _HEADER.size : at + length]))
        at += (length + 3) & ~3
    return found


def decode_addresses(data: bytes) -> list[tuple[int, str, int, bool]]:
    """(interface index, address, prefix length, passing) of each RTM_NEWADDR message. Pure."""
    found = []
    for kind, body in _messages(data):
        if kind != _RTM_NEWADDR or len(body) < _IFADDRMSG.size:
            continue
        family, prefix, flags, _scope, index = _IFADDRMSG.unpack_from(body)
        attributes = _attributes(body[_IFADDRMSG.size :])
        raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
        if len(raw) != {socket.AF_INET: 4, socket.AF_INET6: 16}.get(family):
            continue
        if len(attributes.get(_IFA_FLAGS, b"")) == 4:
            (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
        unfit = _IFA_F_TENTATIVE | _IFA_F_DADFAILED
        # The same bit says "secondary" of IPv4 and "temporary" of IPv6.
        passing = bool(flags & (unfit | _IFA_F_SECONDARY if family == socket.AF_INET6 else unfit))
        found.append((index, socket.inet_ntop(family, raw), prefix, passing))
    return found


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


_SIOCETHTOOL = 0x8946
_ETHTOOL_GPERMADDR = 0x20


def _ethtool_permanent_address(interface: str) -> str | None:
    """`struct ethtool_perm_addr`: command, size, then the address. Raises OSError."""
    answer = array.array("B", struct.pack("=II", _ETHTOOL_GPERMADDR, 32) + bytes(32))
    request = struct.pack("16sP", interface.encode()[:15], answer.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket.fileno(), _SIOCETHTOOL, request)
    size = struct.unpack_from("=I", answer, 4)[0]
    address = answer[8 : 8 + size].tobytes()
    return address.hex(":") if size == 6 and any(address) else None

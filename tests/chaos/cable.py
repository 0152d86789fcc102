"""A network cable that can be pulled: two network namespaces of our own, joined by a veth pair. Needs root and iproute2.

One namespace holds the device, the other only a listening socket, which belongs to this process: a socket stays in the namespace in which
it was made. So the device speaks to us over a real wire, nothing of the machine's own network is touched, and pulling the cable leaves both
ends with a connection that nobody has closed.
"""

import os
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass

OUR_ADDRESS = "10.77.0.1"
"""The address at which the device finds the broker."""
_DEVICE_ADDRESS = "10.77.0.2"
_CLONE_NEWNET = 0x40000000


def available() -> bool:
    return os.geteuid() == 0 and _ip_program() is not None and shutil.which("nsenter") is not None


@dataclass(slots=True)
class Cable:
    """`name` tells this run's namespaces from others'."""

    name: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Goes before a command that is to run at the device's end."""
        return ("nsenter", f"--net=/run/netns/{self._device}")

    def lay(self) -> None:
        """Make both namespaces and the wire between them."""
        for end in (self._device, self._ours):
            _ip("netns", "add", end)
            _ip("-n", end, "link", "set", "lo", "up")
        _ip("-n", self._ours, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", self._device)
        for end, address in ((self._ours, OUR_ADDRESS), (self._device, _DEVICE_ADDRESS)):
            _ip("-n", end, "address", "add", f"{address}/24", "dev", "wire")
            _ip("-n", end, "link", "set", "wire", "up")

    def listen(self, port: int) -> socket.socket:
        """A socket that listens at our end, for this process to accept from."""
        made: list[socket.socket] = []
        thread = threading.Thread(target=lambda: made.append(self._listen_there(port)))
        thread.start()
        thread.join()
        if not made:
            raise OSError(f"can't listen in the network namespace {self._ours}")
        return made[0]

    def pull(self) -> None:
        _ip("-n", self._ours, "link", "set", "wire", "down")

    def plug(self) -> None:
        _ip("-n", self._ours, "link", "set", "wire", "up")

    def remove(self) -> None:
        for end in (self._device, self._ours):
            subprocess.run([_ip_program() or "ip", "netns", "delete", end], capture_output=True, check=False)

    @property
    def _device(self) -> str:
        return f"{self.name}-device"

    @property
    def _ours(self) -> str:
        return f"{self.name}-ours"

    def _listen_there(self, port: int) -> socket.socket:
        """In a thread of its own, because it changes its thread's namespace for good."""
        _enter(f"/run/netns/{self._ours}")
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((OUR_ADDRESS, port))
        listener.listen()
        listener.setblocking(False)
        return listener


def _enter(path: str) -> None:
    """setns(2), which Python has only since 3.12."""
    import ctypes

    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(handle)


def _ip_program() -> str | None:
    return shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _ip(*arguments: str) -> None:
    subprocess.run([_ip_program() or "ip", *arguments], check=True, capture_output=True, text=True)

"""A machine with an init system of its own, a server, and a cable between the two that leads nowhere else.

Each has a network namespace; the machine is a copy of a Debian root that systemd-nspawn boots. Only `tests.machine.__main__` uses it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.space import place
from tests.waiting import until

PACKAGES = "systemd,systemd-sysv,dbus,python3,curl,sudo,iproute2,procps"
"""All that a machine has: neither pip nor venv among them."""
SERVER, MACHINE = "192.168.77.1", "192.168.77.2"
"""At the ends of a cable in two namespaces, which nobody else sees."""
_ENVIRONMENT = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb")
_REBOOTED = 133
"""How systemd-nspawn ends where the machine is to be started again."""

Done = subprocess.CompletedProcess[str]


def debian(root: Path) -> None:
    """A root where there is none yet: some minutes, and a mirror of Debian."""
    if not (root / "usr").is_dir():
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)], check=True, stdout=sys.stderr)


@contextmanager
def cable() -> Iterator[tuple[str, str]]:
    """The names of two namespaces, of the server and of the machine, that reach each other alone."""
    server, machine = (f"fleetward-{os.getpid()}-{end}" for end in ("server", "machine"))
    try:
        for name in (server, machine):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", machine, "link", "add", "host0", "type", "veth", "peer", "name", "host0", "netns", server)
        for name, address in ((server, SERVER), (machine, MACHINE)):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", "host0")
            _ip("-n", name, "link", "set", "host0", "up")
        yield server, machine
    finally:
        for name in (server, machine):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@dataclass(slots=True)
class Server:
    """`fleetward up` in a namespace, and the command line beside it."""

    namespace: str
    data: Path
    process: "subprocess.Popen[bytes]"

    def fleetward(self, *words: str) -> Done:
        options = ("--ca", str(self.data / "secrets" / "ca.crt"))
        environment = {**os.environ, "FLEETWARD_DATA_DIR": str(self.data)}
        command = ["ip", "netns", "exec", self.namespace, sys.executable, "-m", "fleetward", *options, *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)

    def token(self, *words: str) -> tuple[str, str]:
        """A token, and the command to run on a device, as it is told to people."""
        done = self.fleetward("token", "create", "--ttl", "1h", *words)
        assert done.returncode == 0, done.stderr
        command = next(line.strip() for line in done.stderr.splitlines() if "install.sh" in line)
        return done.stdout.strip(), command


@contextmanager
def server(namespace: str) -> Iterator[Server]:
    data = place("fleetward-machine-")
    command = [sys.executable, "-m", "fleetward", "up", "--data-dir", str(data), "--host", SERVER, "--no-agent"]
    with (data / "up.log").open("wb") as log:
        process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdout=log, stderr=log)
    try:
        until(lambda: (data / "server.json").exists() or process.poll() is not None, 120, "the server is not ready")
        assert process.poll() is None, (data / "up.log").read_text()
        yield Server(namespace, data, process)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(data)


@dataclass(slots=True)
class Machine:
    """`root`: its own copy. `log`: its console."""

    root: Path
    namespace: str
    power: "subprocess.Popen[bytes] | None" = field(default=None)

    def start(self) -> None:
        options = ("--register=no", "--keep-unit", "--resolv-conf=off", "--console=pipe", "--quiet")
        network = f"--network-namespace-path=/run/netns/{self.namespace}"
        with (self.root.parent / "console.log").open("ab") as log:
            command = ["systemd-nspawn", "--boot", f"--directory={self.root}", network, *options]
            self.power = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: self.run("systemctl is-system-running --wait").stdout.strip() in ("running", "degraded"), 60, "it does not boot")

    def run(self, command: str) -> Done:
        """As root, by a shell; 1 before it has begun to boot."""
        return subprocess.run(self._inside(command), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200, check=False)

    def begin(self, command: str) -> "subprocess.Popen[str]":
        """The same, without waiting for its end."""
        return subprocess.Popen(self._inside(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _inside(self, command: str) -> list[str]:
        children = psutil.Process(self.power.pid).children() if self.power is not None else []
        first = next((child.pid for child in children if child.name() == "systemd"), None)
        if first is None:
            return ["false"]
        return ["nsenter", "-t", str(first), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", *_ENVIRONMENT, "sh", "-c", command]

    def reboot(self) -> None:
        assert self.power is not None
        self.run("systemctl reboot")
        assert self.power.wait(60) == _REBOOTED
        self.start()

    def off(self) -> None:
        if self.power is not None:
            self.power.terminate()  # which asks its systemd for an orderly end
            try:
                self.power.wait(30)
            except subprocess.TimeoutExpired:
                self.power.kill()
                self.power.wait(10)


@contextmanager
def machine(root: Path, namespace: str) -> Iterator[Machine]:
    """Booted, of a copy of `root`."""
    home = place("fleetward-machine-")
    made = Machine(home / "root", namespace)
    try:
        subprocess.run(["cp", "-a", str(root), str(made.root)], check=True)
        (made.root / "etc/resolv.conf").unlink(missing_ok=True)
        (made.root / "etc/resolv.conf").touch()
        (made.root / "etc/machine-id").write_text("")
        (made.root / "etc/hostname").write_text("press-1\n")
        (made.root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 press-1\n")
        made.start()
        yield made
    finally:
        made.off()
        shutil.rmtree(home)


def missing(programs: Sequence[str]) -> list[str]:
    return [name for name in programs if shutil.which(name) is None]

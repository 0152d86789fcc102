"""`install.sh` run for real: against a server of ours, in a file system view of its own where it may do what it does as root.

A mount namespace gives it an empty /opt, /var/lib and unit directory, and a `systemctl` that only notes what it is asked. Nothing of the
machine is touched. No index of packages can be reached: the environment points at a port that nobody listens on.
"""

import json
import os
import platform
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from inventory.authority import Authority
from tests.web.site_under_test import Site, running
from web.serving import Address

pytestmark = pytest.mark.timeout(900)

PREFIX, STATE = "/opt/fleetward-agent", "/var/lib/fleetward-agent"
UNIT = "/etc/systemd/system/fleetward-agent.service"
NOWHERE = "http://127.0.0.1:9"
VIEW = """
set -e
mount --bind "$HOME_OF_TEST/opt" /opt
mkdir -p /var/lib && mount --bind "$HOME_OF_TEST/lib" /var/lib
mkdir -p /etc/systemd/system && mount --bind "$HOME_OF_TEST/units" /etc/systemd/system
mount -t tmpfs none /run && mkdir -p /run/systemd/system
PATH="$HOME_OF_TEST/bin:$PATH"
exec "$@"
"""
SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$HOME_OF_TEST/systemctl"
"""


@dataclass(frozen=True)
class Device:
    """A machine to be: what it has of its own is below `home`."""

    home: Path
    site: Site
    ca: Path
    wheels: Path

    def run(self, *options: str, script: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
        """`curl … | sh -s -- OPTIONS`, as the page has it; `more`: in the environment."""
        fetched = script or f"curl -fsSL --cacert {self.ca} {self.site.url}/install.sh"
        inner = ["sh", "-c", f"{fetched} | sh -s -- " + " ".join(options)]
        environment = {
            "HOME_OF_TEST": str(self.home), "PATH": os.environ["PATH"], "LC_ALL": "C", "TMPDIR": str(self.home / "tmp"),
            "PIP_INDEX_URL": NOWHERE, "https_proxy": NOWHERE, "HTTPS_PROXY": NOWHERE, "no_proxy": "127.0.0.1",
            **more,
        }  # fmt: skip
        command = ["unshare", "--mount", "sh", "-c", VIEW, "view", *inner]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    def asked_of_systemd(self) -> list[str]:
        path = self.home / "systemctl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def token(self, **body: object) -> str:
        with self.site.client(verify=ssl.create_default_context(cafile=self.ca)) as client:
            return str(client.post("/api/v1/enrollment-tokens", json={"approve": True, **body}).json()["token"])

    @property
    def identity(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.home / "lib/fleetward-agent/identity.json").read_text())
        return found


@pytest.fixture
def device(web_url: str, tmp_path: Path) -> Iterator[Device]:
    """With a server over TLS, which this machine does not trust yet; in its directory of wheels lies what nobody needs."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        message = "a mount namespace is needed (root)"
        pytest.fail(message) if os.environ.get("CI") == "true" and os.geteuid() == 0 else pytest.skip(message)
    home = tmp_path / "home"
    for name in ("opt", "lib", "units", "bin", "tmp"):
        (home / name).mkdir(parents=True)
    (home / "bin" / "systemctl").write_text(SYSTEMCTL)
    (home / "bin" / "systemctl").chmod(0o755)
    secrets = tmp_path / "secrets"
    Authority(secrets).bootstrap()
    address = Address("127.0.0.1", 0, (secrets / "web.crt", secrets / "web.key"))
    strays = tmp_path / "wheels"
    strays.mkdir()
    for name in ("odd-x!y-py3-none-any.whl", "numpy-2.0-cp311-cp311-manylinux_2_17_riscv64.whl"):
        (strays / name).write_bytes(b"nobody needs it")
    nobody = ("localhost", 9)  # a broker there is not
    with running(web_url, address, secrets=secrets, tls=True, wheels=strays, mqtt=nobody) as site:
        yield Device(home, site, secrets / "ca.crt", strays)


def test_from_nothing_to_a_running_device_and_back(device: Device) -> None:
    """Says what it will do; installs; refused, it starts nothing; with a good token it goes on from there: enrolls, writes the unit and
    starts it; again, it changes nothing; removed, nothing is left."""
    token = device.token()
    tried = device.run("--token", token, "--dry-run")
    assert tried.returncode == 0 and "this will:" in tried.stderr and not list((device.home / "opt").iterdir())

    refused = device.run("--token", "fwt_guessed")
    plan, done = refused.stderr.split("installed:")
    assert all(words in plan for words in (PREFIX, STATE, UNIT, "CA SHA-256", "To undo"))
    assert refused.returncode == 1 and "the server refused (403)" in done and device.asked_of_systemd() == []

    first = device.run("--token", token)
    assert first.returncode == 0, first.stderr
    assert "FAIL broker: OSError: " in first.stderr and "it goes on trying" in first.stderr, "this server has none"
    assert "as it is" in first.stderr and "enrolled: host-" in first.stderr and token not in first.stdout + first.stderr
    me = device.identity
    assert me["server"] == device.site.url and (device.home / "lib/fleetward-agent/device.key").stat().st_mode & 0o777 == 0o600
    unit = (device.home / "units/fleetward-agent.service").read_text()
    assert f"{PREFIX}/" in unit and f"--state-dir {STATE}" in unit
    assert device.asked_of_systemd() == ["daemon-reload", "enable --quiet fleetward-agent.service", "restart fleetward-agent.service"]

    (device.wheels / "cffi-1.0-cp311-cp311-linux_riscv64.whl").write_bytes(b"for another machine")
    again = device.run("--token", token)
    assert again.returncode == 0 and "as it is" in again.stderr and f"leave it enrolled as {me['device']}" in again.stderr
    assert "leave fleetward-agent.service running" in again.stderr and "nothing was changed" in again.stderr
    assert device.identity == me and "restart fleetward-agent.service" not in device.asked_of_systemd()

    removed = device.run("--uninstall")
    assert removed.returncode == 0 and f"fleetward delete host {me['device']}" in removed.stderr
    assert not (device.home / "opt/fleetward-agent").exists() and not (device.home / "units/fleetward-agent.service").exists()
    assert device.asked_of_systemd() == ["disable --now --quiet fleetward-agent.service", "daemon-reload"]
    assert device.identity == me, "its key stays, so that it comes back as the same host"
    assert device.run("--uninstall", "--purge").returncode == 0
    assert not (device.home / "lib/fleetward-agent").exists()
    assert f"find no agent in {PREFIX}" in device.run("--uninstall").stderr
    assert list((device.home / "tmp").iterdir()) == []


def test_the_command_of_the_page_pins_the_server(device: Device) -> None:
    """curl takes no other key, though it does not know the CA; with the right one it works without the CA's file."""
    pin = Authority(device.ca.parent).web_pin
    wrong = f"curl -fsSLk --pinnedpubkey sha256//{'A' * 43}= {device.site.url}/install.sh"
    refused = device.run("--token", "fwt_x", "--dry-run", script=wrong)
    assert "public key does not match" in refused.stderr and "this will" not in refused.stderr
    right = f"curl -fsSLk --pinnedpubkey '{pin}' {device.site.url}/install.sh"
    assert "this will:" in device.run("--token", "fwt_x", "--dry-run", script=right).stderr


def test_what_is_wrong_is_said_before_anything_is_done(device: Device) -> None:
    """No token, an option that is none, a directory of somebody else's: a line that says what to do, and nothing is written."""
    for options, code, words in (
        ((), 2, "--token is needed"),
        (("--tokn", "x"), 2, "--tokn is no option"),
        (("--token",), 2, "--token needs a value"),
        (("--token", "x", "--prefix", "relative"), 2, "absolute path"),
        (("--token", "x", "--python", "/bin/false"), 1, "no Python 3.11 or newer"),
        (("--purge",), 2, "--purge goes with --uninstall"),
    ):
        done = device.run(*options)
        assert done.returncode == code and words in done.stderr, (options, done.stderr)
    (device.home / "opt/fleetward-agent").mkdir()
    (device.home / "opt/fleetward-agent/precious").touch()
    for options in (("--token", "x"), ("--uninstall",)):
        done = device.run(*options)
        assert done.returncode == 1 and "not ours" in done.stderr
    assert (device.home / "opt/fleetward-agent/precious").exists() and not list((device.home / "lib").iterdir())


def test_a_platform_that_nothing_fits_is_told_so(device: Device) -> None:
    """Before anything is done, dry run or not: with all that lacks, what the machine is, what there is, and the command that brings it."""
    dry, done = (device.run("--token", "fwt_x", *more, _PYTHON_HOST_PLATFORM="linux-aarch64") for more in (("--dry-run",), ()))
    assert dry.returncode == done.returncode == 1 and dry.stderr == done.stderr
    assert "for this machine of: cffi, cryptography, psutil, pynacl\n" in done.stderr
    assert "this will" not in done.stderr and "docs/enrollment.md" in done.stderr
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"this machine: CPython {python} on Linux aarch64 with glibc" in done.stderr
    assert "the server has them for: CPython" in done.stderr and f"CPython {python} on Linux {platform.machine()} with" in done.stderr
    [download] = [line.strip() for line in done.stderr.splitlines() if "pip download" in line]
    given = dict(zip(download.split()[:-1], download.split()[1:], strict=True))
    assert given["--python-version"] == python and given["-d"] == "DIRECTORY" and "--platform manylinux2014_aarch64 " in download
    assert download.split()[-4:] == [f"{name}=={version(name)}" for name in ("cffi", "cryptography", "psutil", "pynacl")]
    assert not list((device.home / "opt").iterdir()) and not list((device.home / "lib").iterdir())

"""`python -m tests.machine ROOT`: `install.sh` on a machine that systemd boots, from nothing to nothing, as its user sees it.

It needs root, and Linux with systemd-nspawn, debootstrap, ip and nsenter (Debian: systemd-container, debootstrap, iproute2, util-linux).
ROOT is a directory with a Debian, made by debootstrap where there is none; it stays as it is. Two minutes. Not a part of `make test`.

Exit status: 0 all is as promised, 1 something is not, 2 this machine can't do it.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.machine.ground import Machine, Server, cable, debian, machine, missing, server
from tests.waiting import until

PREFIX, STATE, UNIT = "/opt/fleetward-agent", "/var/lib/fleetward-agent", "/etc/systemd/system/fleetward-agent.service"
SERVICE = "fleetward-agent.service"
CONFIG = """
kind: config
name: motd
selector: "name = 'press-1'"
files: [{path: /etc/fleetward.d/sub/motd, content: "hello\\n", mode: "0644"}]
on_change: {command: "systemctl is-active dbus >/etc/fleetward.d/said"}
"""


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    lacking = missing(("systemd-nspawn", "debootstrap", "ip", "nsenter")) + ([] if os.geteuid() == 0 else ["root"])
    if lacking:
        print(f"this needs {', '.join(lacking)}", file=sys.stderr)
        return 2
    root = Path(arguments[0]).resolve()
    debian(root)
    with cable() as (near, far), server(near) as here, machine(root, far) as there:
        return 0 if all(_holds(step, here, there) for step in STEPS) else 1


def _holds(step: Callable[[Server, Machine], None], here: Server, there: Machine) -> bool:
    """Whether it does; the first that does not is the last."""
    try:
        step(here, there)
    except AssertionError as problem:
        print(f"FAIL {step.__doc__}\n{problem}", flush=True)
        return False
    print(f"ok   {step.__doc__}", flush=True)
    return True


# --- what is asked of both ------------------------------------------------------------------------------------------------------------


def _installed(there: Machine, command: str, token: str = "", *, code: int = 0, words: str = "") -> str:
    """Run the command of the page; what it said."""
    done = there.run(command.replace("--token TOKEN", f"--token {token}") if token else command)
    assert done.returncode == code and words in done.stderr, f"{done.returncode}: {done.stderr}"
    return done.stderr


def _host(here: Server, name: str = "press-1") -> dict[str, object]:
    done = here.fleetward("get", "host", name, "-o", "json")
    found: dict[str, object] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def _online(here: Server, name: str = "press-1") -> None:
    until(lambda: _host(here, name).get("presence") == "online", 30, f"{name} does not come online")


def _pid(there: Machine) -> str:
    return there.run(f"systemctl show -p MainPID --value {SERVICE}").stdout.strip()


# --- the steps, in their order --------------------------------------------------------------------------------------------------------


def nothing_but_the_server(here: Server, there: Machine) -> None:
    """The machine reaches the server and nothing else; it has neither pip nor ensurepip"""
    routes = there.run("ip route").stdout.splitlines()
    assert len(routes) == 1 and routes[0].startswith("192.168.77.0/30 "), routes
    assert there.run("python3 -c 'import pip'").returncode == there.run("python3 -c 'import ensurepip'").returncode == 1


def what_is_wrong_changes_nothing(here: Server, there: Machine) -> None:
    """Not root, a server with another key, an unknown token: each is said, and no service is left"""
    _, command = here.token()
    there.run("useradd --create-home alice")
    _installed(there, command.replace("| sudo sh", "| su alice -c 'sh").replace("TOKEN", "TOKEN'"), code=1, words="this needs root")
    other = re.sub(r"sha256//\S+", f"sha256//{'A' * 43}=", command)
    _installed(there, other, words="public key does not match")
    _installed(there, command, "fwt_guessed", code=1, words="the server refused (403)")
    assert there.run(f"test -e {UNIT}").returncode == 1


def it_comes_online(here: Server, there: Machine) -> None:
    """The command of the page makes it a device: online, its service active and enabled"""
    token, command = here.token("--approve")
    _installed(there, command, token, words="nothing wrong is found")
    _online(here)
    assert there.run(f"systemctl is-active {SERVICE} && systemctl is-enabled {SERVICE}").stdout.split() == ["active", "enabled"]


def a_config_lands(here: Server, there: Machine) -> None:
    """A config's file is there and can be read by everybody, and its command has run"""
    (here.data / "config.yaml").write_text(CONFIG)
    done = here.fleetward("apply", "-f", str(here.data / "config.yaml"))
    assert done.returncode == 0, done.stderr
    until(lambda: there.run("cat /etc/fleetward.d/said").stdout == "active\n", 30, "the config does not land")
    read = there.run("su alice -c 'cat /etc/fleetward.d/sub/motd /etc/fleetward.d/said'")
    assert read.stdout == "hello\nactive\n", read.stderr


def again_changes_nothing(here: Server, there: Machine) -> None:
    """Run again without a token: nothing is changed, and the same process goes on"""
    _, command = here.token()
    before = _pid(there)
    _installed(there, command.replace(" --token TOKEN", ""), words="nothing was changed")
    assert _pid(there) == before


def killed_it_comes_back(here: Server, there: Machine) -> None:
    """kill -9: systemd starts it again"""
    before = _pid(there)
    there.run(f"kill -9 {before}")
    until(lambda: _pid(there) not in ("0", before), 30, "it is not started again")


def it_comes_back_after_a_reboot(here: Server, there: Machine) -> None:
    """A reboot: it is online by itself"""
    before = _host(here).get("boot_id")
    there.reboot()
    assert there.run(f"systemctl is-active {SERVICE}").stdout.strip() == "active"
    until(lambda: _host(here).get("boot_id") not in (None, before), 30, "it does not come back")
    _online(here)


def removed_nothing_is_left(here: Server, there: Machine) -> None:
    """--uninstall: neither unit nor agent nor process is left, and the host is offline; --purge takes the key as well"""
    _, command = here.token()
    said = _installed(there, command.replace("--token TOKEN", "--uninstall"), words="removed")
    assert f"fleetward delete host {_host(here)['id']}" in said
    left = there.run(f"ls -d {UNIT} {PREFIX} /etc/systemd/system/*/{SERVICE}; pgrep -f '[e]dge_agent'; systemctl is-active {SERVICE}")
    assert left.stdout.split() == ["inactive"], left.stdout
    assert there.run(f"test -f {STATE}/device.key").returncode == 0
    until(lambda: _host(here).get("presence") == "offline", 60, "it is not offline")
    _installed(there, command.replace("--token TOKEN", "--uninstall --purge"))
    assert there.run(f"test -e {STATE}").returncode == 1


def it_waits_for_a_person(here: Server, there: Machine) -> None:
    """With a token that does not approve it waits, shows its key, and goes on when it is approved"""
    token, command = here.token()
    waiting = there.begin(command.replace("TOKEN", token))
    until(lambda: _host(here, "press-1-2").get("current_state") == "discovered", 120, "it does not ask")
    done = here.fleetward("approve", "press-1-2")
    assert done.returncode == 0, done.stderr
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 0 and "waiting for approval" in said and "enrolled: host-" in said, said
    _online(here, "press-1-2")


STEPS = (
    nothing_but_the_server,
    what_is_wrong_changes_nothing,
    it_comes_online,
    a_config_lands,
    again_changes_nothing,
    killed_it_comes_back,
    it_comes_back_after_a_reboot,
    removed_nothing_is_left,
    it_waits_for_a_person,
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`install.sh` as this server hands it out: its body (the file beside this) under a heading of what only the server knows. Pure.

The heading is assignments of quoted words, so that nothing that comes from a request is ever code. Called by `web.delivery.routes`.
"""

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from web.delivery.platforms import platforms
from web.delivery.wheels import AGENT, INSTALLER, NEEDED, Wheel

_SERVER = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
"""What may stand where people are told of this server: a Host header may say anything."""


_FIRST_LINES = """#!/bin/sh
# Fleetward: installs the agent and enrolls this machine. Run it with --help or --dry-run first, if you like.
set -eu
"""


@dataclass(frozen=True, slots=True)
class Server:
    """Where devices reach this server, and its CA: PEM and fingerprint, empty where it has none."""

    url: str
    ca_pem: str = ""
    ca_fingerprint: str = ""


def is_server(url: str) -> bool:
    """Whether it can be one, and nothing besides."""
    return _SERVER.fullmatch(url) is not None


def render(server: Server, wheels: Sequence[Wheel]) -> str:
    """The whole script."""
    pip = next((wheel for wheel in wheels if wheel.name.startswith(f"{INSTALLER}-")), None)
    agent = next(wheel for wheel in wheels if wheel.name.startswith(AGENT.replace("-", "_")))
    heading = {
        "SERVER": server.url,
        "CA_FINGERPRINT": server.ca_fingerprint,
        "CA_PEM": server.ca_pem,
        "CA_LINE": "".join(server.ca_pem.splitlines()[1:2]),
        "VERSION": agent.name.split("-")[1],
        "BUILD": build(wheels),
        "BUILDS": " ".join(f"{machine}={build(wheels, machine)}" for machine in sorted({wheel.tag.machine for wheel in wheels} - {""})),
        "SERVER_PYTHON": f"{sys.version_info.major}.{sys.version_info.minor}",
        "WHEEL_PLATFORMS": "; ".join(platforms(wheel.tag for wheel in wheels)),
        "NEEDED": " ".join(NEEDED),
        "WHEELS": " ".join(wheel.name for wheel in wheels if wheel is not pip),
        "PIP": pip.name if pip else "",
        "PIP_SHA256": pip.sha256 if pip else "",
    }
    assignments = "".join(f"{name}={shlex.quote(value)}\n" for name, value in heading.items())
    body = files(__package__).joinpath("install.sh").read_text(encoding="utf-8")
    return f"{_FIRST_LINES}\n{assignments}\n{body}"


def build(wheels: Iterable[Wheel], machine: str | None = None) -> str:
    """Another one for whatever else is installed; with a machine, on that one alone: what comes for another kind is no news to it."""
    there = [wheel for wheel in wheels if machine is None or wheel.tag.anywhere or wheel.tag.machine == machine]
    return sha256("\n".join(sorted(f"{wheel.name} {wheel.sha256}" for wheel in there)).encode()).hexdigest()

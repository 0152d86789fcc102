"""Looks, before anything is started, for what would stop `fleetward up`; each finding is one line that says what to do (exit 2).

Deliberately shallow: it asks whether ports are free and servers answer, not whether they will go on doing so. `fleetward.up` calls it.
"""

import errno
import os
import shutil
import socket
import subprocess
import time
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from fleetward import postgres
from fleetward.settings import DEFAULT_MQTT_PORT, Up, can_be_advertised

_REACH_SECONDS = 5.0
_LEAVE_SECONDS = 1.0
"""For a port to become free: what was killed a moment ago may hold it still."""


class Unusable(Exception):
    """Something outside stops `up`; the text says what to do."""


def check(settings: Up) -> None:
    """Raises Unusable with the first thing that is wrong."""
    check_given(settings)
    check_port(settings.host, settings.http_port, "--http-port")
    if settings.own_broker:
        check_port(settings.host, settings.mqtt_port, "--mqtt-port")
        if settings.broker == "mosquitto":
            check_mosquitto()
    else:
        check_broker(settings.broker)
    if settings.database is not None:
        check_database(settings.database)


def check_given(settings: Up) -> None:
    """What is wrong whatever the surroundings are."""
    if settings.own_broker and settings.http_port == settings.mqtt_port:
        raise Unusable(f"--http-port and --mqtt-port are both {settings.http_port}: give them different ones")
    for name in settings.advertise:
        if not can_be_advertised(name):
            raise Unusable(f"--advertise {name!r}: give a host name or an IP address")


def check_port(host: str, port: int, flag: str) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror:
        raise Unusable(f"{host or 'an empty name'} is no address of this machine: give another --host") from None
    deadline = time.monotonic() + _LEAVE_SECONDS
    while True:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise Unusable(_why_not(error, host, port, flag)) from None
        time.sleep(0.05)


def _why_not(error: OSError, host: str, port: int, flag: str) -> str:
    match error:
        case PermissionError():
            return f"port {port} needs root: choose one above 1023 with {flag}"
        case OSError(errno=errno.EADDRINUSE):
            return f"port {port} on {host} is in use: stop what uses it, or choose another with {flag}"
        case _:
            return f"{host} can't be listened on ({error.strerror}): give another --host"


def _split(url: str) -> SplitResult | None:
    """A URL's parts; None where it is none, which `urlsplit` notices in part when it is asked for the port."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def check_mosquitto() -> None:
    if shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin") is None:
        raise Unusable("mosquitto is not on the PATH: install it (apt install mosquitto), or use --broker embedded")


def check_broker(url: str) -> None:
    parts = _split(url)
    if parts is None or parts.scheme not in ("mqtts", "mqtt") or not parts.hostname:
        raise Unusable(f"--broker {url}: give embedded, mosquitto, or mqtts://HOST:PORT")
    where = (parts.hostname, parts.port or DEFAULT_MQTT_PORT)
    try:
        socket.create_connection(where, _REACH_SECONDS).close()
    except OSError as error:
        raise Unusable(f"no broker answers at {url} ({error.strerror or error}): start it, or check --broker") from None


def check_database(url: str) -> None:
    """By a real sign-in, with the wheel's psql."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("postgresql", "postgres"):
        raise Unusable("--database: give a URL like postgresql://USER:PASSWORD@HOST/DATABASE")
    command = [postgres.installed()[0].path("psql"), "-XAtqc", "SELECT 1"]
    environment = os.environ | {"PGCONNECT_TIMEOUT": str(int(_REACH_SECONDS))} | libpq_environment(url)
    asked = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False)
    if asked.returncode != 0:
        raise Unusable(f"the database does not answer ({_first_line(asked.stderr)}): start it, or check --database")


def libpq_environment(url: str) -> dict[str, str]:
    """A postgres URL as libpq's variables: other users can read a process's arguments, not its environment."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    values = {
        "PGHOST": query.get("host") or parts.hostname,
        "PGPORT": query.get("port") or (str(parts.port) if parts.port else None),
        "PGUSER": query.get("user") or unquote(parts.username or ""),
        "PGPASSWORD": query.get("password") or unquote(parts.password or ""),
        "PGDATABASE": unquote(parts.path.lstrip("/")),
        "PGSSLMODE": query.get("sslmode"),
        "PGSSLROOTCERT": query.get("sslrootcert"),
    }
    return {name: value for name, value in values.items() if value}


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "no reason given")

"""`python -m web`: one web process. Settings come from flags and the environment, which nothing else in `web` reads.

Standard output has one line, `listening URL`, when requests are accepted. SIGTERM and SIGINT end it within 5 s. Exit codes: 0 ended on
request, 1 it failed, 2 something outside is in the way (one line on standard error says what to do).
"""

import argparse
import asyncio
import ipaddress
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from broker import heap, logs
from broker.vitals import answer_signal
from inventory.db import Database
from inventory.errors import Unavailable
from inventory.renewal import grace_of
from inventory.replica import replica_number
from web import serving
from web.app import create_app
from web.providers import Provider
from web.serving import Address
from web.settings import Settings

DEFAULT_MQTT_PORT = 8883
DATABASE_WAIT_S = 30.0
"""How long the database is waited for at the start, in seconds: PostgreSQL recovers after a crash."""


class Misconfigured(Exception):
    """The start is impossible as asked; the text says what to do."""


def main() -> None:
    options = options_from()
    try:
        logs.configure(os.environ.get("FLEETWARD_LOG", "INFO"))
        settings = settings_from(options, os.environ)
        asyncio.run(_run(settings, _address(options, settings)))
    except (Misconfigured, Unavailable, OSError, ValueError) as error:
        print(f"web: {error}", file=sys.stderr)
        sys.exit(2)


def options_from(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m web", description="API, event stream and pages. FLEETWARD_DATABASE and FLEETWARD_SECRETS say where."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0: one that is free")
    parser.add_argument("--tls", action="store_true", help="HTTPS, with web.crt and web.key of the secrets directory")
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Raises Misconfigured."""
    database = environment.get("FLEETWARD_DATABASE")
    if not database:
        raise Misconfigured(
            "say where the database is: FLEETWARD_DATABASE (or fleetward web --database), such as postgresql://fleetward@localhost/fleetward"
        )
    if not database.startswith(("postgres://", "postgresql://")):
        raise Misconfigured("FLEETWARD_DATABASE must begin with postgresql://")
    if not options.tls and not _loopback(options.host):
        raise Misconfigured(f"--host {options.host} is not this machine alone, so it needs --tls: tokens must not be overheard")
    secrets, wheels = environment.get("FLEETWARD_SECRETS"), environment.get("FLEETWARD_WHEELS")
    return Settings(
        database=database,
        secrets=Path(secrets) if secrets else None,
        mqtt=_advertised(environment.get("FLEETWARD_MQTT_ADVERTISE", f"localhost:{DEFAULT_MQTT_PORT}")),
        topic_root=environment.get("FLEETWARD_TOPIC_ROOT", "fleet"),
        tls=options.tls,
        grace=_grace(environment),
        wheels=Path(wheels) if wheels else None,
        replica=replica_number(environment),
        provider=Provider.read(environment),
    )


def _grace(environment: Mapping[str, str]) -> timedelta:
    try:
        return grace_of(environment)
    except ValueError as error:
        raise Misconfigured(str(error)) from None


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _advertised(text: str) -> tuple[str, int]:
    """`host:port`, with brackets around an IPv6 address."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536 or not host.strip("[]"):
        raise Misconfigured(f"FLEETWARD_MQTT_ADVERTISE must be HOST:PORT, not {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _address(options: argparse.Namespace, settings: Settings) -> Address:
    if not settings.tls:
        return Address(options.host, options.port)
    if settings.secrets is None:
        raise Misconfigured("--tls needs FLEETWARD_SECRETS, the directory with web.crt and web.key")
    certificate, key = settings.secrets / "web.crt", settings.secrets / "web.key"
    serving.check_tls(certificate, key)
    return Address(options.host, options.port, (certificate, key))


async def _run(settings: Settings, address: Address) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    answer_signal(asyncio.get_running_loop())
    heap.keep(asyncio.get_running_loop())
    try:
        bound = serving.listen(address)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise Misconfigured(f"{address.host} port {address.port}: {words}: choose another --host or --port") from error
    try:
        await _database(settings.database, stop)
        if not stop.is_set():
            await serving.serve(create_app(settings), address, bound, stop, lambda url: print(f"listening {url}", flush=True))
    finally:
        bound.close()


async def _database(url: str, stop: asyncio.Event) -> None:
    """Wait for it. Raises Unavailable when it does not come."""
    db = await Database.open(url, application="fleetward-web-start", pool_size=1)
    deadline = asyncio.get_running_loop().time() + DATABASE_WAIT_S
    try:
        while not stop.is_set():
            try:
                async with db.acquire() as connection:
                    await connection.execute("SELECT 1")
                return
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.2)
    finally:
        await db.close()


if __name__ == "__main__":
    main()
